//! The argument block of a call, laid out as Linux's `struct tdx_module_args`.

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
