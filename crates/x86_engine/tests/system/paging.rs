//! Paging in each mode as a table of cases: what each level's entry holds, an access, and where it goes or how it
//! faults (SDM volume 3, chapter 4).

use super::CODE;
use x86_arch::ExitReason;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, long_vcpu, protected_vcpu};
use x86_engine::side_by_side::SideBySide;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Bits32,
    Pae,
    Levels4,
    Levels5,
}
use Mode::*;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;
const PWU: u64 = P | W | U;
/// A page of data.
const PAGE: u64 = 0x5_0000;
/// The tables of the address under test; level n from the top is at `TABLE` + n * 0x1000.
const TABLE: u64 = 0x2_0000;
/// The code's own tables, at another top-level entry.
const CODE_TABLES: u64 = 0x1000;

const WP: u64 = 1 << 16;
const PSE: u64 = 1 << 4;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const PKE: u64 = 1 << 22;
const PKS: u64 = 1 << 24;

struct Case {
    what: &'static str,
    mode: Mode,
    /// Added to CR0 and CR4.
    cr0: u64,
    cr4: u64,
    nxe: bool,
    cpl: u8,
    /// PKRU or IA32_PKRS.
    keys: u32,
    linear: u64,
    /// From the top; the next table's address is added to all but the last.
    entries: &'static [u64],
    /// r, w or x.
    access: char,
    /// The physical address, or the page fault's error code.
    expect: Result<u64, u64>,
}

const fn case(
    what: &'static str,
    mode: Mode,
    entries: &'static [u64],
    access: char,
    expect: Result<u64, u64>,
) -> Case {
    let linear = match mode {
        Bits32 => 0x00C0_3123,
        Pae => 0x4060_3123,
        Levels4 => 0x80_4060_3123,
        Levels5 => 1 << 48 | 0x80_4060_3123,
    };
    Case {
        what,
        mode,
        cr0: WP,
        cr4: 0,
        nxe: true,
        cpl: 0,
        keys: 0,
        linear,
        entries,
        access,
        expect,
    }
}

const fn key(n: u64) -> u64 {
    n << 59
}

/// The vCPU, its code at `CODE`, and the tables of the case.
fn set_up(c: &Case) -> (FlatGuest, Vcpu) {
    let mut guest = FlatGuest::new(1 << 52);
    let mut vcpu = if matches!(c.mode, Levels4 | Levels5) {
        long_vcpu(&mut guest, CODE_TABLES, c.cpl)
    } else {
        protected_vcpu(c.cpl)
    };
    let user = if c.cpl == 3 { PWU } else { P | W };
    // Entry addresses of the case and of the code's top level.
    let top = CODE_TABLES;
    let mut at = vec![];
    match c.mode {
        Bits32 => {
            vcpu.regs.cr3 = top;
            guest.put(top, &(top as u32 + 0x1000 | user as u32).to_le_bytes());
            let pte = (CODE | user) as u32;
            guest.put(top + 0x1000 + (CODE >> 12) * 4, &pte.to_le_bytes());
            at.push(top + (c.linear >> 22) * 4);
            at.push(TABLE + 0x1000 + (c.linear >> 12 & 0x3FF) * 4);
        }
        Pae => {
            vcpu.regs.cr4 |= 1 << 5;
            vcpu.regs.pdpte = [top + 0x1000 | P, 0, 0, 0];
            guest.put_u64(top + 0x1000, PS | user);
            at.push(0);
            at.push(TABLE + 0x1000 + (c.linear >> 21 & 0x1FF) * 8);
            at.push(TABLE + 0x2000 + (c.linear >> 12 & 0x1FF) * 8);
        }
        Levels4 | Levels5 => {
            guest.put_u64(top, top + 0x1000 | PWU);
            guest.put_u64(top + 0x1000, PS | user);
            let mut shift = 39;
            if c.mode == Levels5 {
                vcpu.regs.cr4 |= 1 << 12;
                vcpu.regs.cr3 = 0x3000;
                guest.put_u64(0x3000, top | PWU);
                shift = 48;
            }
            at.push(vcpu.regs.cr3 + (c.linear >> shift & 0x1FF) * 8);
            while shift > 12 {
                shift -= 9;
                let table = TABLE + at.len() as u64 * 0x1000;
                at.push(table + (c.linear >> shift & 0x1FF) * 8);
            }
        }
    }
    for (n, &entry) in c.entries.iter().enumerate() {
        let last = n + 1 == c.entries.len();
        let next = TABLE + (n as u64 + 1) * 0x1000;
        let value = if last { entry } else { entry | next };
        match c.mode {
            Pae if n == 0 => vcpu.regs.pdpte[(c.linear >> 30) as usize] = value,
            Bits32 => guest.put(at[n], &(value as u32).to_le_bytes()),
            _ => guest.put_u64(at[n], value),
        }
    }
    vcpu.regs.cr0 = vcpu.regs.cr0 & !WP | 1 << 31 | c.cr0;
    vcpu.regs.cr4 |= c.cr4;
    vcpu.regs.msr.efer &= !(1 << 11);
    vcpu.regs.msr.efer |= u64::from(c.nxe) << 11;
    vcpu.regs.pkru = c.keys;
    vcpu.regs.msr.pkrs = u64::from(c.keys);
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[3] = c.linear;
    vcpu.regs.gpr[0] = 0xA5;
    vcpu.controls.exception_bitmap = u32::MAX;
    // mov al, [rbx] or mov [rbx], al or jmp rbx; then CPUID, which exits.
    guest.put(
        CODE,
        match c.access {
            'r' => &[0x8A, 0x03, 0x0F, 0xA2],
            'w' => &[0x88, 0x03, 0x0F, 0xA2],
            _ => &[0xFF, 0xE3],
        },
    );
    if let Ok(physical) = c.expect {
        guest.put(physical, &[0x0F, 0xA2]);
    }
    (guest, vcpu)
}

/// What the entry of the last level holds.
fn leaf(guest: &mut FlatGuest, c: &Case) -> u64 {
    let n = c.entries.len() as u64 - 1;
    let l = c.linear;
    let shift = match c.mode {
        Bits32 => 22 - 10 * n,
        Pae => 30 - 9 * n,
        Levels4 => 39 - 9 * n,
        Levels5 => 48 - 9 * n,
    };
    match c.mode {
        Bits32 if n == 0 => guest.get_u64(CODE_TABLES + (l >> 22) * 4) & 0xFFFF_FFFF,
        Bits32 => guest.get_u64(TABLE + 0x1000 + (l >> 12 & 0x3FF) * 4) & 0xFFFF_FFFF,
        _ => guest.get_u64(TABLE + n * 0x1000 + (l >> shift & 0x1FF) * 8),
    }
}

fn check(c: &Case) {
    let (mut guest, mut vcpu) = set_up(c);
    SideBySide::new().run(&mut vcpu, &mut guest, 100);
    let exit = vcpu.exit;
    let what = c.what;
    let before = *c.entries.last().expect("an entry");
    match c.expect {
        Ok(physical) => {
            assert_eq!(
                exit.basic_reason(),
                ExitReason::CPUID_INSTRUCTION,
                "{what}: {exit:x?}"
            );
            match c.access {
                'r' => assert_eq!(vcpu.regs.gpr[0] & 0xFF, 0x0F, "{what}"),
                'w' => assert_eq!(guest.get(physical, 1), [0xA5], "{what}"),
                _ => assert_eq!(vcpu.regs.rip, c.linear, "{what}"),
            }
            let flags = if c.access == 'w' { A | D } else { A };
            assert_eq!(leaf(&mut guest, c), before | flags, "{what}: A and D");
        }
        Err(error) => {
            assert_eq!(
                exit.basic_reason(),
                ExitReason::EXCEPTION_OR_NMI,
                "{what}: {exit:x?}"
            );
            assert_eq!(exit.interruption_info & 0xFF, 14, "{what}");
            assert_eq!(u64::from(exit.interruption_error), error, "{what}");
            assert_eq!(exit.qualification, c.linear, "{what}");
            if c.entries.len() > 1 {
                assert_eq!(leaf(&mut guest, c), before, "{what}: the leaf is left");
            }
        }
    }
}

#[test]
fn paging_with_32_bit_entries() {
    // SDM 4.3, 4.6, 4.7, 4.8
    let at = PAGE + 0x123;
    #[rustfmt::skip]
    let cases = [
        case("a 4 KiB page", Bits32, &[PWU, PAGE | PWU], 'r', Ok(at)),
        case("a write sets D", Bits32, &[PWU, PAGE | PWU], 'w', Ok(at)),
        case("a fetch", Bits32, &[PWU, PAGE | PWU], 'x', Ok(at)),
        case("no PDE", Bits32, &[0], 'r', Err(0)),
        case("no PTE", Bits32, &[PWU, 0], 'w', Err(2)),
        case("no fetch bit without PAE", Bits32, &[PWU, 0], 'x', Err(0)),
        Case { cr4: SMEP, ..case("SMEP tells of fetches", Bits32, &[PWU, 0], 'x', Err(0x10)) },
        case("read-only PTE and WP", Bits32, &[PWU, PAGE | P], 'w', Err(3)),
        case("read-only PDE and WP", Bits32, &[P, PAGE | PWU], 'w', Err(3)),
        Case { cr0: 0, ..case("without WP ring 0 writes", Bits32, &[P, PAGE | P], 'w', Ok(at)) },
        Case { cpl: 3, cr0: 0, ..case("ring 3 does not", Bits32, &[PWU, PAGE | P | U], 'w', Err(7)) },
        Case { cpl: 3, ..case("supervisor PDE", Bits32, &[P | W, PAGE | PWU], 'r', Err(5)) },
        Case { cr4: PSE, ..case("a 4 MiB page", Bits32, &[0x0100_0000 | PS | PWU], 'r', Ok(0x0100_3123)) },
        Case { cr4: PSE, ..case("its D flag", Bits32, &[0x0100_0000 | PS | G | PWU], 'w', Ok(0x0100_3123)) },
        Case { cr4: PSE, ..case("address bits 39:32", Bits32, &[0x0100_0000 | 0xA5 << 13 | PS | PWU], 'r', Ok(0xA5_0100_3123)) },
        Case { cr4: PSE, ..case("bit 21 is reserved", Bits32, &[1 << 21 | PS | PWU], 'r', Err(9)) },
        Case { cr4: PSE, ..case("read-only 4 MiB page", Bits32, &[0x0100_0000 | PS | P], 'w', Err(3)) },
        case("PS is ignored without PSE", Bits32, &[PS | PWU, PAGE | PWU], 'r', Ok(at)),
        Case { cr4: SMAP, ..case("SMAP", Bits32, &[PWU, PAGE | PWU], 'r', Err(1)) },
        Case { cr4: PKE, keys: u32::MAX, ..case("no keys here", Bits32, &[PWU, PAGE | PWU], 'w', Ok(at)) },
    ];
    cases.iter().for_each(check);
}

#[test]
fn pae_paging() {
    // SDM 4.4, 4.6, 4.7
    let at = PAGE + 0x123;
    #[rustfmt::skip]
    let cases = [
        case("a 4 KiB page", Pae, &[P, PWU, PAGE | PWU], 'w', Ok(at)),
        case("above 4 GiB", Pae, &[P, PWU, 0x12_3450_0000 | PWU], 'r', Ok(0x12_3450_0123)),
        case("a 2 MiB page", Pae, &[P, 0x1_4060_0000 | PS | PWU], 'w', Ok(0x1_4060_3123)),
        case("no PDPTE", Pae, &[0], 'r', Err(0)),
        case("no PDE", Pae, &[P, 0], 'w', Err(2)),
        case("a fetch with NXE", Pae, &[P, PWU, 0], 'x', Err(0x10)),
        Case { nxe: false, ..case("a fetch without", Pae, &[P, PWU, 0], 'x', Err(0)) },
        case("execute-disable", Pae, &[P, NX | PWU, PAGE | PWU], 'x', Err(0x11)),
        case("execute-disable lets reads be", Pae, &[P, PWU, NX | PAGE | PWU], 'r', Ok(at)),
        Case { nxe: false, ..case("bit 63 without NXE", Pae, &[P, PWU, NX | PAGE | PWU], 'r', Err(9)) },
        case("bits 62:52 are reserved", Pae, &[P, PWU, 1 << 52 | PAGE | PWU], 'r', Err(9)),
        case("in a PDE too", Pae, &[P, 1 << 62 | PWU, PAGE | PWU], 'w', Err(0xB)),
        case("bits 20:13 of a 2 MiB page", Pae, &[P, 1 << 13 | PS | PWU], 'r', Err(9)),
        Case { cpl: 3, ..case("the PDPTE has no U/S", Pae, &[P, PWU, PAGE | PWU], 'w', Ok(at)) },
        Case { cpl: 3, ..case("supervisor PTE", Pae, &[P, PWU, PAGE | P | W], 'r', Err(5)) },
        Case { cr4: SMEP, ..case("SMEP", Pae, &[P, PWU, PAGE | PWU], 'x', Err(0x11)) },
    ];
    cases.iter().for_each(check);
}

#[test]
fn four_and_five_level_paging() {
    // SDM 4.5
    let at = PAGE + 0x123;
    #[rustfmt::skip]
    let cases = [
        case("4 levels", Levels4, &[PWU, PWU, PWU, PAGE | PWU], 'w', Ok(at)),
        case("1 GiB page", Levels4, &[PWU, 0x40_0000_0000 | PS | PWU], 'r', Ok(0x40_0060_3123)),
        case("its reserved bits", Levels4, &[PWU, 1 << 29 | PS | PWU], 'r', Err(9)),
        case("5 levels", Levels5, &[PWU, PWU, PWU, PWU, PAGE | PWU], 'w', Ok(at)),
        case("5 levels, fetch", Levels5, &[PWU, PWU, PWU, PWU, PAGE | PWU], 'x', Ok(at)),
        case("5 levels, 2 MiB", Levels5, &[PWU, PWU, PWU, 0x80_0000 | PS | PWU], 'r', Ok(0x80_3123)),
        case("5 levels, 1 GiB", Levels5, &[PWU, PWU, 0x4000_0000 | PS | PWU], 'r', Ok(0x4060_3123)),
        case("no PML5E", Levels5, &[0], 'r', Err(0)),
        case("PS in a PML5E", Levels5, &[PS | PWU, PWU], 'r', Err(9)),
        case("PS in a PML4E", Levels5, &[PWU, PS | PWU], 'w', Err(0xB)),
        case("NX in a PML5E", Levels5, &[NX | PWU, PWU, PWU, PWU, PAGE | PWU], 'x', Err(0x11)),
        case("read-only PML5E", Levels5, &[P, PWU, PWU, PWU, PAGE | PWU], 'w', Err(3)),
        Case { cpl: 3, ..case("supervisor PML5E", Levels5, &[P | W, PWU, PWU, PWU, PAGE | PWU], 'r', Err(5)) },
        Case { linear: 0xFF80_0000_0000_0123, ..case("the upper half", Levels5, &[PWU, PWU, PWU, PWU, PAGE | PWU], 'r', Ok(at)) },
    ];
    cases.iter().for_each(check);
}

#[test]
fn an_address_of_57_bits_is_canonical_with_la57_alone() {
    // SDM 3.3.7.1, 4.5.1
    for (mode, vector) in [(Levels4, 13), (Levels5, 14)] {
        let c = Case {
            linear: 1 << 55 | 1 << 39,
            ..case("", mode, &[0], 'r', Err(0))
        };
        let (mut guest, mut vcpu) = set_up(&c);
        SideBySide::new().run(&mut vcpu, &mut guest, 100);
        // Bit 55 is within 57 bits, beyond 48.
        assert_eq!(vcpu.exit.interruption_info & 0xFF, vector, "{mode:?}");
    }
    let c = Case {
        linear: 1 << 56,
        ..case("", Levels5, &[0], 'r', Err(0))
    };
    let (mut guest, mut vcpu) = set_up(&c);
    SideBySide::new().run(&mut vcpu, &mut guest, 100);
    assert_eq!(vcpu.exit.interruption_info & 0xFF, 13);
}

#[test]
fn protection_keys() {
    // SDM 4.6.2, 4.7: key 2's access-disable is bit 4, its write-disable bit 5
    const USER: &[u64] = &[PWU, PWU, PWU, PAGE | PWU | key(2)];
    const KERNEL: &[u64] = &[PWU, PWU, PWU, PAGE | P | W | key(2)];
    const READ_ONLY: &[u64] = &[PWU, PWU, PWU, PAGE | P | U | key(2)];
    const KEY_15: &[u64] = &[PWU, PWU, PWU, PAGE | PWU | key(15)];
    const LARGE: &[u64] = &[PWU, PWU, 0x80_0000 | PS | PWU | key(2)];
    let (ad, wd) = (1 << 4, 1 << 5);
    let at = PAGE + 0x123;
    #[rustfmt::skip]
    let cases = [
        Case { cpl: 3, cr4: PKE, keys: ad, ..case("AD, read", Levels4, USER, 'r', Err(0x25)) },
        Case { cpl: 3, cr4: PKE, keys: ad, ..case("AD, write", Levels4, USER, 'w', Err(0x27)) },
        Case { cpl: 3, cr4: PKE, keys: ad, ..case("AD, fetch", Levels4, USER, 'x', Ok(at)) },
        Case { cpl: 3, cr4: PKE, keys: wd, ..case("WD, read", Levels4, USER, 'r', Ok(at)) },
        Case { cpl: 3, cr4: PKE, keys: wd, ..case("WD, write", Levels4, USER, 'w', Err(0x27)) },
        Case { cpl: 3, cr4: PKE, keys: !ad, ..case("other keys, read", Levels4, USER, 'r', Ok(at)) },
        Case { cpl: 3, cr4: PKE, keys: 1 << 30, ..case("key 15", Levels4, KEY_15, 'r', Err(0x25)) },
        Case { cpl: 3, cr4: 0, keys: u32::MAX, ..case("PKE off", Levels4, USER, 'w', Ok(at)) },
        Case { cr4: PKE, keys: ad, ..case("ring 0 on a user page", Levels4, USER, 'r', Err(0x21)) },
        Case { cr4: PKE, keys: wd, ..case("ring 0, WD, WP", Levels4, USER, 'w', Err(0x23)) },
        Case { cr4: PKE, keys: wd, cr0: 0, ..case("ring 0, WD, no WP", Levels4, USER, 'w', Ok(at)) },
        Case { cr4: PKE, keys: u32::MAX, ..case("PKRU and a supervisor page", Levels4, KERNEL, 'w', Ok(at)) },
        Case { cr4: PKS, keys: ad, ..case("PKS, AD", Levels4, KERNEL, 'r', Err(0x21)) },
        Case { cr4: PKS, keys: wd, ..case("PKS, WD", Levels4, KERNEL, 'w', Err(0x23)) },
        Case { cr4: PKS, keys: wd, cr0: 0, ..case("PKS, WD, no WP", Levels4, KERNEL, 'w', Ok(at)) },
        Case { cr4: PKS, keys: ad, ..case("PKS, fetch", Levels4, KERNEL, 'x', Ok(at)) },
        Case { cr4: PKS, keys: u32::MAX, ..case("PKS and a user page", Levels4, USER, 'w', Ok(at)) },
        Case { cpl: 3, cr4: PKE, keys: wd, ..case("both refuse", Levels4, READ_ONLY, 'w', Err(0x27)) },
        Case { cpl: 3, cr4: PKE, keys: ad, ..case("a 2 MiB page's key", Levels4, LARGE, 'r', Err(0x25)) },
    ];
    cases.iter().for_each(check);
}

/// The exit of a run in ring 0: true for the CPUID that ends the code, else a #GP's error code.
fn ends(guest: &mut FlatGuest, vcpu: &mut Vcpu, code: &[u8]) -> Result<(), u32> {
    guest.put(CODE, code);
    vcpu.regs.rip = CODE;
    SideBySide::new().run(vcpu, guest, 100);
    if vcpu.exit.basic_reason() == ExitReason::CPUID_INSTRUCTION {
        return Ok(());
    }
    assert_eq!(vcpu.exit.interruption_info & 0xFF, 13, "{:x?}", vcpu.exit);
    Err(vcpu.exit.interruption_error)
}

#[test]
fn mov_to_cr3_checks_and_loads_the_pdptes_of_pae_paging() {
    // SDM 4.4.1
    let c = case("", Pae, &[P, PWU, PAGE | PWU], 'r', Ok(PAGE));
    for (pdpte, expect) in [(0x6_0000, Ok(())), (2, Ok(())), (P, Ok(()))]
        .into_iter()
        .chain([(P | W, Err(0)), (P | U, Err(0)), (P | 1 << 5, Err(0))])
        .chain([
            (P | 1 << 8, Err(0)),
            (P | 1 << 52, Err(0)),
            (P | NX, Err(0)),
        ])
    {
        let (mut guest, mut vcpu) = set_up(&c);
        let old = vcpu.regs.pdpte;
        // Not page aligned: 32 bytes are enough.
        guest.put_u64(0x7020, old[0]);
        guest.put_u64(0x7038, pdpte);
        vcpu.regs.gpr[0] = 0x7020;
        // mov cr3, eax; cpuid
        let end = ends(&mut guest, &mut vcpu, &[0x0F, 0x22, 0xD8, 0x0F, 0xA2]);
        assert_eq!(end, expect, "{pdpte:#x}");
        let now = if expect.is_ok() {
            [old[0], 0, 0, pdpte]
        } else {
            old
        };
        assert_eq!(vcpu.regs.pdpte, now, "{pdpte:#x}");
    }
}

#[test]
fn a_change_of_cd_loads_the_pdptes_as_well() {
    // SDM 4.4.1
    let c = case("", Pae, &[P, PWU, PAGE | PWU], 'r', Ok(PAGE));
    for (last, expect) in [(P | 0x6_0000, Ok(())), (P | W, Err(0))] {
        let (mut guest, mut vcpu) = set_up(&c);
        let old = vcpu.regs.pdpte;
        vcpu.regs.cr3 = 0x7000;
        guest.put_u64(0x7000, old[0]);
        guest.put_u64(0x7018, last);
        vcpu.regs.gpr[0] = vcpu.regs.cr0 | 1 << 30;
        // mov cr0, eax; cpuid
        let end = ends(&mut guest, &mut vcpu, &[0x0F, 0x22, 0xC0, 0x0F, 0xA2]);
        assert_eq!(end, expect);
        let now = if expect.is_ok() {
            [old[0], 0, 0, last]
        } else {
            old
        };
        assert_eq!(vcpu.regs.pdpte, now);
    }
}

/// What a read gives that uses the changed translation, and the one from before.
const NEW: u64 = 2;
const OLD: u64 = 1;

/// What a read in PCID 1 gives after its leaf was changed and the code `middle` ran.
fn after_change(leaf_flags: u64, cr4: u64, middle: &[u8]) -> Result<u64, u32> {
    let c = Case {
        cr4: 1 << 17 | cr4,
        linear: 0x80_0000_0000,
        ..case("", Levels4, &[PWU, PWU, PWU, PAGE | PWU], 'r', Ok(PAGE))
    };
    let (mut guest, mut vcpu) = set_up(&c);
    vcpu.regs.cr3 |= 1;
    guest.put(PAGE, &[OLD as u8]);
    guest.put(PAGE + 0x1000, &[NEW as u8]);
    let leaf = TABLE + 0x3000;
    guest.put_u64(leaf, PAGE | PWU | leaf_flags);
    // A descriptor for INVPCID at 0x5_8000: PCID 1, the address.
    guest.put_u64(0x5_8000, 1);
    guest.put_u64(0x5_8008, c.linear);
    // The code writes the leaf at its physical address: the low GiB is mapped to itself.
    let regs = &mut vcpu.regs.gpr;
    regs[6] = leaf;
    regs[7] = PAGE + 0x1000 | PWU | leaf_flags;
    regs[8] = vcpu.regs.cr3;
    regs[9] = vcpu.regs.cr3 & !0xFFF | 2;
    regs[10] = 1 << 63;
    regs[11] = 0x5_8000;
    let mut code = vec![0x8A, 0x03]; // mov al, [rbx]
    code.extend([0x48, 0x89, 0x3E]); // mov [rsi], rdi
    code.extend(middle);
    code.extend([0x8A, 0x03, 0x0F, 0xA2]); // mov al, [rbx]; cpuid
    ends(&mut guest, &mut vcpu, &code)?;
    Ok(vcpu.regs.gpr[0] & 0xFF)
}

#[test]
fn translations_live_until_the_manual_says_they_die() {
    // SDM 4.10.4.1
    const PGE: u64 = 1 << 7;
    const INVLPG: &[u8] = &[0x0F, 0x01, 0x3B]; // [rbx]
    const TO_1: &[u8] = &[0x41, 0x0F, 0x22, 0xD8]; // mov cr3, r8
    const TO_2: &[u8] = &[0x41, 0x0F, 0x22, 0xD9]; // mov cr3, r9
    const KEEP: &[u8] = &[0x4D, 0x09, 0xD0]; // or r8, r10
    const CR4_PGE: &[u8] = &[
        0x0F, 0x20, 0xE0, 0x34, 0x80, 0x0F, 0x22,
        0xE0, // mov eax, cr4; xor al, 0x80; mov cr4, rax
    ];
    let invpcid = |kind: u8| {
        let mut code = vec![0xB8, kind, 0, 0, 0]; // mov eax, kind
        code.extend([0x66, 0x41, 0x0F, 0x38, 0x82, 0x03]); // invpcid rax, [r11]
        code
    };
    let rows: [(&str, u64, u64, Vec<u8>, u64); 12] = [
        ("nothing", 0, 0, vec![], OLD),
        ("INVLPG", 0, 0, INVLPG.to_vec(), NEW),
        ("INVLPG of a global page", G, PGE, INVLPG.to_vec(), NEW),
        ("MOV to CR3", 0, 0, TO_1.to_vec(), NEW),
        ("MOV to CR3, bit 63", 0, 0, [KEEP, TO_1].concat(), OLD),
        (
            "there and back, bit 63",
            0,
            0,
            [TO_2, KEEP, TO_1].concat(),
            OLD,
        ),
        ("another PCID", 0, 0, TO_2.to_vec(), NEW),
        ("CR4.PGE", G, PGE, CR4_PGE.to_vec(), NEW),
        ("INVPCID 0", 0, 0, invpcid(0), NEW),
        ("INVPCID 1", 0, 0, invpcid(1), NEW),
        ("INVPCID 2", G, PGE, invpcid(2), NEW),
        ("INVPCID 3", 0, 0, invpcid(3), NEW),
    ];
    for (what, leaf, cr4, middle, expect) in rows {
        assert_eq!(after_change(leaf, cr4, &middle), Ok(expect), "{what}");
    }
}

#[test]
fn pcide_and_bit_63_of_cr3_have_conditions() {
    // SDM 4.10.1, MOV to control registers
    let c = case("", Levels4, &[PWU, PWU, PWU, PAGE | PWU], 'r', Ok(PAGE));
    let run = |cr3: u64, cr4: u64, rax: u64, code: &[u8]| {
        let (mut guest, mut vcpu) = set_up(&c);
        vcpu.regs.cr3 |= cr3;
        vcpu.regs.cr4 |= cr4;
        vcpu.regs.gpr[0] = rax | vcpu.regs.cr3;
        vcpu.regs.gpr[1] = vcpu.regs.cr4 ^ 1 << 17;
        ends(&mut guest, &mut vcpu, code).map(|()| vcpu.regs.cr3)
    };
    let (cr3, cr4) = (
        [0x0F, 0x22, 0xD8, 0x0F, 0xA2],
        [0x0F, 0x22, 0xE1, 0x0F, 0xA2],
    );
    let pcide = 1 << 17;
    assert_eq!(run(0, 0, 1 << 63, &cr3), Err(0));
    assert_eq!(run(0, pcide, 1 << 63, &cr3), Ok(CODE_TABLES));
    assert_eq!(run(0, pcide, 1 << 52, &cr3), Err(0));
    assert_eq!(run(0, 0, 0, &cr4), Ok(CODE_TABLES));
    assert_eq!(run(8, 0, 0, &cr4), Err(0));
    // Outside IA-32e mode PCIDE cannot be set.
    let c = case("", Pae, &[P, PWU, PAGE | PWU], 'r', Ok(PAGE));
    let (mut guest, mut vcpu) = set_up(&c);
    vcpu.regs.gpr[1] = vcpu.regs.cr4 | pcide;
    assert_eq!(ends(&mut guest, &mut vcpu, &cr4), Err(0));
}
