//! TDH.MEM.TRACK: a new TLB epoch (spec: host-td.md 6.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::BusyOn;
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]),
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::MEM_TRACK)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let td = call.tdr_shared(Gpr::Rcx)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let _epoch = call.hold(Lock::Epoch, td.epoch.lock.exclusive()).busy(OperandId::TD_EPOCH)?;
    if td.epoch.in_previous() != 0 {
        return Err(Status::PREVIOUS_TLB_EPOCH_BUSY.into());
    }

    let commit = call.commit();
    td.epoch.advance(&commit);
    Ok(commit.done())
}
