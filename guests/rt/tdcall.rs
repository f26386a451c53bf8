//! TDCALL, the guest's side of the module's ABI.

use core::arch::asm;

/// Registers in and out of a TDCALL; RAX apart.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Registers {
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

pub const VP_VMCALL: u64 = 0;
pub const VP_INFO: u64 = 1;
pub const MR_RTMR_EXTEND: u64 = 2;
pub const VP_VEINFO_GET: u64 = 3;
pub const MR_REPORT: u64 = 4;
pub const MEM_PAGE_ACCEPT: u64 = 6;
pub const VM_RD: u64 = 7;

/// Executes TDCALL and gives RAX back.
pub fn tdcall(leaf: u64, regs: &mut Registers) -> u64 {
    let mut rax = leaf;
    // RBX and RBP cannot be operands of inline assembly: they are saved by hand and the block is found through RBP.
    // SAFETY: memory that a leaf writes is named by the caller's registers and owned by it; all general-purpose
    // registers that the module may change are declared, and RBX and RBP are put back.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "push rax",
            "mov rbp, rdi",
            "mov rcx, [rbp]",
            "mov rdx, [rbp + 8]",
            "mov rbx, [rbp + 16]",
            "mov rsi, [rbp + 24]",
            "mov rdi, [rbp + 32]",
            "mov r8, [rbp + 40]",
            "mov r9, [rbp + 48]",
            "mov r10, [rbp + 56]",
            "mov r11, [rbp + 64]",
            "mov r12, [rbp + 72]",
            "mov r13, [rbp + 80]",
            "mov r14, [rbp + 88]",
            "mov r15, [rbp + 96]",
            "pop rax",
            "push rbp",
            ".byte 0x66, 0x0F, 0x01, 0xCC",
            "pop rbp",
            "mov [rbp], rcx",
            "mov [rbp + 8], rdx",
            "mov [rbp + 16], rbx",
            "mov [rbp + 24], rsi",
            "mov [rbp + 32], rdi",
            "mov [rbp + 40], r8",
            "mov [rbp + 48], r9",
            "mov [rbp + 56], r10",
            "mov [rbp + 64], r11",
            "mov [rbp + 72], r12",
            "mov [rbp + 80], r13",
            "mov [rbp + 88], r14",
            "mov [rbp + 96], r15",
            "pop rbx",
            "pop rbp",
            inout("rax") rax,
            inout("rdi") &raw mut *regs => _,
            out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    rax
}
