//! TDH.MNG.VPFLUSHDONE: no vCPU is on any processor any more (spec: host-td.md 3.5).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::kot::HkidState;
use crate::machine::Machine;
use crate::refusal::BusyOn;
use crate::state::{LifeCycle, OpState};
use crate::td::MIN_TDCS_PAGES;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::MNG_VPFLUSHDONE)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    let mut td = call.tdr_exclusive(Gpr::Rcx)?;
    let mut kot = call.hold(Lock::Kot, module.kot.exclusive()).busy(OperandId::KOT)?;
    if !matches!(td.life_cycle, LifeCycle::KeysConfigured | LifeCycle::HkidAssigned) {
        return Err(Status::LIFECYCLE_STATE_INCORRECT.into());
    }
    let built = td.tdcx.len() >= MIN_TDCS_PAGES && td.op_state() != OpState::Uninitialized;
    if built && td.num_assoc_vcpus.load(Ordering::Acquire) != 0 {
        return Err(Status::FLUSHVP_NOT_DONE.into());
    }

    let commit = call.commit();
    let packages = module.pkg_config_bitmap.load(Ordering::Acquire);
    kot.require_wbinvd(&commit, td.hkid, packages);
    kot.set(&commit, td.hkid, HkidState::Flushed);
    td.life_cycle = LifeCycle::Blocked;
    Ok(commit.done())
}
