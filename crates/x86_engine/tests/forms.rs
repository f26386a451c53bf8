//! The hot forms behave as the families' handlers do, and no bytes, state or tables make the engine panic or hang.

use proptest::prelude::*;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, Ran};

const CODE: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const MEMORY: u64 = 0x4_0000;

/// Instructions that mostly run: register and memory forms of the hot families, their operands random.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let rex = prop_oneof![
        Just(vec![]),
        (0x40u8..0x50).prop_map(|r| vec![r]),
        Just(vec![0x66])
    ];
    let opcode = prop_oneof![
        4 => (0u8..8, 0u8..4).prop_map(|(op, form)| vec![op << 3 | form]),
        1 => prop::sample::select(vec![0x63u8, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8D]).prop_map(|b| vec![b]),
        2 => prop_oneof![0x40u8..0x50, 0x90u8..0xA0, 0xB6u8..0xB8, 0xBEu8..0xC0, Just(0xAF), Just(0xA3), Just(0xAB), Just(0xB1), Just(0xC1), Just(0xA5), Just(0xAD)]
            .prop_map(|b| vec![0x0F, b]),
        1 => prop::sample::select(vec![0xD0u8, 0xD1, 0xD2, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF]).prop_map(|b| vec![b]),
    ];
    // A register, [register], or [register + disp8].
    (
        rex,
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
        })
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
    vcpu.regs.rip = CODE;
    vcpu.controls.primary = 1 << 7 | 1 << 24;
    vcpu.controls.exception_bitmap = u32::MAX;
    vcpu
}

/// Runs `budget` instructions; `stepped`: one at a time with the debug registers armed, which keeps every access
/// off the fast path and every instruction in its family's handler.
fn run(
    code: &[u8],
    mut make: impl FnMut(&mut FlatGuest) -> Vcpu,
    budget: u64,
    stepped: bool,
) -> (Ran, Vcpu, Vec<u8>) {
    let mut guest = FlatGuest::new(MEMORY);
    let pattern: Vec<u8> = (0..0x1_0000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    guest.put(DATA, &pattern);
    guest.put(CODE, code);
    let mut vcpu = make(&mut guest);
    if stepped {
        // A breakpoint on an address that nothing reaches.
        vcpu.regs.dr[0] = 0x7FFF_0000_0000;
        vcpu.regs.dr7 = 0x401 | 3 << 16;
    }
    let ran = Engine::new().run(&mut vcpu, &mut guest, budget);
    let memory = guest.get(DATA, 0x2_0000);
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
