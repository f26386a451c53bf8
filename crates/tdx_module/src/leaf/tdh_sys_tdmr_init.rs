//! TDH.SYS.TDMR.INIT: the next piece of a TDMR's PAMT (spec: host-platform.md 3.5).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock::Contended;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::PageSize;
use crate::refusal::{BusyOn, Refusal, Stop};
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    outputs: &[Gpr::Rdx],
    ..Row::new(HostLeaf::SYS_TDMR_INIT)
};

/// How much memory one call covers: 1024 entries.
const STEP: u64 = 4 << 20;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    call.set(Gpr::Rdx, 0);
    let base = call.page_address_of(call.get(Gpr::Rcx), OperandId::RCX, PageSize::Size1G)?;
    let invalid = Stop::from(Refusal::Invalid(OperandId::RCX));
    let pamt = call.module.pamt()?;
    let tdmr = pamt.tdmrs().iter().find(|t| t.tdmr.base == base.raw()).ok_or(invalid)?;
    let mutex = tdmr.progress.try_lock().ok_or(Contended::Busy);
    let _mutex = call.hold(Lock::Tdmr, mutex).busy(OperandId::RCX)?;
    if tdmr.initialized() >= tdmr.tdmr.end() {
        return Err(Status::TDMR_ALREADY_INITIALIZED.into());
    }

    let commit = call.commit();
    let next = tdmr.initialized() + STEP;
    tdmr.advance(&commit, next);
    call.set(Gpr::Rdx, next & !(PageSize::Size1G.bytes() - 1));
    Ok(commit.done())
}
