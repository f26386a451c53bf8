//! TDH.MNG.WR: writes a metadata field of a TD (spec: host-metadata.md 3).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::metadata::td::TdFields;
use crate::metadata::{self, Accessor};
use crate::state::OpStates;
use tdx_abi::{FieldContext, HostLeaf};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9],
    outputs: &[Gpr::R8],
    ..Row::new(HostLeaf::MNG_WR)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (raw, value, request) = (call.get(Gpr::Rdx), call.get(Gpr::R8), call.get(Gpr::R9));
    call.set(Gpr::R8, 0);
    let td = call.tdr_shared(Gpr::Rcx)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let id = metadata::single(raw, FieldContext::Td)?;
    let fields = TdFields {
        td: &td,
        sys: call.module.sys()?,
        tsc: call.machine().tsc(call.lp),
        accessor: Accessor::host(td.config.is_debug()),
        order: &call.lp_state.order,
    };
    // The field itself is one compare-and-exchange: it either changes or refuses.
    let previous = fields.write(id, value, request)?;

    let commit = call.commit();
    call.set(Gpr::R8, previous);
    Ok(commit.done())
}
