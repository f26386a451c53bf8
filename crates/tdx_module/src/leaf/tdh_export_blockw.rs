//! TDH.EXPORT.BLOCKW: blocks pages for writing (spec: host-migration.md). Stops at its op-state, see [`super::migration`].

use super::Row;
use super::migration::{Locks, session};
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    interruptible: true,
    ..Row::new(HostLeaf::EXPORT_BLOCKW)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let tdr = (call.get(Gpr::Rdx), OperandId::RDX);
    session(call, tdr, Locks::Shared, &ROW)
}
