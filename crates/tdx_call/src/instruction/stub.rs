//! The kernel's three variants of SEAMCALL and of TDCALL.
#![expect(unsafe_code, reason = "machine code: the stubs of SEAMCALL and TDCALL")]

use core::arch::naked_asm;

use tdx_abi::{GuestLeaf, HostLeaf, LeafWord, Status};

use crate::{NoSeam, TdcallCpu, TdxModuleArgs, Traffic};

/// The text of a stub: `$call` are the bytes of the instruction, `$carry` the branch that follows SEAMCALL.
///
/// Every stub keeps RBP on its stack, so that a module which zeroes it harms nobody. The labels: 2 the instruction,
/// 8 VMfailInvalid, 9 where an exception fixup resumes with the vector in RAX. Nothing is stored on those two ways.
macro_rules! stub {
    ($(#[$doc:meta])* $name:ident, $call:literal, $carry:literal, in) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $name(leaf: u64, args: *const TdxModuleArgs) -> u64 {
            naked_asm!(
                "push rbp",
                load_six!(), "mov rax, rdi",
                "2:", $call, $carry,
                "pop rbp",
                "ret",
                failed!("pop rbp", "ret"),
            )
        }
    };
    ($(#[$doc:meta])* $name:ident, $call:literal, $carry:literal, in_out) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $name(leaf: u64, args: *mut TdxModuleArgs) -> u64 {
            naked_asm!(
                "push rbp",
                load_six!(), "mov rax, rdi",
                "2:", $call, $carry,
                "mov [rsi], rcx", "mov [rsi + 8], rdx", "mov [rsi + 16], r8",
                "mov [rsi + 24], r9", "mov [rsi + 32], r10", "mov [rsi + 40], r11",
                "pop rbp",
                "ret",
                failed!("pop rbp", "ret"),
            )
        }
    };
    ($(#[$doc:meta])* $name:ident, $call:literal, $carry:literal, saved) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $name(leaf: u64, args: *mut TdxModuleArgs) -> u64 {
            naked_asm!(
                "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
                // RSI is an argument of the call: the pointer waits on the stack.
                "push rsi",
                "mov rax, rdi",
                load_six!(),
                "mov r12, [rsi + 48]", "mov r13, [rsi + 56]", "mov r14, [rsi + 64]",
                "mov r15, [rsi + 72]", "mov rbx, [rsi + 80]", "mov rdi, [rsi + 88]",
                "mov rsi, [rsi + 96]",
                "2:", $call, $carry,
                // Every register may be an output: RAX makes room for the pointer.
                "push rax",
                "mov rax, [rsp + 8]",
                "mov [rax], rcx", "mov [rax + 8], rdx", "mov [rax + 16], r8",
                "mov [rax + 24], r9", "mov [rax + 32], r10", "mov [rax + 40], r11",
                "mov [rax + 48], r12", "mov [rax + 56], r13", "mov [rax + 64], r14",
                "mov [rax + 72], r15", "mov [rax + 80], rbx", "mov [rax + 88], rdi",
                "mov [rax + 96], rsi",
                "pop rax",
                // No value of the other side stays in a register: it could steer speculation.
                "xor ecx, ecx", "xor edx, edx", "xor edi, edi", "xor r8d, r8d",
                "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d",
                "pop rsi",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
                "ret",
                failed!(
                    "pop rsi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
                    "ret"
                ),
            )
        }
    };
}

macro_rules! load_six {
    () => {
        concat!(
            "mov rcx, [rsi]\n mov rdx, [rsi + 8]\n mov r8, [rsi + 16]\n",
            "mov r9, [rsi + 24]\n mov r10, [rsi + 32]\n mov r11, [rsi + 40]"
        )
    };
}

/// The ways out of a call that reached no module, and its line in the exception table.
macro_rules! failed {
    ($($leave:literal),*) => {
        concat!(
            "8:\n movabs rax, 0x8000FF00FFFF0000\n", $($leave, "\n",)*
            "9:\n movabs rdi, 0x8000FF0000000000\n or rax, rdi\n", $($leave, "\n",)*
            ".pushsection tdx_extable, \"aR\", @progbits\n",
            ".balign 4\n .long 2b - .\n .long 9b - .\n",
            ".popsection"
        )
    };
}

stub! {
    /// Linux's `__seamcall`: RCX, RDX and R8 to R11 from `args`, no output but RAX.
    ///
    /// # Safety
    /// The caller owns every page that the operands name to this leaf, and the leaf has no output beyond R11 (which
    /// excludes TDH.VP.ENTER and TDH.SERVTD.BIND).
    seamcall, ".byte 0x66, 0x0F, 0x01, 0xCF", "jc 8f", in
}
stub! {
    /// Linux's `__seamcall_ret`: the same, and the six registers back into `args`.
    ///
    /// # Safety
    /// As for [`seamcall`]; `args` is valid for writing.
    seamcall_ret, ".byte 0x66, 0x0F, 0x01, 0xCF", "jc 8f", in_out
}
stub! {
    /// Linux's `__seamcall_saved_ret`: all thirteen registers both ways, for TDH.VP.ENTER too.
    ///
    /// # Safety
    /// As for [`seamcall_ret`], without its exception. A TD exit changes state beside the registers: see [`super::SeamLp`].
    seamcall_saved_ret, ".byte 0x66, 0x0F, 0x01, 0xCF", "jc 8f", saved
}
stub! {
    /// Linux's `__tdcall`: RCX, RDX and R8 to R11 from `args`, no output but RAX.
    ///
    /// # Safety
    /// The caller owns every page that the operands name to this leaf, and the leaf has no output beyond R11 (which
    /// excludes TDG.VP.VMCALL, TDG.VP.ENTER and the TDG.SERVTD leaves).
    tdcall, ".byte 0x66, 0x0F, 0x01, 0xCC", "", in
}
stub! {
    /// Linux's `__tdcall_ret`: the same, and the six registers back into `args`.
    ///
    /// # Safety
    /// As for [`tdcall`]; `args` is valid for writing.
    tdcall_ret, ".byte 0x66, 0x0F, 0x01, 0xCC", "", in_out
}
stub! {
    /// Linux's `__tdcall_saved_ret`: all thirteen registers both ways, for TDG.VP.VMCALL and TDG.VP.ENTER too.
    ///
    /// # Safety
    /// As for [`tdcall_ret`], without its exception. A TDG.VP.VMCALL mask selects no XMM register.
    tdcall_saved_ret, ".byte 0x66, 0x0F, 0x01, 0xCC", "", saved
}

/// A processor of a TD, executing the instruction itself.
#[derive(Debug)]
pub struct TdCpu(());

impl TdCpu {
    /// # Safety
    /// The caller runs inside a TD in 64-bit mode (or has a handler for the faults of TDCALL elsewhere: then each call
    /// answers [`NoSeam`]), stays on one processor for each call, and answers for what the leaves it calls do to the
    /// pages they name.
    pub const unsafe fn new() -> TdCpu {
        TdCpu(())
    }
}

impl TdcallCpu for TdCpu {
    #[inline]
    fn tdcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        if leaf.number() == GuestLeaf::VP_VMCALL.0 {
            // The selected registers change, callee-saved ones too; an XMM select would change what this stub keeps.
            args.rcx &= 0xFFFF;
        }
        let rax = if traffic != Traffic::Saved && guest_needs_saving(leaf) {
            // SAFETY: the maker of the handle vouches for the leaf.
            widened(args, traffic, |block| unsafe {
                tdcall_saved_ret(leaf.0, block)
            })
        } else {
            // SAFETY: the same; the leaf changes no register that the variant does not save.
            unsafe {
                match traffic {
                    Traffic::In => tdcall(leaf.0, args),
                    Traffic::InOut => tdcall_ret(leaf.0, args),
                    Traffic::Saved => tdcall_saved_ret(leaf.0, args),
                }
            }
        };
        NoSeam::sort(rax)
    }
}

/// Whether a leaf may change registers that the compiler expects to be kept: those with outputs beyond R11, and
/// numbers that this crate does not know.
fn guest_needs_saving(leaf: LeafWord) -> bool {
    match GuestLeaf(leaf.number()) {
        GuestLeaf::VP_VMCALL
        | GuestLeaf::VP_ENTER
        | GuestLeaf::SERVTD_RD
        | GuestLeaf::SERVTD_WR => true,
        known => known.name().is_none(),
    }
}

/// The same for SEAMCALL.
pub(super) fn host_needs_saving(leaf: LeafWord) -> bool {
    match HostLeaf(leaf.number()) {
        HostLeaf::VP_ENTER | HostLeaf::SERVTD_BIND => true,
        known => known.name().is_none(),
    }
}

/// A call through the variant that saves all registers, with the outputs that a narrower one was asked for.
pub(super) fn widened(
    args: &mut TdxModuleArgs,
    asked: Traffic,
    saved: impl FnOnce(&mut TdxModuleArgs) -> u64,
) -> u64 {
    let mut block = *args;
    let rax = saved(&mut block);
    if asked == Traffic::InOut {
        let mut values = args.to_array();
        values[..6].copy_from_slice(&block.to_array()[..6]);
        *args = TdxModuleArgs::from_array(values);
    }
    rax
}
