//! TDH.MEM.PAGE.REMOVE: takes a page out of the TD (spec: host-memory.md 4.6).

use super::Row;
use crate::bug::Bug;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::PageSize;
use crate::refusal::{Broken, BusyOn};
use crate::sept::{SeptEntry, SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MEM_PAGE_REMOVE)
};

const STATES: SeptStates = SeptStates::of(&[
    SeptState::Mapped,
    SeptState::Blocked,
    SeptState::BlockedW,
    SeptState::Pending,
    SeptState::PendingBlocked,
    SeptState::PendingBlockedW,
]);

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let td = call.tdr_shared_at(tdr, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 0, 2)?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    call.entry_state(&entry, STATES)?;
    let size = PageSize::from_level(at.level).ok_or(Broken("a leaf above 1 GiB"))?;
    let hpa = entry.entry().page(at.level);
    let mut page = call.mapped_page(hpa, size)?;
    if !call.module.has(Bug::SkipsTracking) {
        call.blocked_and_tracked(&td, &entry, page.entry.bepoch())?;
    }

    let commit = call.commit();
    td.sept.drop_aliases(&commit, at.gpa, at.level, entry.entry().aliases());
    let gone = match td.op_state().import_in_progress() {
        true => SeptEntry::removed(0),
        false => SeptEntry::FREE,
    };
    if !call.module.has(Bug::LeavesEntry) {
        entry.write(&commit, gone);
    }
    td.remove_children(&commit, size.pages());
    page.free(&commit);
    call.set(Gpr::Rcx, hpa.raw());
    Ok(commit.done())
}
