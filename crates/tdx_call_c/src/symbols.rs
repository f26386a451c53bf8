//! The exported symbols.
#![expect(unsafe_code, reason = "symbols for C")]

use core::arch::naked_asm;

use tdx_call::{TdxModuleArgs, instruction};

macro_rules! export {
    ($($(#[$doc:meta])* $name:ident => $target:path;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the function of `tdx_call::instruction` that it jumps to.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(fn_leaf: u64, args: *mut TdxModuleArgs) -> u64 {
            naked_asm!("jmp {}", sym $target)
        }
    )*};
}

export! {
    /// SEAMCALL with the first six registers as inputs.
    __seamcall => instruction::seamcall;
    /// SEAMCALL with the first six registers as inputs and outputs.
    __seamcall_ret => instruction::seamcall_ret;
    /// SEAMCALL with all thirteen registers as inputs and outputs, for TDH.VP.ENTER.
    __seamcall_saved_ret => instruction::seamcall_saved_ret;
    /// TDCALL with the first six registers as inputs.
    __tdcall => instruction::tdcall;
    /// TDCALL with the first six registers as inputs and outputs.
    __tdcall_ret => instruction::tdcall_ret;
    /// TDCALL with all thirteen registers as inputs and outputs.
    __tdcall_saved_ret => instruction::tdcall_saved_ret;
}

/// Where a handler of #UD or #GP at `rip` resumes, with the vector in RAX and all else as it was; 0 if `rip` is none of
/// the six functions' instructions.
#[unsafe(no_mangle)]
pub extern "C" fn tdx_fixup(rip: usize) -> usize {
    instruction::fixup_of(rip).map_or(0, |fixup| fixup.resume)
}

/// What a static library needs of its own; a Rust program that links this crate has them from elsewhere.
#[cfg(panic = "abort")]
mod runtime {
    /// The library does not panic: it reads a table and jumps.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {
            core::hint::spin_loop();
        }
    }

    /// The precompiled core library names it; nothing unwinds here.
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}
}
