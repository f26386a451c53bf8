//! TDH.VP.CREATE: a vCPU's root page (spec: host-td.md 5.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::pamt::{PageType, PageUse, Want};
use crate::state::OpStates;
use crate::vp::Vp;
use alloc::boxed::Box;
use tdx_abi::HostLeaf;
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::VP_CREATE)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let td = call.tdr_shared(Gpr::Rdx)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let mut page = call.page(Gpr::Rcx, Want::Exclusive, PageType::Nda)?;
    let tdvpr = Hpa::new(call.get(Gpr::Rcx));

    let commit = call.commit();
    call.clear_control_page(tdvpr, td.hkid);
    page.assign(&commit, PageUse::Tdvpr(Box::new(Vp::new(tdvpr))), td.tdr);
    td.add_children(&commit, 1);
    Ok(commit.done())
}
