//! Nanoseconds per guest instruction of vector and x87 families in the interpreter.
//!
//! `cargo bench -p x86_engine --bench vectors`

use std::time::{Duration, Instant};

use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, Stop};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;
const COPIES: usize = 64;
const BUDGET: u64 = 300_000;

fn main() {
    let families: &[(&str, &[u8])] = &[
        ("movdqu load", &[0xF3, 0x0F, 0x6F, 0x03]),
        ("movdqu store", &[0xF3, 0x0F, 0x7F, 0x03]),
        ("pxor", &[0x66, 0x0F, 0xEF, 0xC1]),
        ("paddb", &[0x66, 0x0F, 0xFC, 0xC1]),
        ("pshufb", &[0x66, 0x0F, 0x38, 0x00, 0xC1]),
        ("vpaddd ymm", &[0xC5, 0xF5, 0xFE, 0xC2]),
        ("aesenc", &[0x66, 0x0F, 0x38, 0xDC, 0xC1]),
        ("pclmulqdq", &[0x66, 0x0F, 0x3A, 0x44, 0xC1, 0x00]),
        ("sha256rnds2", &[0x0F, 0x38, 0xCB, 0xD1]),
        ("addsd", &[0xF2, 0x0F, 0x58, 0xC1]),
        ("mulps", &[0x0F, 0x59, 0xC1]),
        ("divsd", &[0xF2, 0x0F, 0x5E, 0xC1]),
        ("vfmadd231pd ymm", &[0xC4, 0xE2, 0xF5, 0xB8, 0xC2]),
        ("fadd", &[0xD8, 0xC1]),
        ("fsin", &[0xD9, 0xFE]),
        ("fxsave", &[0x0F, 0xAE, 0x03]),
    ];
    println!("{:<16} {:>8}", "instruction", "ns each");
    for (name, code) in families {
        println!("{name:<16} {:>8.1}", measure(code));
    }
}

/// The best of three runs of a loop of copies.
fn measure(instruction: &[u8]) -> f64 {
    let mut memory = FlatGuest::new(0x100_0000);
    let mut code = instruction.repeat(COPIES);
    code.extend([0xE9]);
    code.extend((-(code.len() as i32 + 4)).to_le_bytes());
    memory.put(CODE, &code);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut vcpu = long_vcpu(&mut memory, 0x1000, 0);
        vcpu.regs.rip = CODE;
        vcpu.regs.gpr[3] = DATA;
        vcpu.regs.fpu.ymm = [[0x3FF0_0000_0000_0001_3F80_0001_3F80_0001; 2]; 16];
        vcpu.regs.fpu.st = [0x3FFF_8000_0000_0000_0001; 8];
        vcpu.regs.fpu.ftw = 0xFF;
        let mut engine = Engine::new();
        let start = Instant::now();
        let ran = engine.run(&mut vcpu, &mut memory, BUDGET);
        best = best.min(start.elapsed());
        assert_eq!(ran.stop, Stop::Budget, "{:?}", vcpu.exit);
    }
    best.as_nanos() as f64 / BUDGET as f64
}
