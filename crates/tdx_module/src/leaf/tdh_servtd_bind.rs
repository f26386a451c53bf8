//! TDH.SERVTD.BIND: binds a service TD to a target TD (spec: host-td.md 7.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::lock::Side;
use crate::machine::Machine;
use crate::refusal::{BusyOn, Refusal};
use crate::servtd::{BindState, Binding};
use crate::state::{OpState, OpStates};
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10],
    outputs: &[Gpr::Rcx, Gpr::R10, Gpr::R11, Gpr::R12, Gpr::R13],
    ..Row::new(HostLeaf::SERVTD_BIND)
};

/// The service TD itself has its own row of the op-state matrix.
const SERVICE_ROW: Row = Row {
    op_states: OpStates::row([0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0]),
    ..Row::new(HostLeaf::SERVTD_BIND)
};

const INSTANCE_BINDING: u64 = 1;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (target, service) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    let attributes_in = call.get(Gpr::R10);
    call.defaults([Gpr::Rcx, Gpr::R10, Gpr::R11, Gpr::R12, Gpr::R13], 0);
    if service == target {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let td = call.tdr_shared_at(target, OperandId::RCX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let servtd = call.tdr_shared_at(service, OperandId::RDX)?;
    let _servtd_op_state = call.td_state(&servtd, &SERVICE_ROW)?;
    call.set(Gpr::R10, attributes_in);
    let operands = call.servtd_operands();
    call.set(Gpr::R10, 0);
    let (servtd_type, attributes) = operands?;
    let mut binding = call.hold(Lock::ServtdBindings, td.servtd.exclusive(Side::Host)).busy(OperandId::SERVTD_BINDINGS)?;
    let info_hash = {
        let rtmrs = call.hold(Lock::Rtmr, servtd.rtmr.shared(Side::Host)).busy(OperandId::RTMR)?;
        servtd.tee_info_hash(&rtmrs, attributes >> 32)
    };
    let mut next = Binding {
        state: BindState::Bound,
        servtd_type,
        attributes,
        uuid: servtd.uuid,
        info_hash,
    };
    if binding.state == BindState::NotBound {
        if !matches!(td.op_state(), OpState::Uninitialized | OpState::Initialized) {
            return Err(Status::OP_STATE_INCORRECT.into());
        }
    } else {
        check_rebinding(&binding, &mut next)?;
    }

    let commit = call.commit();
    **binding = next;
    // The handle: slot 0 and the target, blinded by the service TD's identity.
    call.set(Gpr::Rcx, td.tdr.raw().wrapping_add(servtd.uuid[0]));
    for (reg, word) in [Gpr::R10, Gpr::R11, Gpr::R12, Gpr::R13].into_iter().zip(td.uuid) {
        call.set(reg, word);
    }
    Ok(commit.done())
}

/// A slot that is pre-bound or bound accepts only what fits.
fn check_rebinding(old: &Binding, new: &mut Binding) -> Result<(), Status> {
    if old.servtd_type != new.servtd_type {
        return Err(Status::SERVTD_TYPE_MISMATCH);
    }
    if old.attributes != new.attributes {
        return Err(Status::SERVTD_ATTR_MISMATCH);
    }
    let by_instance = old.state == BindState::Bound && old.attributes & INSTANCE_BINDING != 0;
    if by_instance && old.uuid != new.uuid {
        return Err(Status::SERVTD_UUID_MISMATCH);
    }
    if !by_instance && old.info_hash != new.info_hash {
        return Err(Status::SERVTD_INFO_HASH_MISMATCH);
    }
    Ok(())
}
