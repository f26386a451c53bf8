//! TD entry in place: TDH.VP.ENTER straight on the VMM's register array.
//!
//! On entry it loads what the module will read: RCX, and the registers that a TDVMCALL's mask owes the guest, again on
//! every attempt until one enters the TD. On exit it looks at RAX before it stores: an asynchronous exit stores five
//! words of exit information and no register, a TDVMCALL exactly the registers of its mask, a call that reached no
//! module nothing. Three masks that real guests use have straight-line code: 0xFFCC (Linux, OVMF), 0xFFEC (older OVMF)
//! and 0xFC00 (td-shim); the others are tested bit by bit.
#![expect(
    unsafe_code,
    reason = "machine code: TD entry on the VMM's register array"
)]

use core::arch::naked_asm;

use tdx_abi::{LeafWord, Status};

use super::stub::{self, host_needs_saving, widened};
use crate::{NoSeam, SeamcallLp, TdxModuleArgs, Traffic, VpEntry};

/// Pushes what an exit may change among the registers that the caller owns, and the `VpEntry`.
macro_rules! save {
    () => {
        "push rbp\n push rbx\n push r12\n push r13\n push r14\n push r15\n push rdi"
    };
}
macro_rules! restore {
    () => {
        "pop r15\n pop r14\n pop r13\n pop r12\n pop rbx\n pop rbp\n ret"
    };
}
/// Clears the guest's values from the registers that the caller does not restore.
macro_rules! scrub {
    () => {
        "xor edx, edx\n xor esi, esi\n xor edi, edi\n xor r8d, r8d\n xor r9d, r9d\n xor r10d, r10d\n xor r11d, r11d"
    };
}
macro_rules! scrub_xmm {
    () => {
        concat!(
            "pxor xmm0, xmm0\n pxor xmm1, xmm1\n pxor xmm2, xmm2\n pxor xmm3, xmm3\n",
            "pxor xmm4, xmm4\n pxor xmm5, xmm5\n pxor xmm6, xmm6\n pxor xmm7, xmm7\n",
            "pxor xmm8, xmm8\n pxor xmm9, xmm9\n pxor xmm10, xmm10\n pxor xmm11, xmm11\n",
            "pxor xmm12, xmm12\n pxor xmm13, xmm13\n pxor xmm14, xmm14\n pxor xmm15, xmm15"
        )
    };
}
/// R10 to R15 from and to the file at `$base`.
macro_rules! load_high {
    ($base:literal) => {
        concat!(
            "mov r10, [",
            $base,
            " + 80]\n mov r11, [",
            $base,
            " + 88]\n mov r12, [",
            $base,
            " + 96]\n",
            "mov r13, [",
            $base,
            " + 104]\n mov r14, [",
            $base,
            " + 112]\n mov r15, [",
            $base,
            " + 120]"
        )
    };
}
macro_rules! store_high {
    ($base:literal) => {
        concat!(
            "mov [",
            $base,
            " + 80], r10\n mov [",
            $base,
            " + 88], r11\n mov [",
            $base,
            " + 96], r12\n",
            "mov [",
            $base,
            " + 104], r13\n mov [",
            $base,
            " + 112], r14\n mov [",
            $base,
            " + 120], r15"
        )
    };
}
/// RDX, RBX, RSI, R8 and R9 from and to the file at `$base`; RDI is the caller's to place.
macro_rules! load_low {
    ($base:literal) => {
        concat!(
            "mov rdx, [",
            $base,
            " + 16]\n mov rbx, [",
            $base,
            " + 24]\n mov rsi, [",
            $base,
            " + 48]\n",
            "mov r8, [",
            $base,
            " + 64]\n mov r9, [",
            $base,
            " + 72]"
        )
    };
}
macro_rules! store_low {
    ($base:literal) => {
        concat!(
            "mov [",
            $base,
            " + 16], rdx\n mov [",
            $base,
            " + 24], rbx\n mov [",
            $base,
            " + 48], rsi\n",
            "mov [",
            $base,
            " + 56], rdi\n mov [",
            $base,
            " + 64], r8\n mov [",
            $base,
            " + 72], r9"
        )
    };
}
/// One register by its bit in ECX.
macro_rules! load_bit {
    ($bit:literal, $reg:literal, $at:literal) => {
        concat!(
            "test ecx, ",
            $bit,
            "\n jz 5f\n mov ",
            $reg,
            ", [rax + ",
            $at,
            "]\n 5:"
        )
    };
}
macro_rules! store_bit {
    ($bit:literal, $reg:literal, $at:literal) => {
        concat!(
            "test ecx, ",
            $bit,
            "\n jz 5f\n mov [rax + ",
            $at,
            "], ",
            $reg,
            "\n 5:"
        )
    };
}
macro_rules! load_xmm {
    ($bit:literal, $reg:literal, $at:literal) => {
        concat!(
            "bt ecx, ",
            $bit,
            "\n jnc 5f\n movaps ",
            $reg,
            ", [rdx + ",
            $at,
            "]\n 5:"
        )
    };
}
macro_rules! store_xmm {
    ($bit:literal, $reg:literal, $at:literal) => {
        concat!(
            "bt ecx, ",
            $bit,
            "\n jnc 5f\n movaps [rax + ",
            $at,
            "], ",
            $reg,
            "\n 5:"
        )
    };
}
macro_rules! each_xmm {
    ($one:ident) => {
        concat!(
            $one!("16", "xmm0", "0"),
            $one!("17", "xmm1", "16"),
            $one!("18", "xmm2", "32"),
            $one!("19", "xmm3", "48"),
            $one!("20", "xmm4", "64"),
            $one!("21", "xmm5", "80"),
            $one!("22", "xmm6", "96"),
            $one!("23", "xmm7", "112"),
            $one!("24", "xmm8", "128"),
            $one!("25", "xmm9", "144"),
            $one!("26", "xmm10", "160"),
            $one!("27", "xmm11", "176"),
            $one!("28", "xmm12", "192"),
            $one!("29", "xmm13", "208"),
            $one!("30", "xmm14", "224"),
            $one!("31", "xmm15", "240"),
        )
    };
}

/// The whole entry around the instruction `$call`. Offsets are those of [`VpEntry`]: 0 the GPR file, 8 the XMM file or
/// null, 16 RCX of the call, 24 RCX of a TDVMCALL that waits for its answer, 32 to 64 the exit words.
///
/// Labels: 2 the instruction, 3 an asynchronous exit, 4 a TDVMCALL, 5 used locally, 6 its general form, 7 RAX ends in
/// 77 without being 77, 8 and 9 as in the stubs; from 20 on the entry that answers a TDVMCALL.
macro_rules! enter {
    ($(#[$doc:meta])* $name:ident, $call:expr $(, $operand:ident = sym $symbol:path)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $name(entry: *mut VpEntry<'_>) -> u64 {
            naked_asm!(
                "cmp qword ptr [rdi + 24], 0",
                "jne 20f",
                save!(),
                "mov rcx, [rdi + 16]",
                "xor eax, eax",
                "2:", $call, "jc 8f",
                "cmp rax, 77",
                "je 4f",
                "cmp al, 77",
                "je 7f",
                "3:", "pop rdi",
                "mov [rdi + 32], rax", "mov [rdi + 40], rcx", "mov [rdi + 48], rdx",
                "mov [rdi + 56], r8", "mov [rdi + 64], r9",
                restore!(),

                // A TDVMCALL. RAX is known, and RCX once it is compared: they make room for the pointers.
                "4:",
                "cmp rcx, 0xFFCC",
                "jne 40f",
                "pop rcx",
                "mov [rcx + 32], rax",
                "mov qword ptr [rcx + 24], 0xFFCC",
                "mov rcx, [rcx]",
                store_low!("rcx"), store_high!("rcx"), scrub!(), restore!(),
                "40:",
                "cmp rcx, 0xFFEC",
                "jne 41f",
                "pop rcx",
                "mov [rcx + 32], rax",
                "mov qword ptr [rcx + 24], 0xFFEC",
                "mov rcx, [rcx]",
                "mov [rcx + 40], rbp",
                store_low!("rcx"), store_high!("rcx"), scrub!(), restore!(),
                "41:",
                "cmp rcx, 0xFC00",
                "jne 6f",
                "pop rcx",
                "mov [rcx + 32], rax",
                "mov qword ptr [rcx + 24], 0xFC00",
                "mov rcx, [rcx]",
                store_high!("rcx"), scrub!(), restore!(),
                "6:",
                "push rax",
                "mov rax, [rsp + 8]",
                "mov [rax + 24], rcx",
                "mov rax, [rax]",
                store_bit!("0x4", "rdx", "16"), store_bit!("0x8", "rbx", "24"),
                store_bit!("0x20", "rbp", "40"), store_bit!("0x40", "rsi", "48"),
                store_bit!("0x80", "rdi", "56"), store_bit!("0x100", "r8", "64"),
                store_bit!("0x200", "r9", "72"), store_bit!("0x400", "r10", "80"),
                store_bit!("0x800", "r11", "88"), store_bit!("0x1000", "r12", "96"),
                store_bit!("0x2000", "r13", "104"), store_bit!("0x4000", "r14", "112"),
                store_bit!("0x8000", "r15", "120"),
                "test ecx, 0xFFFF0000",
                "jz 61f",
                "mov rax, [rsp + 8]",
                "mov rax, [rax + 8]",
                "test rax, rax",
                "jz 60f",
                each_xmm!(store_xmm),
                "60:", scrub_xmm!(),
                "61:", "pop rax", "pop rcx", "mov [rcx + 32], rax",
                scrub!(), restore!(),
                // A TDVMCALL after a bus lock, or a status whose operand is 77.
                "7:", "cmp rax, 0x400004D", "je 6b", "jmp 3b",
                failed!(
                    "pop rdi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
                    "ret"
                ),

                // The entry that answers a TDVMCALL: the same, after loading what the mask selects.
                "20:", save!(),
                "mov rax, [rdi]",
                "cmp qword ptr [rdi + 24], 0xFFCC",
                "je 21f",
                "cmp qword ptr [rdi + 24], 0xFFEC",
                "jne 22f",
                "mov rbp, [rax + 40]",
                "21:",
                "mov rcx, [rdi + 16]",
                load_low!("rax"), load_high!("rax"), "mov rdi, [rax + 56]",
                "29:", "xor eax, eax",
                "2:", $call, "jc 8f",
                "cmp rax, 77",
                "je 4b",
                "cmp al, 77",
                "je 7f",
                "3:", "pop rdi",
                "mov [rdi + 32], rax", "mov [rdi + 40], rcx", "mov [rdi + 48], rdx",
                "mov [rdi + 56], r8", "mov [rdi + 64], r9",
                // Entered, so the answer was delivered, when the upper half is 0; the caller sorts the other statuses.
                "mov rbx, rax", "shr rbx, 32", "jnz 5f",
                "mov qword ptr [rdi + 24], 0",
                "5:", restore!(),
                "22:",
                "cmp qword ptr [rdi + 24], 0xFC00",
                "jne 23f",
                "mov rcx, [rdi + 16]",
                load_high!("rax"),
                "jmp 29b",
                "23:",
                "mov rcx, [rdi + 24]",
                "test ecx, 0xFFFF0000",
                "jz 25f",
                "mov rdx, [rdi + 8]",
                "test rdx, rdx",
                "jnz 24f",
                // No file: the guest finds zeros, not what this processor had there.
                scrub_xmm!(),
                "jmp 25f",
                "24:", each_xmm!(load_xmm),
                "25:",
                load_bit!("0x4", "rdx", "16"), load_bit!("0x8", "rbx", "24"),
                load_bit!("0x20", "rbp", "40"), load_bit!("0x40", "rsi", "48"),
                load_bit!("0x100", "r8", "64"), load_bit!("0x200", "r9", "72"),
                load_bit!("0x400", "r10", "80"), load_bit!("0x800", "r11", "88"),
                load_bit!("0x1000", "r12", "96"), load_bit!("0x2000", "r13", "104"),
                load_bit!("0x4000", "r14", "112"), load_bit!("0x8000", "r15", "120"),
                "test ecx, 0x80",
                "mov rcx, [rdi + 16]",
                "jz 29b",
                "mov rdi, [rax + 56]",
                "jmp 29b",
                "7:", "cmp rax, 0x400004D", "je 6b", "jmp 3b",
                failed!(
                    "pop rdi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
                    "ret"
                ),
                $($operand = sym $symbol)?
            )
        }
    };
}

enter! {
    /// The entry itself; returns RAX, or software's word for a call that reached no module.
    ///
    /// The answer of a TDVMCALL stays owed after a status with bits in its upper half: [`SeamLp`] settles those.
    ///
    /// # Safety
    /// The processor is in VMX root operation with a TDX module, or has a handler for the faults (see
    /// [`super::fixups`]). A TD exit changes processor state beside the registers: see [`SeamLp`].
    enter, ".byte 0x66, 0x0F, 0x01, 0xCF"
}

/// What a kernel saves before a TD entry and restores after it: the state that [`SeamLp`]'s safety section lists.
pub trait HostState {
    fn save(&mut self);
    fn restore(&mut self);
}

/// Nothing is saved: the caller lives with what an exit leaves changed, as user space over `tdx_trap` does.
#[derive(Clone, Copy, Default, Debug)]
pub struct LeaveChanged;

impl HostState for LeaveChanged {
    #[inline(always)]
    fn save(&mut self) {}
    #[inline(always)]
    fn restore(&mut self) {}
}

/// A logical processor executing SEAMCALL itself.
///
/// # Safety of a TD exit
/// A TD exit leaves changed (spec: vp-enter.md 5 and 6.1), and the stubs do not restore:
/// * x87, MXCSR, vector, mask and AMX state, PKRU: initial. The stubs are `sysv64` functions, so that the compiler
///   expects vector registers to be lost; x87 and MXCSR come back with the values that Rust and C expect. PKRU comes
///   back as 0, which allows everything: a program that uses protection keys restores it.
/// * XCR0 and IA32_XSS: the TD's XFAM; DR0 to DR3 0, DR6 0xFFFF0FF0, DR7 0x400; CR2 0.
/// * TSC_AUX, STAR, LSTAR, KERNEL_GS_BASE 0, FMASK 0x20200; XFD and XFD_ERR 0; UMWAIT_CONTROL, LBR_DEPTH and some
///   performance MSRs the guest's; DEBUGCTL mostly 0.
///
/// A kernel restores these in its [`HostState`], with interrupts off around the call. RBP, RBX and R12 to R15 are
/// restored by every stub, whatever the module does to them.
#[derive(Debug)]
pub struct SeamLp<H = LeaveChanged> {
    state: H,
}

impl<H: HostState> SeamLp<H> {
    /// # Safety
    /// The caller stays on one processor for each call, nothing else calls the module there meanwhile, and the caller
    /// answers for what the leaves it calls do to the pages they name. `state` keeps what the caller needs of the state
    /// listed above. On a processor without a TDX module a handler for the faults is installed (each call then answers
    /// [`NoSeam`]).
    pub const unsafe fn new(state: H) -> Self {
        SeamLp { state }
    }
}

impl<H: HostState> SeamcallLp for SeamLp<H> {
    #[inline]
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        let enters = leaf.number() == 0;
        if enters {
            self.state.save();
        }
        let rax = if traffic != Traffic::Saved && host_needs_saving(leaf) {
            // SAFETY: the maker of the handle vouches for the leaf.
            widened(args, traffic, |block| unsafe {
                stub::seamcall_saved_ret(leaf.0, block)
            })
        } else {
            // SAFETY: the same; the leaf changes no register that the variant does not save.
            unsafe {
                match traffic {
                    Traffic::In => stub::seamcall(leaf.0, args),
                    Traffic::InOut => stub::seamcall_ret(leaf.0, args),
                    Traffic::Saved => stub::seamcall_saved_ret(leaf.0, args),
                }
            }
        };
        if enters {
            self.state.restore();
        }
        NoSeam::sort(rax)
    }

    #[inline]
    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        self.state.save();
        // SAFETY: the maker of the handle vouches for the processor; `entry` holds valid files.
        let rax = unsafe { enter(entry) };
        self.state.restore();
        entry.settle(rax)
    }
}
