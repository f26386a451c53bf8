//! What the migration leaves have in common.
//!
//! Migration itself is not there: no TD can reach a migration op-state, because a session starts with a decryption key
//! that only a migration TD can set (TDG.SERVTD.WR). So every leaf of a running session ends at its op-state check, and the
//! two that would start a session end at `TDX_MIGRATION_DECRYPTION_KEY_NOT_SET`, after all checks before it.

use super::{LeafResult, Row};
use crate::call::Call;
use crate::lock::Side;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::Want;
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use tdx_abi::{OperandId, Status};
use x86_arch::Gpr;

const UNREACHABLE: Broken = Broken("a TD in a migration op-state");

/// Which locks a session leaf takes on its way to the op-state.
pub enum Locks {
    /// TDR and OP_STATE shared.
    Shared,
    /// TDR shared, OP_STATE exclusive.
    OpStateExclusive,
    /// TDR exclusive, which implies OP_STATE.
    TdrExclusive,
}

/// A session leaf on a TD: it never passes its op-state check.
pub fn session<M: Machine>(
    call: &Call<'_, M>,
    tdr: (u64, OperandId),
    locks: Locks,
    row: &Row,
) -> LeafResult {
    match locks {
        Locks::TdrExclusive => {
            let td = call.tdr_exclusive_at(tdr.0, tdr.1)?;
            call.td_state_unlocked(&td, row)?;
        }
        Locks::Shared => {
            let td = call.tdr_shared_at(tdr.0, tdr.1)?;
            call.td_state(&td, row)?;
        }
        Locks::OpStateExclusive => {
            let td = call.tdr_shared_at(tdr.0, tdr.1)?;
            call.td_has_tdcs(&td)?;
            let _lock = call
                .hold(Lock::OpState, td.op_state_lock.exclusive(Side::Host))
                .busy(OperandId::OP_STATE)?;
            call.op_state_allowed(&td, row)?;
        }
    }
    Err(UNREACHABLE.into())
}

/// A session leaf on a vCPU: it never passes its op-state check.
pub fn vcpu_session<M: Machine>(call: &Call<'_, M>, tdvpr: u64, row: &Row) -> LeafResult {
    let vp = call.tdvpr_at(tdvpr, OperandId::RCX, Want::Exclusive)?;
    let td = call.tdr_of(vp.owner())?;
    call.td_state(&td, row)?;
    Err(UNREACHABLE.into())
}

/// R8: address of a metadata buffer in 51:0 and its size in 63:52.
pub fn mbmd_buffer<M: Machine>(call: &Call<'_, M>) -> Result<(), Stop> {
    const MBMD_SIZE: u64 = 48;
    const ALIGN: u64 = 128;
    let raw = call.get(Gpr::R8);
    call.shared_hpa_of(raw & ((1 << 52) - 1), OperandId::R8, ALIGN)?;
    match raw >> 52 >= MBMD_SIZE {
        true => Ok(()),
        false => Err(Refusal::Invalid(OperandId::R8).into()),
    }
}

/// R10: stream 0 and the command bit 63, nothing else. Returns whether the call resumes another.
pub fn stream_0<M: Machine>(call: &Call<'_, M>) -> Result<bool, Refusal> {
    let raw = call.get(Gpr::R10);
    match raw << 1 {
        0 => Ok(raw != 0),
        _ => Err(Refusal::Invalid(OperandId::R10)),
    }
}

/// Resuming needs an initialised stream, and no stream ever is.
pub const NO_STREAM_TO_RESUME: Status = Status::MIGRATION_STREAM_STATE_INCORRECT;
/// A session starts with a key that a migration TD sets.
pub const NO_KEY: Status = Status::MIGRATION_DECRYPTION_KEY_NOT_SET;
