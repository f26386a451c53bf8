//! Translated code does what the interpreter does: registers, flags, memory, faults and instruction counts.

use proptest::prelude::*;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, EngineKind, Ran};

const CODE: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const MEMORY: u64 = 0x4_0000;

/// Instructions that mostly run: register and memory forms of the common families, their operands random.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        2 => Just(vec![]),
        4 => (0x40u8..0x50).prop_map(|r| vec![r]),
        1 => Just(vec![0x66]),
        1 => (0x40u8..0x50).prop_map(|r| vec![0x66, r]),
    ];
    let opcode = prop_oneof![
        4 => (0u8..8, 0u8..4).prop_map(|(op, form)| vec![op << 3 | form]),
        2 => prop::sample::select(vec![0x63u8, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8D]).prop_map(|b| vec![b]),
        2 => prop_oneof![0x40u8..0x50, 0x90u8..0xA0, 0xB6u8..0xB8, 0xBEu8..0xC0, Just(0xAF), Just(0xA3), Just(0xAB), Just(0xB3), Just(0xBB), Just(0xB1), Just(0xC1), Just(0xA5), Just(0xAD), Just(0xBC), Just(0xBD)]
            .prop_map(|b| vec![0x0F, b]),
        2 => prop::sample::select(vec![0xD0u8, 0xD1, 0xD2, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF]).prop_map(|b| vec![b]),
    ];
    let general = (
        prefix,
        opcode,
        0u8..64,
        prop_oneof![Just(0xC0u8), Just(0), Just(0x40)],
        any::<[u8; 2]>(),
    )
        .prop_map(|(mut bytes, opcode, low, mode, tail)| {
            bytes.extend(opcode);
            bytes.push(mode | low);
            if mode != 0xC0 && low & 7 == 4 {
                bytes.push(tail[0]);
            }
            if mode == 0x40 {
                bytes.push(tail[1]);
            }
            bytes
        });
    let shift = (0x40u8..0x50, any::<bool>(), 0u8..64, any::<u8>())
        .prop_map(|(rex, wide, low, count)| vec![rex, 0xC0 | u8::from(wide), 0xC0 | low, count]);
    let immediate = (0x40u8..0x50, 0u8..64, any::<u8>())
        .prop_map(|(rex, low, value)| vec![rex, 0x83, 0xC0 | low, value]);
    let accumulator = (0u8..8, any::<u8>()).prop_map(|(op, value)| vec![op << 3 | 4, value]);
    // VEX forms of BMI1 and BMI2, register operands.
    let vex = (
        prop::sample::select(vec![0xF2u8, 0xF3, 0xF5, 0xF6, 0xF7]),
        0u8..8,
        any::<u8>(),
        0u8..4,
        0u8..64,
    )
        .prop_map(|(opcode, rxb, second, pp, low)| {
            vec![0xC4, rxb << 5 | 2, second & 0xF8 | pp, opcode, 0xC0 | low]
        });
    let rorx = (0u8..8, any::<bool>(), 0u8..64, any::<u8>()).prop_map(|(rxb, wide, low, n)| {
        vec![
            0xC4,
            rxb << 5 | 3,
            u8::from(wide) << 7 | 0x7B,
            0xF0,
            0xC0 | low,
            n,
        ]
    });
    let stack = prop_oneof![
        (0x50u8..0x60).prop_map(|b| vec![b]),
        (0x50u8..0x60).prop_map(|b| vec![0x41, b]),
        any::<u8>().prop_map(|b| vec![0x6A, b]),
        Just(vec![0xC9]),
        Just(vec![0xFF, 0x34, 0x24]),
    ];
    let convert = prop::sample::select(vec![
        vec![0x98],
        vec![0x99],
        vec![0x48, 0x98],
        vec![0x48, 0x99],
        vec![0x66, 0x98],
        vec![0x66, 0x99],
        vec![0xF8],
        vec![0xF9],
        vec![0xF5],
        vec![0x9F],
    ]);
    let locked = (
        0x48u8..0x50,
        prop_oneof![
            (0u8..8).prop_map(|op| vec![op << 3 | 1]),
            Just(vec![0x0F, 0xB1]),
            Just(vec![0x0F, 0xC1]),
            Just(vec![0x0F, 0xAB]),
        ],
        0u8..64,
    )
        .prop_filter("a SIB byte", |(_, _, low)| low & 7 != 4 && low & 7 != 5)
        .prop_map(|(rex, op, low)| {
            let mut bytes = vec![0xF0, rex];
            bytes.extend(op);
            bytes.push(low);
            bytes
        });
    // Vector instructions: 66/F3/F2/none 0F xx, and the same with a VEX prefix of either length.
    let vector = (
        prop::sample::select(vec![0x66u8, 0xF3, 0xF2, 0x2E]),
        prop::sample::select(vec![
            0x10u8, 0x11, 0x12, 0x14, 0x16, 0x17, 0x28, 0x29, 0x50, 0x54, 0x55, 0x57, 0x60, 0x61,
            0x62, 0x63, 0x64, 0x66, 0x67, 0x68, 0x6A, 0x6C, 0x6D, 0x6E, 0x6F, 0x74, 0x76, 0x7E,
            0x7F, 0xC4, 0xC6, 0xD2, 0xD4, 0xD6, 0xD7, 0xDA, 0xDB, 0xDF, 0xE7, 0xEB, 0xEF, 0xF4,
            0xF6, 0xFA, 0xFE, 0x70, 0xC5,
        ]),
        0u8..8,
        0u8..64,
        prop_oneof![Just(0xC0u8), Just(0), Just(0x40)],
        any::<[u8; 3]>(),
        0u8..3,
    )
        .prop_map(|(prefix, opcode, rex, low, mode, tail, form)| {
            let pp = [0x66u8, 0xF3, 0xF2].iter().position(|p| *p == prefix);
            let pp = pp.map_or(0, |p| p as u8 + 1);
            let mut bytes = match form {
                0 => vec![prefix, 0x40 | rex, 0x0F, opcode],
                _ => vec![
                    0xC4,
                    rex << 5 | 1,
                    tail[2] & 0x78 | (form - 1) << 2 | pp,
                    opcode,
                ],
            };
            bytes.push(mode | low);
            if mode != 0xC0 && low & 7 == 4 {
                bytes.push(tail[0]);
            }
            if mode == 0x40 {
                bytes.push(tail[1] & 0xF0);
            }
            if matches!(opcode, 0x70 | 0xC4 | 0xC5 | 0xC6) {
                bytes.push(tail[0]);
            }
            bytes
        });
    let divide = (0x40u8..0x50, 0u8..64).prop_map(|(rex, low)| vec![rex, 0xF7, 0xF0 | low & 7]);
    let double =
        (0x40u8..0x50, 0u8..64, any::<u8>(), any::<bool>()).prop_map(|(rex, low, n, right)| {
            vec![rex, 0x0F, 0xA4 | u8::from(right) << 3, 0xC0 | low, n]
        });
    prop_oneof![
        10 => general,
        6 => vector,
        1 => divide,
        1 => double,
        2 => shift,
        2 => immediate,
        1 => accumulator,
        2 => vex,
        1 => rorx,
        2 => stack,
        1 => convert,
        1 => locked,
    ]
}

fn state(guest: &mut FlatGuest, registers: [u64; 16], rflags: u64, in_data: u16) -> Vcpu {
    let mut vcpu = long_vcpu(guest, 0x1000, 0);
    vcpu.regs.gpr = registers;
    for (n, register) in vcpu.regs.gpr.iter_mut().enumerate() {
        if in_data >> n & 1 != 0 || n == 4 {
            *register = DATA + *register % 0x1_0000;
        }
    }
    vcpu.regs.rflags = rflags & 0xCD5 | 2;
    for (n, vector) in vcpu.regs.fpu.ymm.iter_mut().enumerate() {
        let low = u128::from(registers[n]) << 64 | u128::from(registers[15 - n]);
        *vector = [low, low.rotate_left(40)];
    }
    vcpu.regs.rip = CODE;
    vcpu.controls.primary = 1 << 7 | 1 << 24;
    vcpu.controls.exception_bitmap = u32::MAX;
    vcpu
}

fn fill(guest: &mut FlatGuest, code: &[u8]) {
    let pattern: Vec<u8> = (0..0x2_0000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    guest.put(DATA, &pattern);
    // Self-modifying programs begin anew, others keep their translation.
    if guest.get(CODE, code.len()) != code {
        guest.put(CODE, code);
    }
}

/// Runs the program twice on one engine, so that what translated code reads is there the second time.
fn run(
    kind: EngineKind,
    code: &[u8],
    make: impl Fn(&mut FlatGuest) -> Vcpu,
    budgets: &[u64],
) -> (Vec<Ran>, Vcpu, Vec<u8>) {
    let mut guest = FlatGuest::new(MEMORY);
    let mut engine = Engine::with(kind);
    assert_eq!(engine.refused(), None);
    engine.translate_after(0);
    for round in 0..2 {
        fill(&mut guest, code);
        let mut vcpu = make(&mut guest);
        let ran = budgets
            .iter()
            .map(|&budget| engine.run(&mut vcpu, &mut guest, budget))
            .collect();
        if let Some(difference) = engine.difference() {
            panic!("{difference}");
        }
        if round == 1 {
            return (ran, vcpu, guest.get(DATA, 0x2_0000));
        }
    }
    unreachable!("the second round returns")
}

fn compare(
    code: &[u8],
    make: impl Fn(&mut FlatGuest) -> Vcpu,
    budgets: &[u64],
) -> Result<(), TestCaseError> {
    let (ran_a, a, memory_a) = run(EngineKind::Interpreter, code, &make, budgets);
    run(EngineKind::Lockstep, code, &make, budgets);
    let (ran_b, b, memory_b) = run(EngineKind::Translator, code, &make, budgets);
    prop_assert_eq!(&ran_a, &ran_b, "{:02x?} {:?} {:?}", code, a.exit, b.exit);
    for n in 0..16 {
        prop_assert_eq!(
            a.regs.gpr[n],
            b.regs.gpr[n],
            "register {}, {:02x?}",
            n,
            code
        );
    }
    prop_assert_eq!(a.regs.rip, b.regs.rip);
    prop_assert_eq!(
        a.regs.rflags,
        b.regs.rflags,
        "flags {:x} {:x} {:02x?}",
        a.regs.rflags,
        b.regs.rflags,
        code
    );
    prop_assert_eq!(a.exit, b.exit, "{:02x?}", code);
    prop_assert!(a.regs == b.regs, "{:02x?}", code);
    prop_assert!(memory_a == memory_b, "memory, {:02x?}", code);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn straight_code(
        code in prop::collection::vec(likely(), 1..12),
        registers in any::<[u64; 16]>(),
        rflags in any::<u64>(),
        in_data in any::<u16>(),
    ) {
        let count = code.len() as u64;
        let mut code: Vec<u8> = code.concat();
        // HLT exits.
        code.push(0xF4);
        compare(&code, |guest| state(guest, registers, rflags, in_data), &[count])?;
    }
}

// Random code in a loop: `top: …; dec r8d; jnz top`, whose registers the body may spoil.
proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loops_stopped_and_resumed_at_any_instruction(
        code in prop::collection::vec(likely(), 1..8),
        branches in prop::collection::vec((0u8..16, any::<prop::sample::Index>()), 0..4),
        registers in any::<[u64; 16]>(),
        rflags in any::<u64>(),
        in_data in any::<u16>(),
        budgets in prop::collection::vec(1u64..40, 1..6),
    ) {
        // Forward branches over some of the instructions, then back to the top.
        let mut bytes = vec![];
        for (n, insn) in code.iter().enumerate() {
            for (condition, at) in &branches {
                if at.index(code.len()) == n {
                    bytes.extend([0x70 | condition, insn.len() as u8]);
                }
            }
            bytes.extend(insn);
        }
        bytes.extend([0x41, 0xFF, 0xC8, 0x75, (-(bytes.len() as i8) - 5) as u8]);
        compare(&bytes, |guest| state(guest, registers, rflags, in_data), &budgets)?;
    }
}

/// Kernel-like code by hand: what it does is known, so that both engines are held to it.
fn both(code: &[u8], start: impl Fn(&mut FlatGuest) -> Vcpu, budget: u64) -> (Vcpu, u64) {
    compare(code, &start, &[budget]).expect("the engines agree");
    let (ran, vcpu, _) = run(EngineKind::Translator, code, &start, &[budget]);
    (vcpu, ran[0].retired)
}

#[test]
fn calls_and_returns_between_pages() {
    // CODE: mov ecx, 100; top: call CODE + 0x1000; dec ecx; jnz top; hlt. There: add rax, rcx; ret.
    let mut code = vec![0xB9, 100, 0, 0, 0, 0xE8];
    code.extend((0x1000i32 - 10).to_le_bytes());
    code.extend([0xFF, 0xC9, 0x75, 0xF7, 0xF4]);
    code.resize(0x1000, 0x90);
    code.extend([0x48, 0x01, 0xC8, 0xC3]);
    let (vcpu, retired) = both(&code, |guest| state(guest, [0; 16], 0, 0), 10_000);
    assert_eq!(vcpu.regs.gpr[0], 5050);
    assert_eq!(retired, 1 + 100 * 5);
}

#[test]
fn code_that_changes_itself_runs_as_changed() {
    // mov ecx, 50; top: add eax, 1 (the immediate is incremented by the next instruction); inc byte [rip - 7];
    // dec ecx; jnz top; hlt.
    let code = [
        0xB9, 50, 0, 0, 0, 0x83, 0xC0, 1, 0xFE, 0x05, 0xF9, 0xFF, 0xFF, 0xFF, 0xFF, 0xC9, 0x75,
        0xF3, 0xF4,
    ];
    let (vcpu, retired) = both(&code, |guest| state(guest, [0; 16], 0, 0), 10_000);
    assert_eq!(vcpu.regs.gpr[0], (1..=50).sum::<u64>());
    assert_eq!(retired, 1 + 50 * 4);
}

#[test]
fn an_instruction_across_two_pages_runs_in_a_loop() {
    // jmp to 3 bytes before the page's end: top: add rax, 0x01020304 (6 bytes); dec ecx; jnz top; hlt.
    let mut code = vec![0xB9, 30, 0, 0, 0, 0xE9];
    code.extend((0xFFDi32 - 10).to_le_bytes());
    code.resize(0xFFD, 0x90);
    code.extend([0x48, 0x05, 4, 3, 2, 1, 0xFF, 0xC9, 0x75, 0xF6, 0xF4]);
    let (vcpu, retired) = both(&code, |guest| state(guest, [0; 16], 0, 0), 10_000);
    assert_eq!(vcpu.regs.gpr[0], 0x0102_0304 * 30);
    assert_eq!(retired, 2 + 30 * 3);
}

#[test]
fn data_across_two_pages_and_a_page_fault_are_the_interpreters() {
    // top: add rax, [rbx]; mov [rbx + 8], rax; add rbx, rdx; dec ecx; jnz top; hlt, until RBX leaves RAM's mapping.
    let code = [
        0x48, 0x03, 0x03, 0x48, 0x89, 0x43, 0x08, 0x48, 0x01, 0xD3, 0xFF, 0xC9, 0x75, 0xF2, 0xF4,
    ];
    let start = |guest: &mut FlatGuest| {
        let mut registers = [0; 16];
        registers[3] = DATA + 0xFF9;
        registers[1] = 60;
        registers[2] = 0x100;
        let mut vcpu = state(guest, registers, 0, 0);
        // The second 2 MiB of the address space are not there.
        guest.put_u64(0x2000, 0x3000 | 7);
        guest.put_u64(0x3000, 0x87);
        vcpu.regs.gpr[4] = DATA;
        vcpu
    };
    both(&code, start, 10_000);
    let far = |guest: &mut FlatGuest| {
        let mut vcpu = start(guest);
        vcpu.regs.gpr[3] = 0x20_0000 - 0x1000;
        vcpu
    };
    let (vcpu, _) = both(&code, far, 10_000);
    assert_eq!(vcpu.exit.interruption_info & 0xFF, 14);
    assert_eq!(vcpu.exit.qualification, 0x20_0000);
}
