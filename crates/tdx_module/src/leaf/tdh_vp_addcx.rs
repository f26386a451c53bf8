//! TDH.VP.ADDCX: a page for the TDVPS (spec: host-td.md 5.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::pamt::{PageType, PageUse, Want};
use crate::state::{OpStates, VcpuState};
use crate::vp::MAX_TDVPS_PAGES;
use tdx_abi::{HostLeaf, Status};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::VP_ADDCX)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let mut vp = call.tdvpr(Gpr::Rdx, Want::Exclusive)?;
    let td = call.tdr_of(vp.owner())?;
    let _op_state = call.td_state(&td, &ROW)?;
    if vp.state() != VcpuState::Uninitialized {
        return Err(Status::VCPU_STATE_INCORRECT.into());
    }
    if vp.pages.len() >= MAX_TDVPS_PAGES {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    let mut page = call.page(Gpr::Rcx, Want::Exclusive, PageType::Nda)?;
    let hpa = Hpa::new(call.get(Gpr::Rcx));

    let commit = call.commit();
    call.clear_control_page(hpa, td.hkid);
    vp.pages.push(hpa);
    page.assign(&commit, PageUse::Tdcx, td.tdr);
    td.add_children(&commit, 1);
    Ok(commit.done())
}
