//! Makes a failing case small: everything that can be zero is, and the rest fits in a line.

use core::fmt::Write as _;

use iced_x86::Instruction;
use x86_arch::vmx::Fpu;

use crate::compare::{End, native_end};
use crate::state::{Case, Outcome};

/// Tries simpler values one by one and keeps those with which the case still fails.
pub fn minimize(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let mut attempt = |best: &mut Case, change: &dyn Fn(&mut Case)| {
        let mut next = best.clone();
        change(&mut next);
        if fails(&next) {
            *best = next;
        }
    };
    for i in 0..16 {
        attempt(&mut best, &|c| c.state.gpr[i] = 0);
        attempt(&mut best, &|c| c.state.fpu.ymm[i] = [0; 2]);
        attempt(&mut best, &|c| c.state.fpu.ymm[i][1] = 0);
        attempt(&mut best, &|c| {
            c.state.fpu.ymm[i][0] &= u128::from(u64::MAX)
        });
        attempt(&mut best, &|c| {
            c.state.fpu.ymm[i][0] &= u128::from(u32::MAX)
        });
    }
    for i in 0..8 {
        attempt(&mut best, &|c| c.state.fpu.st[i] = 0);
    }
    attempt(&mut best, &|c| c.state.rflags = 0x202);
    attempt(&mut best, &|c| c.state.fpu.mxcsr = 0x1F80);
    attempt(&mut best, &|c| {
        let ymm = c.state.fpu.ymm;
        c.state.fpu = Fpu {
            ymm,
            mxcsr: c.state.fpu.mxcsr,
            ..Fpu::default()
        };
    });
    attempt(&mut best, &|c| c.state.fpu.fcw = 0x37F);
    attempt(&mut best, &|c| c.state.fpu.ftw = 0xFF);
    attempt(&mut best, &|c| c.memory.fill(0));
    let mut size = best.memory.len() / 2;
    while size >= 16 {
        for at in (0..best.memory.len()).step_by(size) {
            if best.memory[at..at + size].iter().any(|b| *b != 0) {
                attempt(&mut best, &|c| c.memory[at..at + size].fill(0));
            }
        }
        size /= 2;
    }
    best
}

/// The case as a line: text, bytes, inputs, and what the host's processor made of it.
pub fn line(instruction: &Instruction, case: &Case, native: &Outcome) -> String {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    let mut text = String::new();
    for byte in &case.bytes {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, " # {:?} |", instruction.code());
    for (name, value) in NAMES.iter().zip(case.state.gpr) {
        if value != 0 {
            let _ = write!(text, " {name}={value:#x}");
        }
    }
    if case.state.rflags != 0x202 {
        let _ = write!(text, " rflags={:#x}", case.state.rflags);
    }
    let fpu = &case.state.fpu;
    for (i, ymm) in fpu.ymm.iter().enumerate() {
        if *ymm != [0; 2] {
            let _ = write!(text, " ymm{i}={:#x}:{:#x}", ymm[1], ymm[0]);
        }
    }
    let initial = Fpu::default();
    if fpu.mxcsr != initial.mxcsr {
        let _ = write!(text, " mxcsr={:#x}", fpu.mxcsr);
    }
    if (fpu.fcw, fpu.fsw, fpu.ftw) != (initial.fcw, initial.fsw, initial.ftw) {
        let _ = write!(
            text,
            " fcw={:#x} fsw={:#x} ftw={:#x}",
            fpu.fcw, fpu.fsw, fpu.ftw
        );
    }
    for (i, st) in fpu.st.iter().enumerate() {
        if *st != 0 {
            let _ = write!(text, " r{i}={st:#x}");
        }
    }
    for (at, chunk) in case
        .memory
        .chunks_exact(16)
        .enumerate()
        .filter(|(_, c)| c.iter().any(|b| *b != 0))
        .take(8)
    {
        let _ = write!(text, " [{:#x}]=", at * 16);
        chunk.iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
    }
    match native_end(native) {
        End::At(rip) => {
            let _ = write!(text, " => rip={rip:#x}");
        }
        End::Fault {
            vector,
            error,
            address,
        } => {
            let _ = write!(
                text,
                " => fault vector={vector} error={error:#x} address={address:#x}"
            );
        }
    }
    text
}
