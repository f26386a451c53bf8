//! TDH.MIG.STREAM.CREATE: a migration stream's page (spec: host-migration.md 2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::lock::Side;
use crate::machine::Machine;
use crate::pamt::{PageType, PageUse, Want};
use crate::refusal::BusyOn;
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId, Status};
use core::sync::atomic::Ordering;
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MIG_STREAM_CREATE)
};

/// The backward stream and 511 forward streams.
const MAX_STREAMS: usize = 512;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let td = call.tdr_shared(Gpr::Rdx)?;
    call.td_has_tdcs(&td)?;
    let _op_state = call.hold(Lock::OpState, td.op_state_lock.exclusive(Side::Host)).busy(OperandId::OP_STATE)?;
    call.op_state_allowed(&td, &ROW)?;
    let mut streams = call.hold(Lock::Migration, td.migration.lock.exclusive()).busy(OperandId::MIG)?;
    if streams.len() >= MAX_STREAMS {
        return Err(Status::MAX_MIGS_NUM_EXCEEDED.into());
    }
    let mut page = call.page(Gpr::Rcx, Want::Exclusive, PageType::Nda)?;
    let hpa = Hpa::new(call.get(Gpr::Rcx));

    let commit = call.commit();
    call.clear_control_page(hpa, td.hkid);
    streams.push(hpa);
    td.migration.num_migs.store(streams.len() as u16, Ordering::Release);
    page.assign(&commit, PageUse::Tdcx, td.tdr);
    td.add_children(&commit, 1);
    Ok(commit.done())
}
