//! Serves SEAMCALL and TDCALL to ordinary programs through their faults.
//!
//! In ring 3 both instructions fault: as #UD (SIGILL) on a processor without SEAM or with VMX off, as #GP (SIGSEGV with
//! SI_KERNEL) on a SEAM-capable one with VMX on. A [`Trap`] answers them on its thread from a backend in the same
//! process and resumes after the instruction, so that the very machine code which would run on TDX hardware
//! (`tdx_call::instruction`) is executed and tested without it. Every other fault goes to the handler that was there
//! before.
//!
//! ```
//! use coco_regs::{GprFile, XmmFile};
//! use tdx_call::{NoSeam, SeamcallLp, TdxModuleArgs, Traffic};
//! use tdx_abi::{HostLeaf, Status};
//! use tdx_trap::{Instruction, Trap};
//!
//! // A module that answers every leaf with "busy".
//! let trap = Trap::install(|_: Instruction, gprs: &mut GprFile, _: &mut XmmFile| {
//!     gprs.0[0] = Status::SYS_BUSY.0;
//!     Ok::<(), NoSeam>(())
//! })?;
//! let mut lp = trap.lp();
//! let mut args = TdxModuleArgs::default();
//! let status = lp.seamcall(HostLeaf::SYS_INIT.word(), &mut args, Traffic::InOut);
//! assert_eq!(status, Ok(Status::SYS_BUSY));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Limits: x86-64 Linux only. The backend runs on the stack of the thread that called, inside a signal handler: it may
//! do what any code may do (the instruction faults at a known place), but a panic in it ends the process. While a
//! handler of this crate is in place, a stack overflow ends the process without Rust's message.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![deny(unsafe_code)]

mod frame;
mod handler;

use coco_regs::{GprFile, XmmFile};
use tdx_call::{NoSeam, SoftwareSeam, SoftwareTd};

pub use handler::{Lp, TdVcpu, Trap, catch_faults};

/// Which instruction faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    Seamcall,
    Tdcall,
}

/// What plays the processor for the instructions of one thread.
pub trait Backend {
    /// The instruction on all registers; RSP is not used.
    ///
    /// # Errors
    /// The instruction fails as on a processor without a module: with CF set, or with the fault, which resumes at
    /// the fixup of the stub that executed it.
    fn serve(
        &mut self,
        instruction: Instruction,
        gprs: &mut GprFile,
        xmms: &mut XmmFile,
    ) -> Result<(), NoSeam>;
}

impl<F> Backend for F
where
    F: FnMut(Instruction, &mut GprFile, &mut XmmFile) -> Result<(), NoSeam>,
{
    fn serve(
        &mut self,
        instruction: Instruction,
        gprs: &mut GprFile,
        xmms: &mut XmmFile,
    ) -> Result<(), NoSeam> {
        self(instruction, gprs, xmms)
    }
}

/// A host's processor: it takes SEAMCALL, and TDCALL is #UD.
#[derive(Clone, Debug)]
pub struct OnHost<S>(pub S);

impl<S: SoftwareSeam> Backend for OnHost<S> {
    fn serve(
        &mut self,
        instruction: Instruction,
        gprs: &mut GprFile,
        xmms: &mut XmmFile,
    ) -> Result<(), NoSeam> {
        match instruction {
            Instruction::Seamcall => self.0.seamcall(gprs, xmms),
            Instruction::Tdcall => Err(NoSeam::InvalidOpcode),
        }
    }
}

/// A processor inside a TD: it takes TDCALL, and SEAMCALL is #UD.
#[derive(Clone, Debug)]
pub struct InTd<T>(pub T);

impl<T: SoftwareTd> Backend for InTd<T> {
    fn serve(
        &mut self,
        instruction: Instruction,
        gprs: &mut GprFile,
        xmms: &mut XmmFile,
    ) -> Result<(), NoSeam> {
        match instruction {
            Instruction::Tdcall => self.0.tdcall(gprs, xmms),
            Instruction::Seamcall => Err(NoSeam::InvalidOpcode),
        }
    }
}
