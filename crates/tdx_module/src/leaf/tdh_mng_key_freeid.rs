//! TDH.MNG.KEY.FREEID: the key ID may serve another TD (spec: host-td.md 3.6).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::kot::HkidState;
use crate::machine::Machine;
use crate::refusal::BusyOn;
use crate::state::LifeCycle;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::MNG_KEY_FREEID)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let mut td = call.tdr_exclusive(Gpr::Rcx)?;
    if td.life_cycle != LifeCycle::Blocked {
        return Err(Status::LIFECYCLE_STATE_INCORRECT.into());
    }
    let mut kot = call.hold(Lock::Kot, call.module.kot.exclusive()).busy(OperandId::KOT)?;
    if kot.wbinvd_bitmap(td.hkid) != 0 {
        return Err(Status::WBCACHE_NOT_COMPLETE.into());
    }

    let commit = call.commit();
    kot.set(&commit, td.hkid, HkidState::Free);
    td.life_cycle = LifeCycle::Teardown;
    Ok(commit.done())
}
