//! TDH.VP.WR: writes a metadata field of a vCPU (spec: host-metadata.md 4).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::metadata::vp::VpFields;
use crate::metadata::{self, Accessor};
use crate::msr::IA32_DEBUGCTL;
use crate::pamt::Want;
use crate::refusal::Broken;
use crate::state::{OpStates, VcpuState};
use tdx_abi::{FieldContext, HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9],
    outputs: &[Gpr::R8],
    ..Row::new(HostLeaf::VP_WR)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (raw, value, request) = (call.get(Gpr::Rdx), call.get(Gpr::R8), call.get(Gpr::R9));
    call.set(Gpr::R8, 0);
    let vp = call.tdvpr(Gpr::Rcx, Want::Shared)?;
    let td = call.tdr_of(vp.owner())?;
    let _op_state = call.td_state(&td, &ROW)?;
    if vp.pages.len() < td.config.tdvps_pages() {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    let new = call.associate(&td, &vp, &[VcpuState::Ready])?;
    let mut data = vp.data().ok_or(Broken("two processors hold one vCPU"))?;
    data.extra.entered_here &= !new;
    let id = metadata::single(raw, FieldContext::Vp)?;
    let mut fields = VpFields {
        module: call.module,
        sys: call.module.sys()?,
        td: &td,
        vp: &vp,
        data: &mut data,
        accessor: Accessor::host(td.config.is_debug()),
        host_debugctl: call.machine().read_msr(call.lp, IA32_DEBUGCTL),
        tsc: 0,
    };
    // The write checks everything before it changes the one field.
    let previous = fields.write(id, value, request)?;

    let commit = call.commit();
    call.set(Gpr::R8, previous);
    Ok(commit.done())
}
