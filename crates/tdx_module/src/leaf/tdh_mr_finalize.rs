//! TDH.MR.FINALIZE: the measurement is complete, the TD may run (spec: host-td.md 4.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::state::{OpState, OpStates};
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::MR_FINALIZE)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let mut td = call.tdr_exclusive(Gpr::Rcx)?;
    call.td_state_unlocked(&td, &ROW)?;
    if td.num_vcpus.load(Ordering::Acquire) == 0 {
        return Err(Status::NO_VCPUS.into());
    }

    let commit = call.commit();
    td.measurement.finish(&commit);
    td.servtd_hash = td.servtd.get_mut().hash();
    td.set_op_state(&commit, OpState::Runnable);
    Ok(commit.done())
}
