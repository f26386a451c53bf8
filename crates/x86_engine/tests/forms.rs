//! The hot forms behave as the families' handlers do, and no bytes, state or tables make the engine panic or hang.

mod instructions;

use instructions::{DATA, DATA_LEN, MEMORY, fill, likely, state};
use proptest::prelude::*;
use x86_arch::vmx::Vcpu;
use x86_engine::Ran;
use x86_engine::flat::FlatGuest;
use x86_engine::side_by_side::SideBySide;

/// Runs `budget` instructions; `stepped`: one at a time with the debug registers armed, which keeps every access
/// off the fast path and every instruction in its family's handler.
fn run(
    code: &[u8],
    mut make: impl FnMut(&mut FlatGuest) -> Vcpu,
    budget: u64,
    stepped: bool,
) -> (Ran, Vcpu, Vec<u8>) {
    let mut guest = FlatGuest::new(MEMORY);
    fill(&mut guest, code);
    let mut vcpu = make(&mut guest);
    if stepped {
        // A breakpoint on an address that nothing reaches.
        vcpu.regs.dr[0] = 0x7FFF_0000_0000;
        vcpu.regs.dr7 = 0x401 | 3 << 16;
    }
    let ran = SideBySide::new().run(&mut vcpu, &mut guest, budget);
    let memory = guest.get(DATA, DATA_LEN);
    (ran, vcpu, memory)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hot_forms_and_family_handlers_agree(
        code in prop::collection::vec(likely(), 1..12),
        registers in any::<[u64; 16]>(),
        rflags in any::<u64>(),
        in_data in any::<u16>(),
    ) {
        let count = code.len() as u64;
        let code: Vec<u8> = code.concat();
        let make = |guest: &mut FlatGuest| state(guest, registers, rflags, in_data);
        let (fast, a, memory_a) = run(&code, make, count, false);
        let (slow, b, memory_b) = run(&code, make, count, true);
        prop_assert_eq!(fast, slow, "{:02x?} {:?} {:?}", &code, a.exit, b.exit);
        prop_assert_eq!(a.regs.gpr, b.regs.gpr, "{:02x?}", &code);
        prop_assert_eq!(a.regs.rip, b.regs.rip);
        prop_assert_eq!(a.regs.rflags, b.regs.rflags, "{:02x?}", &code);
        prop_assert!(a.regs.fpu == b.regs.fpu, "{:02x?}", &code);
        prop_assert_eq!(a.exit, b.exit, "{:02x?}", &code);
        prop_assert!(memory_a == memory_b, "memory, {:02x?}", &code);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_engine_panic_or_run_over_its_budget(input in prop::collection::vec(any::<u8>(), 0..600)) {
        x86_engine::fuzz::fuzz_code(&input);
    }
}
