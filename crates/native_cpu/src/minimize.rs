//! Makes a case small: everything that can be zero is, and the rest fits in a line.

use x86_arch::vmx::Fpu;

use crate::state::Case;

/// Tries simpler values one by one and keeps those with which `holds` is still true.
pub fn minimize(case: &Case, mut holds: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let mut attempt = |best: &mut Case, change: &dyn Fn(&mut Case)| {
        let mut next = best.clone();
        change(&mut next);
        if holds(&next) {
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
    if best.state.fpu.ftw != 0 {
        attempt(&mut best, &|c| c.state.fpu.ftw = 0xFF);
    }
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
