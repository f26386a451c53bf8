//! Typed wrappers of the SEAMCALL leaves: one small function each.
//!
//! Operands and results are types; an error is the status with its operand and the words that came with it.
//! `Ok(Status)` is success or one of the statuses that only inform (bit 63 clear, for instance `KEY_CONFIGURED`).
//! Nothing is retried here: see [`crate::retry`].

mod export;
mod import;
mod mem;
mod mng;
mod phymem;
mod servtd;
mod sys;
mod vp;

pub use export::*;
pub use import::*;
pub use mem::*;
pub use mng::*;
pub use phymem::*;
pub use servtd::*;
pub use sys::*;
pub use vp::*;

use tdx_abi::{LeafWord, Status};
use x86_arch::Hpa;

use crate::error::sort;
use crate::{CallError, Leaf, Progress, SeamcallLp, TdxModuleArgs, Traffic};

/// What TDH.PHYMEM.PAGE.RDMD and TDH.PHYMEM.PAGE.RECLAIM tell of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageMetadata {
    /// The PT value.
    pub page_type: u64,
    /// The TDR of the owner.
    pub owner: Hpa,
    /// 0: 4 KiB, 1: 2 MiB, 2: 1 GiB.
    pub size: u8,
    /// Blocking or migration epoch of private pages and Secure EPT pages (RDMD only).
    pub bepoch: u64,
}

/// The lists of TDH.EXPORT.MEM and TDH.IMPORT.MEM, as their register words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageLists {
    /// GPA_LIST_INFO.
    pub gpas: u64,
    /// MBMD address and size.
    pub mbmd: u64,
    /// Address of the migration buffer list.
    pub buffers: u64,
    /// Stream index, and bit 63 to resume.
    pub stream: u64,
    /// Addresses of the two MAC lists.
    pub macs: [u64; 2],
}

/// Any leaf, sorted into success and error.
pub fn call<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    leaf: LeafWord,
    args: &mut TdxModuleArgs,
    traffic: Traffic,
) -> Result<Status, CallError> {
    let answer = lp.seamcall(leaf, args, traffic);
    sort(Leaf::host(leaf), answer, args)
}

/// Tells an interrupted leaf from a refused one.
fn progress<T>(result: Result<Status, CallError>, value: T) -> Result<Progress<T>, CallError> {
    match result {
        Ok(_) => Ok(Progress::Done(value)),
        Err(error) if error.is(Status::INTERRUPTED_RESUMABLE) => Ok(Progress::Interrupted(value)),
        Err(error) => Err(error),
    }
}

fn progress_with_status(result: Result<Status, CallError>) -> Result<Progress<Status>, CallError> {
    let status = match &result {
        Ok(status) => *status,
        Err(error) => error.status(),
    };
    progress(result, status)
}
