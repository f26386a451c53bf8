//! TDH.IMPORT.STATE.IMMUTABLE: would start an import session (spec: host-migration.md 3.2). See [`super::migration`].

use super::Row;
use super::migration::{NO_KEY, NO_STREAM_TO_RESUME, stream_0};
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::msr::IA32_MISC_ENABLE;
use crate::state::OpStates;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::R8, Gpr::R9, Gpr::R10],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    interruptible: true,
    ..Row::new(HostLeaf::IMPORT_STATE_IMMUTABLE)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let tdr = call.get(Gpr::Rcx);
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    if call.machine().read_msr(call.lp, IA32_MISC_ENABLE) >> 22 & 1 != 0 {
        return Err(Status::LIMIT_CPUID_MAXVAL_SET.into());
    }
    let td = call.tdr_exclusive_at(tdr, OperandId::RCX)?;
    call.td_state_unlocked(&td, &ROW)?;
    if td.migration.num_migs.load(Ordering::Acquire) < 2 {
        return Err(Status::MIN_MIGS_NOT_CREATED.into());
    }
    match stream_0(call)? {
        true => Err(NO_STREAM_TO_RESUME.into()),
        false => Err(NO_KEY.into()),
    }
}
