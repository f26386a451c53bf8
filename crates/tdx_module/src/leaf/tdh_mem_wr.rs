//! TDH.MEM.WR: eight bytes of a DEBUG TD's private memory (spec: host-memory.md 4.13).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::{Broken, BusyOn, Refusal};
use crate::sept::{SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpa, Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::MEM_WR)
};

const STATES: SeptStates = SeptStates::of(&[SeptState::Mapped, SeptState::ExportedDirty]);

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (gpa, tdr) = (Gpa::new(call.get(Gpr::Rcx)), call.get(Gpr::Rdx));
    let new = call.get(Gpr::R8).to_le_bytes();
    call.defaults([Gpr::Rcx, Gpr::Rdx, Gpr::R8], 0);
    let td = call.tdr_shared_at(tdr, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    if !td.config.is_debug() {
        return Err(Status::TD_NON_DEBUG.into());
    }
    if !gpa.is_aligned(8) {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    call.private_gpa(&td, gpa)?;
    let slot = call.accessible_leaf(&td, gpa)?;
    let entry = call.lock_entry(&slot)?;
    call.entry_state(&entry, STATES)?;
    let offset = gpa.raw() & ((4096 << (9 * slot.level as u32)) - 1);
    let at = td.keyed(Hpa::new(entry.entry().page(slot.level).raw() + offset));
    let mut old = [0; 8];
    if call.machine().read(at, &mut old).is_err() {
        return Err(Broken("machine check on a page of a DEBUG TD").into());
    }
    if call.machine().write(at, &new).is_err() {
        return Err(Broken("machine check on a page of a DEBUG TD").into());
    }

    let commit = call.commit();
    call.set(Gpr::R8, u64::from_le_bytes(old));
    Ok(commit.done())
}
