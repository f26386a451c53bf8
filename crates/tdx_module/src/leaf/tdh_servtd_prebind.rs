//! TDH.SERVTD.PREBIND: which service TD may be bound later (spec: host-td.md 7.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::lock::Side;
use crate::machine::Machine;
use crate::refusal::{BusyOn, Refusal};
use crate::servtd::{BindState, Binding};
use crate::state::OpStates;
use crate::td::Hash384;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpr, KeyedHpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10],
    ..Row::new(HostLeaf::SERVTD_PREBIND)
};

/// SERVTD_ATTR bits that may be set: INSTANCE_BINDING and the ignore-TDINFO bitmap.
const ATTRIBUTES: u64 = 0x0000_07FF_0000_0001;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let td = call.tdr_shared(Gpr::Rcx)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let KeyedHpa { hpa, hkid } = call.shared_hpa(Gpr::Rdx, 64)?;
    let (servtd_type, attributes) = call.servtd_operands()?;
    let mut binding = call.hold(Lock::ServtdBindings, td.servtd.exclusive(Side::Host)).busy(OperandId::SERVTD_BINDINGS)?;
    if binding.state == BindState::Bound {
        return Err(Status::SERVTD_BOUND.into());
    }
    let mut info_hash = [0; 48];
    call.read_shared(KeyedHpa::new(hpa, hkid), &mut info_hash)?;

    let commit = call.commit();
    **binding = Binding {
        state: BindState::PreBound,
        servtd_type,
        attributes,
        uuid: binding.uuid,
        info_hash: Hash384(info_hash),
    };
    Ok(commit.done())
}

impl<M: Machine> Call<'_, M> {
    /// Slot, type and attributes in R8, R9, R10: one slot, one type (0, migration TD).
    pub fn servtd_operands(&self) -> Result<(u16, u64), Refusal> {
        let need = |ok: bool, op| if ok { Ok(()) } else { Err(Refusal::Invalid(op)) };
        need(self.get(Gpr::R8) == 0, OperandId::R8)?;
        need(self.get(Gpr::R9) == 0, OperandId::R9)?;
        let attributes = self.get(Gpr::R10);
        need(attributes & !ATTRIBUTES == 0, OperandId::R10)?;
        Ok((0, attributes))
    }
}
