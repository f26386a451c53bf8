//! Translated code does what the interpreter does: registers, flags, memory, faults and instruction counts.

mod instructions;
#[path = "instructions/integer.rs"]
mod integer;

use instructions::{DATA, MEMORY, fill, likely, state};
use proptest::prelude::*;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, FlatPage};
use x86_engine::side_by_side::SideBySide;
use x86_engine::{Engine, EngineKind};

/// Runs the program twice on the same engines, so that what translated code reads is there the second time. Gives
/// what the second round did, and where it ended.
fn run(
    code: &[u8],
    make: impl Fn(&mut FlatGuest) -> Vcpu,
    budgets: &[u64],
) -> Result<(u64, Vcpu), TestCaseError> {
    let mut guest = FlatGuest::new(MEMORY);
    let mut engines = SideBySide::new();
    let mut end = None;
    for _ in 0..2 {
        fill(&mut guest, code);
        let mut vcpu = make(&mut guest);
        let mut retired = 0;
        for &budget in budgets {
            let ran = engines.compare(0, &mut vcpu, &mut guest, budget);
            retired += ran.map_err(TestCaseError::fail)?.retired;
        }
        end = Some((retired, vcpu));
    }
    Ok(end.expect("the second round"))
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
        run(&code, |guest| state(guest, registers, rflags, in_data), &[count])?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn straight_code_of_rarer_integer_forms(
        code in prop::collection::vec(prop_oneof![3 => integer::rarer(), 1 => likely()], 1..10),
        registers in any::<[u64; 16]>(),
        rflags in any::<u64>(),
        in_data in any::<u16>(),
    ) {
        let mut code: Vec<u8> = code.concat();
        // HLT exits.
        code.push(0xF4);
        run(&code, |guest| state(guest, registers, rflags, in_data), &[64])?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neighbouring_accesses_stopped_and_resumed_at_any_instruction(
        code in integer::neighbours(),
        registers in any::<[u64; 16]>(),
        rflags in any::<u64>(),
        budget in 1u64..20,
    ) {
        let mut code: Vec<u8> = code.concat();
        // HLT exits.
        code.push(0xF4);
        run(&code, |guest| state(guest, registers, rflags, u16::MAX), &[budget, 64])?;
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
        run(&bytes, |guest| state(guest, registers, rflags, in_data), &budgets)?;
    }
}

/// Kernel-like code by hand: what it does is known, so that both engines are held to it.
fn both(code: &[u8], start: impl Fn(&mut FlatGuest) -> Vcpu, budget: u64) -> (Vcpu, u64) {
    let (retired, vcpu) = run(code, start, &[budget]).expect("the engines agree");
    (vcpu, retired)
}

#[test]
fn an_accumulator_compared_with_its_own_second_byte_is_exchanged() {
    // mov al, ah; cmpxchg ah, cl; hlt, and the same with mov al, cl before.
    for (first, ah) in [([0x88, 0xE0], 0x77), ([0x88, 0xC8], 0x12)] {
        let code = [first[0], first[1], 0x0F, 0xB0, 0xCC, 0xF4];
        let mut registers = [0; 16];
        registers[0] = 0xABCD_1234;
        registers[1] = 0x77;
        let (vcpu, _) = both(&code, |guest| state(guest, registers, 0, 0), 10);
        assert_eq!(vcpu.regs.gpr[0], 0xABCD_0012 | ah << 8);
    }
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
fn undefined_flags_are_the_interpreters_before_a_move_to_a_control_register() {
    // mov ecx, 3; top: bsf rax, rdi; mov cr2, rax; and r9, rdi; dec ecx; jnz top; hlt
    let code = [
        0xB9, 3, 0, 0, 0, 0x48, 0x0F, 0xBC, 0xC7, 0x0F, 0x22, 0xD0, 0x49, 0x21, 0xF9, 0xFF, 0xC9,
        0x75, 0xF2, 0xF4,
    ];
    for budget in 1..16 {
        let mut registers = [0; 16];
        registers[7] = 1;
        both(&code, |guest| state(guest, registers, 0, 0), budget);
    }
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

#[test]
fn the_statistics_count_what_was_translated_and_not_how_often_it_ran() {
    // mov ecx, 100; top: add rax, rcx; dec ecx; jnz top; hlt.
    let code = [
        0xB9, 100, 0, 0, 0, 0x48, 0x01, 0xC8, 0xFF, 0xC9, 0x75, 0xF9, 0xF4,
    ];
    let mut guest = FlatGuest::new(MEMORY);
    let mut engine = Engine::with(EngineKind::Translator);
    engine.translate_after(0);
    fill(&mut guest, &code);
    let before = engine.statistics().expect("a translator");
    assert_eq!((before.blocks, before.drops), (0, 0));
    let mut once = |engine: &mut Engine<_>| {
        let mut vcpu = state(&mut guest, [0; 16], 0, 0);
        assert_eq!(engine.run(&mut vcpu, &mut guest, 10_000).retired, 301);
        engine.statistics().expect("a translator")
    };
    let first = once(&mut engine);
    assert!((2..=3).contains(&first.blocks), "{first:?}");
    assert!(first.code_bytes > before.code_bytes && first.table_bytes > before.table_bytes);
    assert_eq!(first, once(&mut engine));
    let interpreter = Engine::<FlatPage>::with(EngineKind::Interpreter);
    assert_eq!(interpreter.statistics(), None);
}
