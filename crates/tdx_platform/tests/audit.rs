//! What the module's audit sees of the machine: keys of memory, and the translations that processors hold.

mod life;

use life::{Bench, MIB};
use tdx_host::{MemRegion, Td, TdConfig, Vcpu};
use tdx_module::audit::Violation;
use tdx_module::{CachedTranslation, LpId, Machine};
use tdx_platform::Guests;
use x86_arch::{Gpa, Hkid, Hpa, KeyedHpa};

/// Where a vCPU starts: the last 16 bytes below 4 GiB.
const RESET: u64 = 0xFFFF_F000;
const LP: LpId = LpId(0);

/// A TD that runs for ever, and was interrupted once.
fn interrupted_td(bench: &mut Bench) -> (Td, Vcpu) {
    let td = bench.td(TdConfig::default());
    td.add_ram(RESET..1 << 32).expect("RAM");
    let mut vcpu = bench.vcpu(&td);
    let mut code = [0; 4096];
    code[0xFF0..0xFF2].copy_from_slice(&[0xEB, 0xFE]); // jmp to itself
    let mut region = MemRegion::new(Gpa::new(RESET), 4096, &code, true).expect("a page");
    let lp = &mut bench.lps[0].seam;
    td.init_mem_region(&bench.host, lp, &mut region, u64::MAX)
        .expect("the page is added");
    td.finalize(lp).expect("finalized");
    let hardware = bench.platform.hardware();
    hardware.arm_timer(0, hardware.time() + 1000);
    vcpu.enter(lp, 0, 0).expect("an entry that the timer ends");
    (td, vcpu)
}

fn cached(bench: &Bench) -> Vec<CachedTranslation> {
    bench.platform.module().machine().cached_translations(LP)
}

#[test]
fn the_audit_is_told_of_what_a_guest_left_in_the_engine_until_it_is_dropped() {
    let mut bench = Bench::new(1, 1, 64 * MIB, Guests::engine(1));
    let (td, mut vcpu) = interrupted_td(&mut bench);
    let key = Hkid(td.hkid().0);
    let code = cached(&bench)
        .into_iter()
        .find(|entry| entry.gpa == Some(Gpa::new(RESET)))
        .expect("the second-level translation of the guest's code");
    assert_eq!((code.vpid, code.page.hkid), (key.0 << 2, key));
    let fetched = |entry: &CachedTranslation| entry.gpa.is_none() && entry.page == code.page;
    assert!(cached(&bench).iter().any(fetched), "a linear translation");
    assert_eq!(bench.platform.module().audit(), []);
    vcpu.leave_lp(&mut bench.lps[0].seam).expect("VP.FLUSH");
    assert_eq!(cached(&bench), []);
    td.destroy(&bench.host, &mut bench.lps, vec![vcpu])
        .expect("teardown");
}

#[test]
fn what_seam_mode_writes_to_a_td_in_the_clear_is_found_and_a_hosts_own_writes_are_not() {
    let mut bench = Bench::new(1, 1, 64 * MIB, Guests::engine(1));
    let (td, vcpu) = interrupted_td(&mut bench);
    let page = cached(&bench)
        .into_iter()
        .find_map(|entry| entry.gpa.map(|_| entry.page.hpa))
        .expect("the guest's code");
    let hardware = bench.platform.hardware().clone();
    hardware
        .memory
        .flush_page(KeyedHpa::new(page, Hkid(td.hkid().0)));
    let line = KeyedHpa::new(Hpa::new(page.raw() + 64), Hkid(0));
    hardware.memory.write_direct(line, &[0x5A; 64]);
    hardware.memory.note_seam_write(line, 64);
    assert_eq!(
        bench.platform.module().audit(),
        [Violation::Exposed(page)],
        "the module's own line"
    );
    hardware.memory.write_direct(line, &[0x5A; 64]);
    assert_eq!(bench.platform.module().audit(), [], "the host's line");
    td.destroy(&bench.host, &mut bench.lps, vec![vcpu])
        .expect("teardown");
}
