//! What accesses with the wrong key show.

use tdx_machine::{MachineCheck, Memory};
use x86_arch::{Hkid, Hpa, KeyedHpa, RamPage};

const HOST: Hkid = Hkid(0);
const TD: Hkid = Hkid(33);
const OTHER_TD: Hkid = Hkid(34);
const PAGE: u64 = 0x5000;

fn at(offset: u64, hkid: Hkid) -> KeyedHpa {
    KeyedHpa::new(Hpa::new(PAGE + offset), hkid)
}

/// One package of 1 MiB with a page that the TD's key wrote all over.
fn with_private_page() -> Memory {
    let memory = Memory::new(vec![1 << 20], 64, 32..=63);
    memory.program_key(0, TD);
    memory.program_key(0, OTHER_TD);
    memory.write_direct(at(0, TD), &[0x5A; 4096]);
    memory
}

fn read(memory: &Memory, offset: u64, hkid: Hkid) -> Result<u64, MachineCheck> {
    let mut bytes = [0; 8];
    memory.read(at(offset, hkid), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[test]
fn the_host_never_reads_private_plaintext() {
    let memory = with_private_page();
    assert_eq!(read(&memory, 8, TD), Ok(0x5A5A_5A5A_5A5A_5A5A));
    assert_eq!(read(&memory, 8, HOST), Ok(0));
    assert_eq!(read(&memory, 8, Hkid(5)), Ok(0), "another shared key");
    assert_eq!(
        read(&memory, 8, TD),
        Ok(0x5A5A_5A5A_5A5A_5A5A),
        "reading harms nothing"
    );
}

#[test]
fn a_host_write_is_the_tds_machine_check_until_a_direct_store_heals_the_line() {
    let memory = with_private_page();
    memory.write(at(64, HOST), &[1]).expect("a host write");
    assert_eq!(
        read(&memory, 0, TD),
        Ok(0x5A5A_5A5A_5A5A_5A5A),
        "the next line is whole"
    );
    assert_eq!(
        read(&memory, 72, TD),
        Err(MachineCheck(Hpa::new(PAGE + 64)))
    );
    assert_eq!(
        read(&memory, 72, HOST),
        Err(MachineCheck(Hpa::new(PAGE + 64))),
        "poison is for all"
    );
    assert_eq!(
        memory.write(at(64, TD), &[1; 64]),
        Err(MachineCheck(Hpa::new(PAGE + 64)))
    );
    memory.write_direct(at(64, TD), &[7; 64]);
    assert_eq!(read(&memory, 72, TD), Ok(0x0707_0707_0707_0707));
}

#[test]
fn a_bad_page_is_everybodys_machine_check_until_direct_stores_replace_it() {
    let memory = with_private_page();
    memory.poison_page(Hpa::new(PAGE));
    for (offset, hkid) in [(0, TD), (8, HOST), (4088, OTHER_TD)] {
        let line = offset & !63;
        let bad = Err(MachineCheck(Hpa::new(PAGE + line)));
        assert_eq!(read(&memory, offset, hkid), bad);
    }
    memory.write_direct(at(0, HOST), &[7; 4096]);
    assert_eq!(read(&memory, 4088, HOST), Ok(0x0707_0707_0707_0707));
}

#[test]
fn another_tds_key_is_a_machine_check() {
    let memory = with_private_page();
    assert_eq!(
        read(&memory, 0, OTHER_TD),
        Err(MachineCheck(Hpa::new(PAGE)))
    );
}

#[test]
fn a_reprogrammed_key_id_no_longer_reads_what_the_old_key_wrote() {
    let memory = with_private_page();
    memory.program_key(0, TD);
    assert_eq!(read(&memory, 0, TD), Err(MachineCheck(Hpa::new(PAGE))));
}

#[test]
fn dirty_private_lines_swallow_host_writes_until_they_are_written_back() {
    let memory = with_private_page();
    memory
        .write(at(0, TD), &[0x11; 64])
        .expect("a private write");
    memory.write_direct(at(0, HOST), &[0; 4096]);
    memory
        .write(at(0, HOST), &[0x22; 64])
        .expect("lost, not refused");
    assert_eq!(read(&memory, 0, HOST), Ok(0), "the host's bytes are gone");
    assert_eq!(read(&memory, 0, TD), Ok(0x1111_1111_1111_1111));

    memory.flush_page(at(0, OTHER_TD));
    memory
        .write(at(0, HOST), &[0x22; 64])
        .expect("lost, not refused");
    assert_eq!(read(&memory, 0, HOST), Ok(0), "that was the wrong key");

    memory.flush_page(at(0, TD));
    memory.write_direct(at(0, HOST), &[0; 4096]);
    memory
        .write(at(0, HOST), &[0x22; 64])
        .expect("a host write");
    assert_eq!(read(&memory, 0, HOST), Ok(0x2222_2222_2222_2222));
}

#[test]
fn a_cache_write_back_works_by_package_and_part() {
    let memory = Memory::new(vec![1 << 20, 2 << 20], 64, 32..=63);
    let page = |n: u64, hkid| KeyedHpa::new(Hpa::new(n * 4096), hkid);
    let lost = |n| {
        memory.write_direct(page(n, HOST), &[3; 64]);
        let mut byte = [0];
        memory.read(page(n, HOST), &mut byte).expect("host memory");
        byte != [3]
    };
    for n in [4, 5, 256] {
        memory.write_direct(page(n, TD), &[1; 4096]);
        memory.write(page(n, TD), &[1]).expect("a private write");
    }
    memory.write_back(0, 0, 2);
    assert_eq!([lost(4), lost(5), lost(256)], [false, true, true]);
    memory.write_back(0, 1, 2);
    memory.write_back(1, 0, 2);
    assert_eq!([lost(4), lost(5), lost(256)], [false, false, false]);
}

#[test]
fn keys_are_programmed_package_by_package() {
    let memory = Memory::new(vec![1 << 20, 2 << 20], 64, 32..=63);
    let far = KeyedHpa::new(Hpa::new(1 << 20), TD);
    memory.write_direct(at(0, TD), &[1; 64]);
    memory.write_direct(far, &[1; 64]);
    memory.program_key(1, TD);
    assert_eq!(read(&memory, 0, TD), Ok(0x0101_0101_0101_0101));
    assert_eq!(
        memory.read(far, &mut [0]),
        Err(MachineCheck(Hpa::new(1 << 20)))
    );
}

#[test]
fn a_handle_is_given_for_plain_pages_only_and_revoked_with_them() {
    let memory = with_private_page();
    assert!(memory.page(at(0, HOST)).is_none());
    let page = memory.page(at(0, TD)).expect("the TD's own page");
    page.store_u64(8, 42);
    assert_eq!(read(&memory, 8, TD), Ok(42));
    let before = memory.revoked();
    memory.flush_page(at(0, TD));
    memory.write(at(0, HOST), &[1]).expect("a host write");
    assert_ne!(memory.revoked(), before);
    assert!(memory.page(at(0, TD)).is_none(), "its lines differ now");
}

#[test]
fn memory_ends_and_says_so() {
    let memory = Memory::new(vec![1 << 20], 64, 32..=63);
    let end = KeyedHpa::new(Hpa::new((1 << 20) - 4), HOST);
    memory.write(end, &[1; 8]).expect("half of it vanishes");
    let mut bytes = [0; 8];
    memory.read(end, &mut bytes).expect("host memory");
    assert_eq!(bytes, [1, 1, 1, 1, 0xFF, 0xFF, 0xFF, 0xFF]);
}

/// Resident memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|n| n.parse().ok());
    pages.expect("a number") * 4096
}

#[test]
fn accepted_pages_that_nobody_writes_cost_the_host_no_memory() {
    let memory = Memory::new(vec![1 << 30], 64, 32..=63);
    let page = |i: u64| KeyedHpa::new(Hpa::new(i * 4096), TD);
    let before = resident();
    for i in 0..1 << 18 {
        memory.write_direct(page(i), &[0; 4096]);
    }
    let grown = resident() - before;
    assert!(grown < 64 << 20, "{grown} bytes for 1 GiB of zeros");
    let mut bytes = [1; 64];
    memory
        .read(page(0x1234), &mut bytes)
        .expect("the TD's page");
    assert_eq!(bytes, [0; 64]);
    memory.write_direct(page(7), &[9; 4096]);
    memory.write_direct(page(7), &[0; 4096]);
    memory.read(page(7), &mut bytes).expect("the TD's page");
    assert_eq!(bytes, [0; 64], "zeros over other bytes are written");
}

/// A copy in one pass shows what reading and full-line stores show, whatever the two pages are.
#[test]
fn copying_a_page_is_reading_it_and_writing_it_directly() {
    const TARGET: u64 = 0x9000;
    let to = |hkid| KeyedHpa::new(Hpa::new(TARGET), hkid);
    type Prepare = fn(&Memory);
    let cases: [(&str, Prepare, Hkid, Hkid); 7] = [
        (
            "the host's page",
            |m| m.write(at(7, HOST), &[3; 99]).unwrap(),
            HOST,
            TD,
        ),
        ("a page never written", |_| {}, HOST, TD),
        (
            "a private page",
            |m| m.write_direct(at(0, TD), &[9; 4096]),
            TD,
            TD,
        ),
        (
            "a private page by the host",
            |m| m.write_direct(at(0, TD), &[9; 4096]),
            HOST,
            TD,
        ),
        (
            "a private page by another TD",
            |m| m.write_direct(at(0, TD), &[9; 4096]),
            OTHER_TD,
            TD,
        ),
        (
            "over another key's dirty lines",
            |m| {
                m.write(at(0, HOST), &[7; 64]).unwrap();
                let over = KeyedHpa::new(Hpa::new(TARGET), OTHER_TD);
                m.write(over, &[1]).unwrap_err();
                m.write_direct(over, &[1; 4096]);
                m.write(over, &[2]).unwrap();
            },
            HOST,
            TD,
        ),
        (
            "another shared key",
            |m| m.write(at(7, HOST), &[3; 99]).unwrap(),
            Hkid(5),
            HOST,
        ),
    ];
    for (name, prepare, from_key, to_key) in cases {
        let seen = |copy: &dyn Fn(&Memory) -> Result<(), MachineCheck>| {
            let memory = Memory::new(vec![1 << 20], 64, 32..=63);
            for hkid in [TD, OTHER_TD, Hkid(5)] {
                memory.program_key(0, hkid);
            }
            prepare(&memory);
            let copied = copy(&memory);
            let mut shown = Vec::new();
            for hkid in [TD, OTHER_TD, HOST] {
                memory.flush_page(to(hkid));
                let mut bytes = [0; 4096];
                let read = memory.read(to(hkid), &mut bytes);
                shown.push((read, bytes));
                if read.is_err() {
                    break;
                }
            }
            (copied, shown)
        };
        let at_once = seen(&|memory| memory.copy_page(at(0, from_key), to(to_key)));
        let in_steps = seen(&|memory| {
            let mut bytes = [0; 4096];
            memory.read(at(0, from_key), &mut bytes)?;
            memory.write_direct(to(to_key), &bytes);
            Ok(())
        });
        assert!(at_once == in_steps, "{name}");
    }
}

/// Clearing a page shows what full-line stores of zeros show, whatever the page was.
#[test]
fn clearing_a_page_is_storing_zeros_directly() {
    type Prepare = fn(&Memory);
    let cases: [(&str, Prepare); 6] = [
        ("a page never written", |_| {}),
        ("the host's", |m| m.write(at(7, HOST), &[3; 99]).unwrap()),
        ("the TD's, written back", |m| {
            m.write_direct(at(0, TD), &[9; 4096]);
            m.flush_page(at(0, TD));
        }),
        ("another key's dirty lines over it", |m| {
            m.write_direct(at(0, OTHER_TD), &[9; 4096]);
            m.write(at(64, OTHER_TD), &[1]).unwrap();
        }),
        ("poisoned", |m| m.poison_page(Hpa::new(PAGE))),
        ("lines of two keys", |m| {
            m.write_direct(at(64, TD), &[9; 64]);
        }),
    ];
    for (name, prepare) in cases {
        for key in [HOST, TD] {
            let seen = |clear: &dyn Fn(&Memory)| {
                let memory = Memory::new(vec![1 << 20], 64, 32..=63);
                for hkid in [TD, OTHER_TD] {
                    memory.program_key(0, hkid);
                }
                prepare(&memory);
                let handed_out = memory.page(at(0, TD)).is_some();
                let revoked = memory.revoked();
                clear(&memory);
                let mut bytes = [1; 4096];
                let read = memory.read(at(0, key), &mut bytes);
                let kept = memory.revoked() == revoked;
                (
                    handed_out,
                    kept,
                    read,
                    bytes,
                    memory.page(at(0, key)).is_some(),
                )
            };
            let at_once = seen(&|memory| memory.clear_page(at(0, key)));
            let in_steps = seen(&|memory| memory.write_direct(at(0, key), &[0; 4096]));
            assert!(at_once == in_steps, "{name}, key ID {}", key.0);
        }
    }
}
