//! TDH.MNG.RD: a metadata field of a TD (spec: host-metadata.md 3).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::metadata::td::TdFields;
use crate::metadata::{self, Accessor, Request};
use crate::refusal::Refusal;
use crate::state::OpStates;
use tdx_abi::{FieldContext, FieldId, HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    max_version: 1,
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::MNG_RD)
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
    let td = call.tdr_shared(Gpr::Rcx)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let fields = TdFields {
        td: &td,
        sys: call.module.sys()?,
        tsc: call.machine().tsc(call.lp),
        accessor: Accessor::host(td.config.is_debug()),
        order: &call.lp_state.order,
    };
    let id = match metadata::parse(raw, FieldContext::Td)? {
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
