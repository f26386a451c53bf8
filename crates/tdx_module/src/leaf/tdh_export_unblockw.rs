//! TDH.EXPORT.UNBLOCKW: lets a page be written again (spec: host-migration.md 4).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::{Broken, BusyOn};
use crate::sept::{SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::EXPORT_UNBLOCKW)
};

/// Only an export session makes such entries.
const STATES: SeptStates = SeptStates::of(&[
    SeptState::BlockedW,
    SeptState::ExportedBlockedW,
    SeptState::ExportedDirtyBlockedW,
    SeptState::PendingBlockedW,
    SeptState::PendingExportedBlockedW,
    SeptState::PendingExportedDirtyBlockedW,
]);

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let td = call.tdr_shared_at(tdr, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 0, 0)?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    call.entry_state(&entry, STATES)?;
    Err(Broken("an entry blocked for writing without an export session").into())
}
