//! The argument block of a call, laid out as Linux's `struct tdx_module_args`.

use x86_arch::Gpr;

/// Inputs and outputs of SEAMCALL and TDCALL: thirteen registers in Linux's order (spec: Linux `asm/shared/tdx.h`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct TdxModuleArgs {
    pub rcx: u64,
    pub rdx: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rbx: u64,
    pub rdi: u64,
    pub rsi: u64,
}

const _: () = assert!(size_of::<TdxModuleArgs>() == 104);

impl TdxModuleArgs {
    /// The registers in the order of the block; the first six cross in every variant.
    pub const REGS: [Gpr; 13] = [
        Gpr::Rcx,
        Gpr::Rdx,
        Gpr::R8,
        Gpr::R9,
        Gpr::R10,
        Gpr::R11,
        Gpr::R12,
        Gpr::R13,
        Gpr::R14,
        Gpr::R15,
        Gpr::Rbx,
        Gpr::Rdi,
        Gpr::Rsi,
    ];

    /// The values in the order of [`Self::REGS`].
    pub const fn to_array(&self) -> [u64; 13] {
        [
            self.rcx, self.rdx, self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14,
            self.r15, self.rbx, self.rdi, self.rsi,
        ]
    }
    /// The block of values in the order of [`Self::REGS`].
    pub const fn from_array(values: [u64; 13]) -> TdxModuleArgs {
        let [
            rcx,
            rdx,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rbx,
            rdi,
            rsi,
        ] = values;
        TdxModuleArgs {
            rcx,
            rdx,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rbx,
            rdi,
            rsi,
        }
    }
}
