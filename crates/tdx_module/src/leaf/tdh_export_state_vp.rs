//! TDH.EXPORT.STATE.VP: exports a vCPU's state (spec: host-migration.md). Stops at its op-state, see [`super::migration`].

use super::Row;
use super::migration::vcpu_session;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::state::OpStates;
use tdx_abi::HostLeaf;
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::R8, Gpr::R9, Gpr::R10],
    outputs: &[Gpr::Rdx],
    interruptible: true,
    ..Row::new(HostLeaf::EXPORT_STATE_VP)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let control = call.get(Gpr::Rcx);
    call.defaults([Gpr::Rdx], 0);
    vcpu_session(call, control, &ROW)
}
