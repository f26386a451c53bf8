//! What the benchmark, the example `round_trip` and the tests of S6 and S8 measure beside [`super::enter`].
//!
//! A model of Linux's way (spec: linux.md 1): thirteen loads and thirteen stores of `struct tdx_module_args` around the
//! instruction, whatever the exit, and copies afterwards. And both ways with the instruction replaced by a stand-in, so
//! that they run in an ordinary process: a load from [`EXIT`] for each register, no call.
#![expect(
    unsafe_code,
    reason = "machine code: a model of Linux's TD entry, and stand-ins"
)]

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{TdxModuleArgs, VpEntry};

/// The registers after the stand-in, in encoding order; RSP is not used.
pub static EXIT: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Sets what the stand-ins answer.
pub fn set_exit(gprs: [u64; 16]) {
    for (register, value) in EXIT.iter().zip(gprs) {
        register.store(value, Ordering::Relaxed);
    }
}

macro_rules! stand_in {
    () => {
        concat!(
            "mov rax, [rip + {exit}]\n mov rcx, [rip + {exit} + 8]\n mov rdx, [rip + {exit} + 16]\n",
            "mov rbx, [rip + {exit} + 24]\n mov rbp, [rip + {exit} + 40]\n",
            "mov rsi, [rip + {exit} + 48]\n mov rdi, [rip + {exit} + 56]\n",
            "mov r8, [rip + {exit} + 64]\n mov r9, [rip + {exit} + 72]\n",
            "mov r10, [rip + {exit} + 80]\n mov r11, [rip + {exit} + 88]\n",
            "mov r12, [rip + {exit} + 96]\n mov r13, [rip + {exit} + 104]\n",
            "mov r14, [rip + {exit} + 112]\n mov r15, [rip + {exit} + 120]"
        )
    };
}

/// The same without RBP: Linux builds every TD with NO_RBP_MOD and does not save it.
macro_rules! linux_stand_in {
    () => {
        concat!(
            "mov rax, [rip + {exit}]\n mov rcx, [rip + {exit} + 8]\n mov rdx, [rip + {exit} + 16]\n",
            "mov rbx, [rip + {exit} + 24]\n",
            "mov rsi, [rip + {exit} + 48]\n mov rdi, [rip + {exit} + 56]\n",
            "mov r8, [rip + {exit} + 64]\n mov r9, [rip + {exit} + 72]\n",
            "mov r10, [rip + {exit} + 80]\n mov r11, [rip + {exit} + 88]\n",
            "mov r12, [rip + {exit} + 96]\n mov r13, [rip + {exit} + 104]\n",
            "mov r14, [rip + {exit} + 112]\n mov r15, [rip + {exit} + 120]"
        )
    };
}

enter! {
    /// [`super::enter`] around the stand-in.
    ///
    /// # Safety
    /// `entry` is valid for writing.
    enter_stand_in, stand_in!(), exit = sym EXIT
}

macro_rules! linux {
    ($(#[$doc:meta])* $vp_enter:ident, $saved:ident, $call:expr $(, $operand:ident = sym $symbol:path)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $vp_enter(args: *mut TdxModuleArgs, tdvpr: u64) -> u64 {
            naked_asm!(
                "mov [rdi], rsi",
                "mov rsi, rdi",
                "xor edi, edi",
                "jmp {saved}",
                saved = sym $saved,
            )
        }

        /// The primitive below it: RDI the leaf, RSI the block.
        ///
        /// # Safety
        /// As for the function that jumps here.
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $saved(leaf: u64, args: *mut TdxModuleArgs) -> u64 {
            naked_asm!(
                "mov rax, rdi",
                "push rbx", "push r12", "push r13", "push r14", "push r15",
                "push rsi",
                "mov rcx, [rsi]", "mov rdx, [rsi + 8]", "mov r8, [rsi + 16]",
                "mov r9, [rsi + 24]", "mov r10, [rsi + 32]", "mov r11, [rsi + 40]",
                "mov r12, [rsi + 48]", "mov r13, [rsi + 56]", "mov r14, [rsi + 64]",
                "mov r15, [rsi + 72]", "mov rbx, [rsi + 80]", "mov rdi, [rsi + 88]",
                "mov rsi, [rsi + 96]",
                $call,
                "jc 8f",
                "push rax", "mov rax, [rsp + 8]", "mov [rax + 96], rsi", "pop rax", "pop rsi",
                "mov [rsi], rcx", "mov [rsi + 8], rdx", "mov [rsi + 16], r8",
                "mov [rsi + 24], r9", "mov [rsi + 32], r10", "mov [rsi + 40], r11",
                "mov [rsi + 48], r12", "mov [rsi + 56], r13", "mov [rsi + 64], r14",
                "mov [rsi + 72], r15", "mov [rsi + 80], rbx", "mov [rsi + 88], rdi",
                "xor ecx, ecx", "xor edx, edx", "xor ebx, ebx", "xor edi, edi",
                "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d",
                "xor r12d, r12d", "xor r13d, r13d", "xor r14d, r14d", "xor r15d, r15d",
                "7:", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "ret",
                "8:", "movabs rax, 0x8000FF00FFFF0000", "pop rsi", "jmp 7b",
                $($operand = sym $symbol)?
            )
        }
    };
}

linux! {
    /// The model of Linux's `tdh_vp_enter`: one store of RCX, and the primitive.
    ///
    /// # Safety
    /// As for [`super::seamcall_saved_ret`], in a TD with NO_RBP_MOD whose module honours it: RBP is not saved.
    linux_vp_enter, linux_saved_ret, ".byte 0x66, 0x0F, 0x01, 0xCF"
}
linux! {
    /// The same around the stand-in, which leaves RBP alone.
    ///
    /// # Safety
    /// `args` is valid for writing.
    linux_vp_enter_stand_in, linux_saved_ret_stand_in, linux_stand_in!(), exit = sym EXIT
}

/// The copies that KVM makes after each exit: RCX, RDX, R8 and R9 into its own fields.
///
/// # Safety
/// `args` and the four words at `fields` are valid.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn linux_copies(args: *const TdxModuleArgs, fields: *mut [u64; 4]) {
    naked_asm!(
        "mov rax, [rdi]",
        "mov [rsi], rax",
        "mov rax, [rdi + 8]",
        "mov [rsi + 8], rax",
        "mov rax, [rdi + 16]",
        "mov [rsi + 16], rax",
        "mov rax, [rdi + 24]",
        "mov [rsi + 24], rax",
        "ret",
    )
}
