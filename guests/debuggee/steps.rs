//! One place for every kind of instruction that is worth a single step. Each label `step_X` is followed by `after_X`.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use super::own_exceptions::{self, WAKE_VECTOR};
use crate::rt::{console, vmcall};

/// The x2APIC's interrupt command register.
const ICR: u32 = 0x830;
/// How long the second processor lets the first one sleep.
const SLEEP: u32 = 100_000;

/// The first processor is about to halt.
static HALTING: AtomicBool = AtomicBool::new(false);

global_asm!(
    r#"
    .section .text.steps, "ax"
    .macro step name, insn:vararg
    .globl step_\name, after_\name
step_\name:
    \insn
after_\name:
    nop
    .endm

    .globl single_steps
single_steps:
    push rbx
    push rbp
    mov rbp, rsp
    mov eax, 0x40000000
    step cpuid, cpuid
    mov edx, 0x3FD
    step in, in al, dx
    step int3, int3
    step pushf, pushfq
    pop rcx
    mov eax, ss
    step movss, mov ss, eax
    # The #VE handler waits in TDVMCALL HLT until another processor sends an interrupt.
    sti
    step hlt, hlt
    cli
    mov eax, 3
    sub rsp, 16
    mov [rsp], eax
    step sse, cvtsi2sd xmm7, dword ptr [rsp]
    add rsp, 16
    mov rax, rcx
    pop rbp
    pop rbx
    ret
"#
);

unsafe extern "C" {
    fn single_steps() -> u64;
}

/// Sends the first processor, some time after it halted, the interrupt that wakes it.
pub fn wake_first() {
    while !HALTING.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    for _ in 0..SLEEP {
        core::hint::spin_loop();
    }
    vmcall::wrmsr(ICR, WAKE_VECTOR as u64);
}

/// Comes by all of them, and tells the RFLAGS that PUSHF stored.
pub fn all() {
    HALTING.store(true, Ordering::Release);
    // SAFETY: it keeps the calling convention, and the handlers that it needs are installed.
    let flags = unsafe { single_steps() };
    console::line(format_args!(
        "PUSHF stored {flags:#x}, woken {} times",
        own_exceptions::wakes()
    ));
}
