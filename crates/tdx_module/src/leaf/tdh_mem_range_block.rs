//! TDH.MEM.RANGE.BLOCK: no new translations of a range (spec: host-memory.md 4.10).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::PageSize;
use crate::refusal::{Broken, BusyOn};
use crate::sept::{SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MEM_RANGE_BLOCK)
};

const STATES: SeptStates = SeptStates::of(&[
    SeptState::NlMapped,
    SeptState::Mapped,
    SeptState::BlockedW,
    SeptState::Pending,
    SeptState::PendingBlockedW,
]);

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let td = call.tdr_shared_at(tdr, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 0, td.sept.root_level())?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.exclusive()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    if entry.entry().state().is_some_and(SeptState::is_blocked) {
        call.show(entry.entry().details(at.level));
        let status = Status::GPA_RANGE_ALREADY_BLOCKED;
        return Err(status.with_operand(OperandId::RCX).into());
    }
    let state = call.entry_state(&entry, STATES)?;
    let before = entry.entry();
    let size = match state.is_leaf() {
        true => PageSize::from_level(at.level).ok_or(Broken("a leaf above 1 GiB"))?,
        false => PageSize::Size4K,
    };
    let page = call
        .module
        .pamt()?
        .entry_of_size(before.page(at.level), size)
        .ok_or(Broken("a Secure-EPT entry names a page in no TDMR"))?;

    let commit = call.commit();
    entry.write(&commit, before.blocked(at.level));
    let keep_w = !state.is_blocked_for_writing();
    td.sept.block_aliases(&commit, at.gpa, at.level, before.aliases(), keep_w);
    page.set_bepoch(&commit, td.epoch.current());
    Ok(commit.done())
}
