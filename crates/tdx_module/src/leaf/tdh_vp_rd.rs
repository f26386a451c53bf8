//! TDH.VP.RD: a metadata field of a vCPU (spec: host-metadata.md 4).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::metadata::vp::VpFields;
use crate::metadata::{self, Accessor, Request};
use crate::msr::IA32_DEBUGCTL;
use crate::pamt::Want;
use crate::refusal::{Broken, Refusal};
use crate::state::{OpStates, VcpuState};
use tdx_abi::{FieldContext, FieldId, HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    max_version: 1,
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::VP_RD)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let raw = call.get(Gpr::Rdx);
    call.set(Gpr::R8, 0);
    if call.version() >= 1 {
        call.set(Gpr::Rdx, FieldId::NULL.0);
    }
    if call.version() > 1 {
        return Err(Refusal::Invalid(OperandId::RAX).into());
    }
    let vp = call.tdvpr(Gpr::Rcx, Want::Shared)?;
    let td = call.tdr_of(vp.owner())?;
    let _op_state = call.td_state(&td, &ROW)?;
    if vp.pages.len() < td.config.tdvps_pages() {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    let new = call.associate(&td, &vp, &[VcpuState::Ready, VcpuState::Disabled])?;
    let mut data = vp.data().ok_or(Broken("two processors hold one vCPU"))?;
    data.extra.entered_here &= !new;
    let fields = VpFields {
        module: call.module,
        sys: call.module.sys()?,
        td: &td,
        vp: &vp,
        data: &mut data,
        accessor: Accessor::host(td.config.is_debug()),
        host_debugctl: call.machine().read_msr(call.lp, IA32_DEBUGCTL),
        tsc: 0,
    };
    let id = match metadata::parse(raw, FieldContext::Vp)? {
        Request::First if call.version() == 1 => {
            call.set(Gpr::Rdx, fields.scope().first_readable(fields.accessor).0);
            return Err(Status::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
        }
        Request::First => return Err(Status::METADATA_FIELD_ID_INCORRECT.into()),
        Request::Element(id) => id,
    };
    let (value, next) = fields.read(id)?;

    let commit = call.commit();
    call.set(Gpr::R8, value);
    if call.version() == 1 {
        call.set(Gpr::Rdx, next.0);
    }
    Ok(commit.done())
}
