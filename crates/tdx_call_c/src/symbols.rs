//! The exported symbols.
#![expect(unsafe_code, reason = "symbols for C, and pointers from it")]

use std::arch::naked_asm;
use std::cell::Cell;
use std::ffi::{c_int, c_void};

use coco_regs::{GprFile, XmmFile};
use tdx_call::instruction;
use tdx_call::{NoSeam, TdxModuleArgs};
use tdx_trap::{Instruction, Trap};

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

/// Lets the six functions answer Linux's error words for #UD and #GP in user space; 0, or an errno.
#[unsafe(no_mangle)]
pub extern "C" fn tdx_catch_faults() -> c_int {
    errno(tdx_trap::catch_faults())
}

/// A backend in C: 0 for SEAMCALL or 1 for TDCALL, the sixteen registers, the sixteen XMM registers, and the context.
/// Returns 0, or the vector 6 or 13 of a fault, or -1 for VMfailInvalid.
pub type Serve = extern "C" fn(c_int, *mut u64, *mut c_void, *mut c_void) -> c_int;

thread_local! {
    static TRAP: Cell<Option<Trap>> = const { Cell::new(None) };
}

/// Serves the instructions of this thread from `serve`; null ends that. 0, or an errno.
///
/// # Safety
/// `serve` may be called with `context` until this is called with null on the same thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdx_serve(serve: Option<Serve>, context: *mut c_void) -> c_int {
    TRAP.take();
    let Some(serve) = serve else { return 0 };
    let trap = Trap::install(
        move |which: Instruction, gprs: &mut GprFile, xmms: &mut XmmFile| {
            let which = (which == Instruction::Tdcall).into();
            let vectors = xmms.0.as_mut_ptr().cast();
            match serve(which, gprs.0.as_mut_ptr(), vectors, context) {
                0 => Ok(()),
                6 => Err(NoSeam::InvalidOpcode),
                13 => Err(NoSeam::GeneralProtection),
                _ => Err(NoSeam::VmFailInvalid),
            }
        },
    );
    errno(trap.map(|trap| TRAP.set(Some(trap))))
}

fn errno(result: std::io::Result<()>) -> c_int {
    const EIO: c_int = 5;
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(EIO),
    }
}
