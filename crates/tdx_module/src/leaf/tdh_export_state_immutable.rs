//! TDH.EXPORT.STATE.IMMUTABLE: would start an export session (spec: host-migration.md 3). See [`super::migration`].

use super::Row;
use super::migration::{NO_KEY, NO_STREAM_TO_RESUME, mbmd_buffer, stream_0};
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::lock::Side;
use crate::machine::Machine;
use crate::refusal::{BusyOn, Refusal};
use crate::state::OpStates;
use crate::td::attributes;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::R8, Gpr::R9, Gpr::R10],
    outputs: &[Gpr::Rdx],
    interruptible: true,
    ..Row::new(HostLeaf::EXPORT_STATE_IMMUTABLE)
};

/// Pages that the bundle takes at least, less one.
const LAST_PAGE: u64 = 2;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    call.set(Gpr::Rdx, 0);
    let td = call.tdr_shared(Gpr::Rcx)?;
    call.td_has_tdcs(&td)?;
    let _op_state = call.hold(Lock::OpState, td.op_state_lock.exclusive(Side::Host)).busy(OperandId::OP_STATE)?;
    call.op_state_allowed(&td, &ROW)?;
    let _migration = call.hold(Lock::Migration, td.migration.lock.exclusive()).busy(OperandId::MIG)?;
    if td.config.attributes & attributes::MIGRATABLE == 0 {
        return Err(Status::TD_NOT_MIGRATABLE.into());
    }
    if td.migration.num_migs.load(Ordering::Acquire) < 2 {
        return Err(Status::MIN_MIGS_NOT_CREATED.into());
    }
    mbmd_buffer(call)?;
    if stream_0(call)? {
        return Err(NO_STREAM_TO_RESUME.into());
    }
    let list = call.get(Gpr::R9);
    let reserved = list & (0xFFF | 7 << 52);
    if list >> 55 < LAST_PAGE || reserved != 0 {
        return Err(Refusal::Invalid(OperandId::R9).into());
    }
    call.shared_hpa_of(list & ((1 << 52) - 1), OperandId::R9, 4096)?;
    Err(NO_KEY.into())
}
