//! Call gates in IA-32e and in protected mode (SDM volume 3, 5.8.3 to 5.8.5; volume 2, CALL and JMP).

use super::{CODE, GDT, STACK, STACK0, TSS, guest};
use x86_arch::ExitReason;
use x86_arch::vmx::{Seg, Segment, TableRegister, Vcpu};
use x86_engine::flat::{FlatGuest, protected_vcpu};
use x86_engine::side_by_side::SideBySide;

/// Where gates lead: a CPUID, which exits.
const TARGET: u64 = 0xC000;
const PRESENT: u64 = 1 << 47;
const DPL3: u64 = 3 << 45;
const GATE: u16 = 0x30;
/// The far pointer that the code uses.
const POINTER: u64 = 0x7F00;

fn gate(selector: u64, flags: u64, parameters: u64) -> u64 {
    TARGET & 0xFFFF | selector << 16 | parameters << 32 | 0xC << 40 | flags
}

/// Where the far transfer ended: `Err` has vector and error code.
fn outcome(guest: &mut FlatGuest, vcpu: &mut Vcpu) -> Result<(), (u32, u32)> {
    guest.put(TARGET, &[0x0F, 0xA2]);
    vcpu.controls.exception_bitmap = u32::MAX;
    let before = vcpu.regs.clone();
    SideBySide::new().run(vcpu, guest, 10);
    if vcpu.exit.basic_reason() == ExitReason::CPUID_INSTRUCTION {
        assert_eq!(vcpu.regs.rip, TARGET);
        return Ok(());
    }
    assert_eq!(vcpu.exit.basic_reason(), ExitReason::EXCEPTION_OR_NMI);
    // A transfer that faults leaves everything as it was.
    assert_eq!(vcpu.regs.rip, before.rip);
    assert_eq!(vcpu.regs.gpr, before.gpr);
    assert_eq!(vcpu.regs.segments, before.segments);
    Err((
        vcpu.exit.interruption_info & 0xFF,
        vcpu.exit.interruption_error,
    ))
}

/// A 64-bit guest with a gate at 0x30; `call` or JMP m16:32 through [`POINTER`].
fn long(cpl: u8, low: u64, high: u64, call: bool) -> (FlatGuest, Vcpu) {
    let (mut g, mut v) = guest(cpl);
    v.regs.gdtr.limit = 0x3F;
    g.put_u64(GDT + 0x30, low);
    g.put_u64(GDT + 0x38, high);
    g.put(POINTER, &[0xEF, 0xBE, 0xAD, 0xDE]);
    g.put(POINTER + 4, &(GATE | u16::from(cpl)).to_le_bytes());
    let operand = if call { 0x1C } else { 0x2C };
    g.put(CODE, &[0xFF, operand, 0x25, 0x00, 0x7F, 0, 0]);
    (g, v)
}

#[test]
fn a_64_bit_gate_from_ring_3_switches_to_the_ring_0_stack() {
    let (mut g, mut v) = long(3, gate(8, PRESENT | DPL3, 0), 0, true);
    // Not aligned: a call gate, unlike an interrupt, leaves the stack pointer of the TSS as it is.
    g.put_u64(TSS + 4, STACK0 - 4);
    assert_eq!(outcome(&mut g, &mut v), Ok(()));
    assert_eq!(v.regs.gpr[4], STACK0 - 4 - 32);
    let frame: Vec<u64> = (0..4).map(|n| g.get_u64(v.regs.gpr[4] + n * 8)).collect();
    assert_eq!(frame, [CODE + 7, 0x2B, STACK, 0x23]);
    assert_eq!(v.regs.segments[Seg::Cs as usize].selector, 8);
    let ss = v.regs.segments[Seg::Ss as usize];
    assert_eq!((ss.selector, ss.access >> 16 & 1), (0, 1));
    assert_eq!(ss.access >> 5 & 3, 0);
    // And back: far return with 64-bit operands; then CPUID in ring 3.
    g.put(TARGET, &[0x48, 0xCB]);
    g.put(CODE + 7, &[0x0F, 0xA2]);
    v.regs.rip = TARGET;
    SideBySide::new().run(&mut v, &mut g, 10);
    assert_eq!(v.exit.basic_reason(), ExitReason::CPUID_INSTRUCTION);
    assert_eq!((v.regs.rip, v.regs.gpr[4]), (CODE + 7, STACK));
    assert_eq!(v.regs.segments[Seg::Cs as usize].selector, 0x2B);
    assert_eq!(v.regs.segments[Seg::Ss as usize].selector, 0x23);
}

#[test]
fn a_64_bit_gate_in_the_same_ring_pushes_two_words_and_a_jump_none() {
    let (mut g, mut v) = long(0, gate(8, PRESENT, 0), 0, true);
    assert_eq!(outcome(&mut g, &mut v), Ok(()));
    assert_eq!(v.regs.gpr[4], STACK - 16);
    assert_eq!(g.get_u64(STACK - 16), CODE + 7);
    assert_eq!(g.get_u64(STACK - 8), 8);
    let (mut g, mut v) = long(0, gate(8, PRESENT, 0), 0, false);
    assert_eq!(outcome(&mut g, &mut v), Ok(()));
    assert_eq!(v.regs.gpr[4], STACK);
}

#[test]
fn what_is_wrong_with_a_64_bit_gate_is_told_in_the_manuals_order() {
    let good = gate(8, PRESENT | DPL3, 0);
    let e = u32::from(GATE);
    type Break = fn(&mut FlatGuest, &mut Vcpu);
    type Row = (&'static str, u8, u64, u64, bool, Break, (u32, u32));
    let nothing: Break = |_, _| {};
    #[rustfmt::skip]
    let cases: [Row; 14] = [
        ("gate DPL below CPL", 3, gate(8, PRESENT, 0), 0, true, nothing, (13, e)),
        ("RPL above gate DPL", 0, gate(8, PRESENT, 0), 0, true, |g, _| g.put(POINTER + 4, &[0x33]), (13, e)),
        ("not present", 3, gate(8, DPL3, 0), 0, true, nothing, (11, e)),
        ("type in the upper half", 3, good, 1 << 40, true, nothing, (13, e)),
        ("upper half beyond the table", 3, good, 0, true, |_, v| v.regs.gdtr.limit = 0x37, (13, e)),
        ("a 16-bit gate", 3, good & !(8 << 40), 0, true, nothing, (13, e)),
        ("null code selector", 3, gate(3, PRESENT | DPL3, 0), 0, true, nothing, (13, 0)),
        ("data", 3, gate(0x10, PRESENT | DPL3, 0), 0, true, nothing, (13, 0x10)),
        ("32-bit code", 3, gate(0x18, PRESENT | DPL3, 0), 0, true, nothing, (13, 0x18)),
        ("code not present", 3, good, 0, true, |g, _| g.put_u64(GDT + 8, 0x00AF_1B00_0000_FFFF), (11, 8)),
        ("JMP to an inner ring", 3, good, 0, false, nothing, (13, 8)),
        ("target not canonical", 3, good, 0x8000, true, nothing, (13, 0)),
        ("TSS too short", 3, good, 0, true, |_, v| v.regs.tr.limit = 10, (10, 0x40)),
        ("stack not canonical", 3, good, 0, true, |g, _| g.put_u64(TSS + 4, 1 << 60), (12, 0)),
    ];
    for (what, cpl, low, high, call, change, expect) in cases {
        let (mut g, mut v) = long(cpl, low, high, call);
        change(&mut g, &mut v);
        assert_eq!(outcome(&mut g, &mut v), Err(expect), "{what}");
    }
}

/// A flat 32-bit guest in ring 3 whose gate at 0x30 takes two parameters; CALL 0x33:0.
fn protected(low: u64) -> (FlatGuest, Vcpu) {
    let mut g = FlatGuest::new(0x10_0000);
    let mut v = protected_vcpu(3);
    let descriptors = [
        0u64,
        0x00CF_9B00_0000_FFFF, // 08: code, ring 0
        0x00CF_9300_0000_FFFF, // 10: data, ring 0
        0x00CF_FB00_0000_FFFF, // 18: code, ring 3
        0x00CF_F300_0000_FFFF, // 20: data, ring 3
        0x0040_9300_0000_000F, // 28: data, ring 0, 16 bytes
        low,
    ];
    for (n, descriptor) in descriptors.into_iter().enumerate() {
        g.put_u64(GDT + n as u64 * 8, descriptor);
    }
    v.regs.gdtr = TableRegister {
        base: GDT,
        limit: 0x37,
    };
    v.regs.tr = Segment {
        selector: 0x40,
        limit: 0x67,
        access: 0x8B,
        base: TSS,
    };
    g.put_u64(TSS + 4, STACK0 | 0x10 << 32);
    v.regs.segments[Seg::Cs as usize].selector = 0x1B;
    v.regs.segments[Seg::Ss as usize].selector = 0x23;
    v.regs.rip = CODE;
    v.regs.gpr[4] = STACK;
    g.put_u64(STACK, 0x2222_2222_1111_1111);
    g.put(CODE, &[0x9A, 0, 0, 0, 0, 0x33, 0]);
    (g, v)
}

fn words(g: &mut FlatGuest, at: u64, count: usize) -> Vec<u32> {
    let bytes = g.get(at, count * 4);
    bytes
        .chunks(4)
        .map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect()
}

#[test]
fn a_32_bit_gate_copies_its_parameters_to_the_inner_stack() {
    let (mut g, mut v) = protected(gate(8, PRESENT | DPL3, 2));
    assert_eq!(outcome(&mut g, &mut v), Ok(()));
    assert_eq!(v.regs.gpr[4], STACK0 - 24);
    let frame = words(&mut g, STACK0 - 24, 6);
    let expected = [
        CODE as u32 + 7,
        0x1B,
        0x1111_1111,
        0x2222_2222,
        STACK as u32,
        0x23,
    ];
    assert_eq!(frame, expected);
    assert_eq!(v.regs.segments[Seg::Cs as usize].selector, 8);
    assert_eq!(v.regs.segments[Seg::Ss as usize].selector, 0x10);
}

#[test]
fn a_16_bit_gate_pushes_words_of_16_bits() {
    let low = gate(8, PRESENT | DPL3, 1) & !(8 << 40);
    let (mut g, mut v) = protected(low);
    assert_eq!(outcome(&mut g, &mut v), Ok(()));
    assert_eq!(v.regs.gpr[4], STACK0 - 10);
    let frame = words(&mut g, STACK0 - 10, 2);
    assert_eq!(
        frame,
        [
            0x1B_8007,
            STACK as u32 & 0xFFFF_0000 | (STACK as u32) << 16 | 0x1111
        ]
    );
    assert_eq!(g.get(STACK0 - 2, 2), [0x23, 0]);
}

#[test]
fn the_inner_stack_of_a_32_bit_gate_is_checked() {
    let good = gate(8, PRESENT | DPL3, 2);
    for (what, stack, expect) in [
        ("null", 0u64, (10, 0)),
        ("beyond the table", 0x58, (10, 0x58)),
        ("of the outer ring", 0x23, (10, 0x20)),
        ("code", 8, (10, 8)),
        ("too small", 0x28, (12, 0x28)),
    ] {
        let (mut g, mut v) = protected(good);
        g.put_u64(TSS + 4, STACK0 | stack << 32);
        assert_eq!(outcome(&mut g, &mut v), Err(expect), "{what}");
    }
}

#[test]
fn a_gate_to_conforming_code_stays_in_its_ring() {
    let (mut g, mut v) = protected(gate(8, PRESENT | DPL3, 2));
    g.put_u64(GDT + 8, 0x00CF_9F00_0000_FFFF);
    assert_eq!(outcome(&mut g, &mut v), Ok(()));
    assert_eq!(v.regs.gpr[4], STACK - 8);
    assert_eq!(words(&mut g, STACK - 8, 2), [CODE as u32 + 7, 0x1B]);
    assert_eq!(v.regs.segments[Seg::Cs as usize].selector, 0xB);
}
