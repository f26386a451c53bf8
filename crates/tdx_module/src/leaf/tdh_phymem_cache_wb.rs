//! TDH.PHYMEM.CACHE.WB: writes the package's caches back for all flushed key IDs (spec: host-platform.md 7.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock::Contended;
use crate::lock_order::Lock;
use crate::kot::HkidState;
use crate::machine::Machine;
use crate::refusal::{BusyOn, Refusal};
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    interruptible: true,
    ..Row::new(HostLeaf::PHYMEM_CACHE_WB)
};

const START: u64 = 0;
const RESUME: u64 = 1;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    let command = call.get(Gpr::Rcx);
    if command > RESUME {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    let package = call.package()?.0;
    let state = module.write_back[package as usize].try_lock();
    let mut state = call
        .hold(Lock::WriteBack, state.ok_or(Contended::Busy))
        .busy(OperandId::WBCACHE)?;
    let kot = call.hold(Lock::Kot, module.kot.shared()).busy(OperandId::KOT)?;
    let (first, noted) = if command == START {
        let noted: alloc::vec::Vec<_> = kot.in_state(HkidState::Flushed).collect();
        if noted.is_empty() {
            // A saved point is forgotten all the same.
            state.resume_at = None;
            return Err(Status::NO_HKID_READY_TO_WBCACHE.into());
        }
        (0, noted)
    } else {
        let at = state.resume_at.ok_or(Status::WBCACHE_RESUME_ERROR)?;
        (at, core::mem::take(&mut state.noted))
    };

    let commit = call.commit();
    let blocks = module.platform.cache_wb_sub_blocks;
    for block in first..blocks {
        call.machine().write_back_sub_block(call.lp, block);
        if block + 1 < blocks && call.interrupted() {
            state.noted = noted;
            state.resume_at = Some(block + 1);
            return Ok(commit.done_with(Status::INTERRUPTED_RESUMABLE));
        }
    }
    for hkid in &noted {
        kot.written_back(&commit, *hkid, package);
    }
    state.noted.clear();
    state.resume_at = None;
    Ok(commit.done())
}
