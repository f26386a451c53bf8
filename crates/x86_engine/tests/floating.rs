//! Floating-point and other vector code in both engines: results, MXCSR, flags and faults, in loops that are left and
//! entered anywhere.

use iced_x86::{Code, Decoder, DecoderOptions};
use proptest::prelude::*;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, EngineKind, Ran};

const CODE: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const DATA_LEN: usize = 0x4000;
const MEMORY: u64 = 0x2_0000;
/// Where R14 points: values for LDMXCSR.
const CONTROLS: u64 = DATA + 0x3800;

/// What a host's processor may lack: then the interpreter executes these instructions.
const FEATURES: [&str; 10] = [
    "sse3", "ssse3", "sse4.1", "aes", "sha", "gfni", "avx", "avx2", "fma", "f16c",
];

/// Registers with a general or vector operand each: ModRM, and what follows it. Memory is at RBX, RSI or RDI.
fn operands() -> impl Strategy<Value = Vec<u8>> {
    let base = prop::sample::select(vec![3u8, 6, 7]);
    prop_oneof![
        3 => (0u8..64).prop_map(|low| vec![0xC0 | low]),
        1 => (0u8..8, base.clone()).prop_map(|(reg, base)| vec![reg << 3 | base]),
        1 => (0u8..8, base, any::<u8>()).prop_map(|(reg, base, at)| vec![0x40 | reg << 3 | base, at & 0xF8]),
    ]
}

/// A legacy or VEX instruction of the map, with an immediate where the opcode has one.
fn vector(map: u8, opcodes: Vec<u8>, immediate: bool) -> impl Strategy<Value = Vec<u8>> {
    (
        prop::sample::select(opcodes),
        0u8..4,
        any::<u8>(),
        any::<u8>(),
        operands(),
        0u8..3,
        any::<u8>(),
    )
        .prop_map(move |(opcode, pp, bits, second, operands, form, value)| {
            // Memory bases stay below R8.
            let extend = if operands[0] >= 0xC0 { 5 } else { 4 };
            let mut bytes = match form {
                0 => {
                    let mut bytes = match pp {
                        0 => vec![],
                        pp => vec![[0x66, 0xF3, 0xF2][usize::from(pp) - 1]],
                    };
                    bytes.push(0x40 | bits & (8 | extend));
                    bytes.push(0x0F);
                    bytes.extend([[].as_slice(), &[0x38], &[0x3A]][usize::from(map) - 1]);
                    bytes
                }
                _ => vec![
                    0xC4,
                    !(bits & extend) << 5 | map,
                    // Some have two operands only.
                    if second & 4 == 0 { 0x78 } else { second & 0xF8 } | (form - 1) << 2 | pp,
                ],
            };
            bytes.push(opcode);
            bytes.extend(operands);
            if immediate {
                bytes.push(value);
            }
            if is_offered(&bytes) {
                bytes
            } else {
                vec![0x90]
            }
        })
}

/// Whether the bytes are one instruction that the engine implements.
fn is_offered(bytes: &[u8]) -> bool {
    let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    let foreign = [
        "SSE4A", "VNNI", "IFMA", "SHA512", "SM3", "SM4", "CONVERT", "KL", "INTEL", "MMX",
    ];
    insn.len() == bytes.len()
        && insn.code() != Code::INVALID
        && insn.cpuid_features().iter().all(|feature| {
            let name = format!("{feature:?}");
            !foreign.iter().any(|other| name.contains(other))
        })
}

fn likely() -> impl Strategy<Value = Vec<u8>> {
    let arithmetic = vec![
        0x51, 0x52, 0x53, 0x58, 0x59, 0x5A, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F, 0x7C, 0x7D, 0xD0, 0xE6,
        0x2E, 0x2F,
    ];
    let between = vec![0x2A, 0x2C, 0x2D, 0x6E, 0x7E, 0x50];
    let moves = vec![
        0x10, 0x11, 0x12, 0x14, 0x16, 0x28, 0x29, 0x54, 0x57, 0x6F, 0x7F, 0xD4, 0xEF, 0xFE, 0xE7,
    ];
    let fused = (0x96..0xA0).chain(0xA6..0xB0).chain(0xB6..0xC0).collect();
    let lanes = vec![
        0x00, 0x0E, 0x0F, 0x10, 0x13, 0x14, 0x15, 0x17, 0x18, 0x19, 0x1C, 0x28, 0x2C, 0x2D, 0x2E,
        0x2F, 0x36, 0x40, 0x45, 0x46, 0x47, 0x58, 0x59, 0x78, 0x8C, 0x8E, 0xC8, 0xCB, 0xCF, 0xDC,
        0xDE, 0xF0, 0xF1,
    ];
    let immediate = vec![
        0x02, 0x04, 0x06, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0E, 0x0F, 0x14, 0x16, 0x17, 0x18, 0x19,
        0x1D, 0x20, 0x21, 0x40, 0x41, 0x42, 0x44, 0x46, 0x4A, 0x4C, 0x60, 0x61, 0x62, 0x63, 0xCC,
        0xCE, 0xDF,
    ];
    // LDMXCSR and STMXCSR by R14.
    let control = (0u8..32, any::<bool>(), any::<bool>()).prop_map(|(at, store, vex)| {
        let operation = 0x56 | u8::from(store) << 3;
        let at = if store { 0x80 | at << 2 } else { at << 2 };
        match vex {
            false => vec![0x41, 0x0F, 0xAE, operation, at],
            true => vec![0xC4, 0xC1, 0x78, 0xAE, operation, at],
        }
    });
    let integer = prop_oneof![
        (0xC0u8..=0xFF).prop_map(|low| vec![0x83, low & 0xC7 | 0xE8, 1]), // sub r32, 1
        (0u8..8).prop_map(|r| vec![0x0F, 0x92, 0xC0 | r]),                // setc r8
        Just(vec![0x9F]),                                                 // lahf
    ]
    // Not the registers that hold addresses.
    .prop_filter("an address", |b| {
        !matches!(b.last(), Some(3..=7)) && b.len() != 3 || b[1] & 7 < 3
    });
    // FXSAVE and FXRSTOR by RSI.
    let saved = prop::sample::select(vec![vec![0x0F, 0xAE, 0x06], vec![0x0F, 0xAE, 0x0E]]);
    let cleared = prop::sample::select(vec![vec![0xC5, 0xF8, 0x77], vec![0xC5, 0xFC, 0x77]]);
    prop_oneof![
        12 => vector(1, arithmetic, false),
        2 => vector(1, vec![0xC2, 0xC6, 0x70], true),
        3 => vector(1, between, false),
        4 => vector(1, moves, false),
        4 => vector(2, fused, false),
        3 => vector(2, lanes, false),
        4 => vector(3, immediate, true),
        2 => control,
        1 => cleared,
        1 => saved,
        2 => integer,
    ]
}

/// 128 bits that mean something as numbers: shapes of singles and doubles, picked by the bits of `seed`.
fn number(seed: u128) -> u128 {
    let double = |x: u64| {
        let sign = x & 1 << 63;
        let fraction = x & 0xF_FFFF_FFFF_FFFF;
        sign | match x >> 52 & 15 {
            0 => 0,
            1 => fraction,
            2 => 0x7FF << 52,
            3 => 0x7FF << 52 | fraction,
            4 => 0x7FE << 52 | fraction,
            5 => 1 << 52 | fraction,
            6 => 0x3FF << 52,
            7 => 0x41E << 52 | fraction & !0xFF_FFFF,
            n => (0x3F8 + n) << 52 | fraction,
        }
    };
    let single = |x: u32| {
        let sign = x & 1 << 31;
        let fraction = x & 0x7F_FFFF;
        sign | match x >> 23 & 15 {
            0 => 0,
            1 => fraction,
            2 => 0xFF << 23,
            3 => 0xFF << 23 | fraction,
            4 => 0xFE << 23 | fraction,
            5 => 1 << 23 | fraction,
            6 => 0x7F << 23,
            7 => 0x9E << 23 | fraction & !0xFF,
            n => (0x78 + n) << 23 | fraction,
        }
    };
    let doubles = double(seed as u64) as u128 | u128::from(double((seed >> 64) as u64)) << 64;
    let singles = (0..4).fold(0, |v, n| {
        v | u128::from(single((seed >> (32 * n)) as u32)) << (32 * n)
    });
    if seed.count_ones().is_multiple_of(2) {
        doubles
    } else {
        singles
    }
}

/// A value for MXCSR: exceptions are mostly masked, and reserved bits are hardly ever set.
fn control(seed: u32) -> u32 {
    let masks = if seed >> 16 & 15 == 0 {
        seed & 0x1F80
    } else {
        0x1F80
    };
    let reserved = if seed >> 20 & 31 == 0 { 1 << 16 } else { 0 };
    let flags = if seed >> 25 & 1 == 0 { 0 } else { seed & 0x3F };
    masks
        | reserved
        | flags
        | if seed >> 26 & 3 == 0 {
            0
        } else {
            seed & 0xE040
        }
}

fn scramble(n: u64) -> u64 {
    let n = (n ^ n >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (n ^ n >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn wide(n: u64) -> u128 {
    u128::from(scramble(n)) << 64 | u128::from(scramble(!n))
}

/// The state that a seed stands for.
fn state(guest: &mut FlatGuest, seed: u64) -> Vcpu {
    let mut vcpu = long_vcpu(guest, 0x1000, 0);
    for n in 0..16 {
        vcpu.regs.gpr[n] = scramble(seed + n as u64) >> (seed >> n & 32);
        vcpu.regs.fpu.ymm[n] = [0, 16].map(|half| number(wide(seed + n as u64 + half)));
    }
    // Mostly aligned, sometimes at the end of a page.
    for (n, at) in [(3, 0x400), (6, 0x1000), (7, 0x1F80)] {
        let low = if seed >> n & 3 == 0 { 1 } else { 32 };
        vcpu.regs.gpr[n] = DATA + at + (scramble(seed ^ n as u64) & 0xFF) / low * low;
    }
    vcpu.regs.gpr[4] = DATA + 0x3000;
    vcpu.regs.gpr[14] = CONTROLS;
    vcpu.regs.rflags = seed & 0x8D5 | 2;
    vcpu.regs.fpu.mxcsr = control(scramble(seed) as u32) & 0xFFFF;
    vcpu.regs.rip = CODE;
    vcpu.controls.primary = 1 << 7;
    vcpu.controls.exception_bitmap = u32::MAX;
    vcpu
}

fn fill(guest: &mut FlatGuest, code: &[u8], seed: u64) {
    let data: Vec<u8> = (0..DATA_LEN as u64 / 16)
        .flat_map(|n| number(wide(seed ^ n << 20)).to_le_bytes())
        .collect();
    guest.put(DATA, &data);
    let controls = (0..32).flat_map(|n| control(scramble(seed + n) as u32).to_le_bytes());
    guest.put(CONTROLS, &controls.collect::<Vec<u8>>());
    if guest.get(CODE, code.len()) != code {
        guest.put(CODE, code);
    }
}

type Outcome = (Vec<Ran>, Vcpu, Vec<u8>);

/// Runs the program twice, so that what translated code reads is there the second time.
fn run(kind: EngineKind, without: &[&str], code: &[u8], seed: u64, budgets: &[u64]) -> Outcome {
    let mut guest = FlatGuest::new(MEMORY);
    let mut engine = Engine::with(kind);
    assert_eq!(engine.refused(), None);
    engine.translate_after(0);
    for feature in without {
        assert!(engine.translate_without(feature), "{feature}");
    }
    let mut round = || {
        fill(&mut guest, code, seed);
        let mut vcpu = state(&mut guest, seed);
        let ran = budgets
            .iter()
            .map(|&budget| engine.run(&mut vcpu, &mut guest, budget))
            .collect();
        if let Some(difference) = engine.difference() {
            panic!("{difference}");
        }
        (ran, vcpu, guest.get(DATA, DATA_LEN))
    };
    round();
    round()
}

fn differ(code: &[u8], want: &Outcome, got: &Outcome) -> Option<String> {
    let (a, b) = (&want.1.regs, &got.1.regs);
    if want.0 == got.0 && a == b && want.1.exit == got.1.exit && want.2 == got.2 {
        return None;
    }
    let mut text = format!(
        "{code:02x?}\n{:?} {:?}\n{:?} {:?}",
        want.0, got.0, want.1.exit, got.1.exit
    );
    for n in 0..16 {
        if a.gpr[n] != b.gpr[n] || a.fpu.ymm[n] != b.fpu.ymm[n] {
            text += &format!(
                "\n{n}: {:x} {:x} {:x?} {:x?}",
                a.gpr[n], b.gpr[n], a.fpu.ymm[n], b.fpu.ymm[n]
            );
        }
    }
    text += &format!(
        "\nrip {:x} {:x} rflags {:x} {:x}",
        a.rip, b.rip, a.rflags, b.rflags
    );
    text += &format!(" mxcsr {:x} {:x}", a.fpu.mxcsr, b.fpu.mxcsr);
    Some(text)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_agree_at_every_instruction(
        code in prop::collection::vec(likely(), 1..10),
        branches in prop::collection::vec((0u8..16, any::<prop::sample::Index>()), 0..3),
        seed in any::<u32>(),
        budgets in prop::collection::vec(1u64..40, 1..6),
        lacking in prop_oneof![2 => Just(vec![]), 1 => prop::sample::subsequence(FEATURES.to_vec(), 1..4)],
    ) {
        // Forward branches over some of the instructions, then back to the top: `dec r8d; jnz top`.
        let mut bytes = vec![];
        for (n, insn) in code.iter().enumerate() {
            for (condition, at) in &branches {
                if at.index(code.len()) == n {
                    bytes.extend([0x70 | condition, insn.len() as u8]);
                }
            }
            bytes.extend(insn);
        }
        bytes.extend([0x41, 0xFF, 0xC8, 0x75, (-(bytes.len() as i32) - 5) as u8]);
        let seed = u64::from(seed);
        let want = run(EngineKind::Interpreter, &[], &bytes, seed, &budgets);
        for kind in [EngineKind::Translator, EngineKind::Lockstep] {
            let got = run(kind, &lacking, &bytes, seed, &budgets);
            prop_assert_eq!(differ(&bytes, &want, &got), None, "{:?} without {:?}", kind, lacking);
        }
    }
}

/// `vfmadd231pd xmm1, xmm2, xmm3; dec r8d; jnz`, 300 instructions, 200 of them integer ones: the state, and how many
/// were translated.
fn fused(change: impl Fn(&mut Vcpu), without: Option<&str>) -> (Vcpu, u64) {
    let code = [0xC4, 0xE2, 0xE9, 0xB8, 0xCB, 0x41, 0xFF, 0xC8, 0x75, 0xF6];
    let mut guest = FlatGuest::new(MEMORY);
    let mut engine = Engine::with(EngineKind::Translator);
    engine.translate_after(0);
    if let Some(feature) = without {
        assert!(engine.translate_without(feature));
    }
    guest.put(CODE, &code);
    let mut vcpu = state(&mut guest, 5);
    vcpu.regs.gpr[8] = 1000;
    vcpu.regs.fpu.mxcsr = 0x1F80;
    vcpu.regs.fpu.ymm[1..4].fill([0x3FF0_0000_0000_0001_3FF0_0000_0000_0001; 2]);
    change(&mut vcpu);
    let ran = engine.run(&mut vcpu, &mut guest, 300);
    assert_eq!((ran.retired, vcpu.regs.rip), (300, CODE));
    (vcpu, engine.translated())
}

#[test]
fn only_what_the_host_has_and_what_cannot_fault_is_translated() {
    if Engine::<x86_engine::flat::FlatPage>::with(EngineKind::Translator)
        .refused()
        .is_some()
    {
        println!("SKIPPED: this host translates nothing");
        return;
    }
    let (whole, translated) = fused(|_| (), None);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        assert!(translated > 200, "{translated}");
    }
    assert_eq!(whole.regs.fpu.mxcsr, 0x1FA0);
    let (lacking, translated) = fused(|_| (), Some("fma"));
    assert!(translated <= 200, "{translated}");
    assert!(lacking.regs == whole.regs);
    // An unmasked exception, though none is raised: every product is inexact, none is a division.
    let (unmasked, translated) = fused(|vcpu| vcpu.regs.fpu.mxcsr = 0x1D80, None);
    assert!(translated <= 200, "{translated}");
    assert_eq!(unmasked.regs.fpu.mxcsr, 0x1DA0);
    assert!(unmasked.regs.fpu.ymm == whole.regs.fpu.ymm);
    // No instruction sets a bit that does not exist, but a debugger may; the host would fault.
    let (reserved, translated) = fused(|vcpu| vcpu.regs.fpu.mxcsr = 0x1_1F80, None);
    assert!(translated <= 200, "{translated}");
    assert!(reserved.regs.fpu.ymm == whole.regs.fpu.ymm);
}
