//! TDH.VP.FLUSH: the vCPU leaves the calling processor (spec: host-td.md 5.4).

use super::Row;
use crate::bug::Bug;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::pamt::Want;
use crate::refusal::Broken;
use crate::state::LifeCycle;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::VP_FLUSH)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let mut vp = call.tdvpr(Gpr::Rcx, Want::Exclusive)?;
    let td = call.tdr_of(vp.owner())?;
    if td.life_cycle != LifeCycle::KeysConfigured {
        return Err(Status::TD_KEYS_NOT_CONFIGURED.into());
    }
    if vp.pages.len() < td.config.tdvps_pages() {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    if vp.assoc_lpid() != call.lp.0 {
        return Err(Status::VCPU_NOT_ASSOCIATED.into());
    }
    let mut local = call
        .lp_state
        .local
        .try_lock()
        .ok_or(Broken("two calls on one processor"))?;

    let commit = call.commit();
    call.machine().invalidate_translations(call.lp, &td.vpids());
    vp.data_mut().launched = false;
    vp.dissociate(&commit);
    if !call.module.has(Bug::ForgetsFlush) {
        td.num_assoc_vcpus.fetch_sub(1, Ordering::AcqRel);
    }
    local.last_tdvpr = None;
    Ok(commit.done())
}
