//! TDH.MEM.PAGE.RELOCATE: the same guest page in another host page (spec: host-memory.md 4.7).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::{PageSize, PageType, PageUse, Want};
use crate::refusal::{Broken, BusyOn, Refusal};
use crate::sept::{SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MEM_PAGE_RELOCATE)
};

/// Every leaf.
const STATES: SeptStates = SeptStates::ALL.without(&[
    SeptState::Free,
    SeptState::Removed,
    SeptState::NlMapped,
    SeptState::NlBlocked,
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
    let state = call.entry_state(&entry, STATES)?;
    let old = entry.entry().hpa();
    if call.get(Gpr::R8) == old.raw() {
        return Err(Refusal::Invalid(OperandId::R8).into());
    }
    let mut old_page = call.mapped_page(old, PageSize::Size4K)?;
    call.blocked_and_tracked(&td, &entry, old_page.entry.bepoch())?;
    let mut new_page = call.page(Gpr::R8, Want::Exclusive, PageType::Nda)?;
    let new = Hpa::new(call.get(Gpr::R8));
    if !state.is_pending() {
        let copied = call.machine().copy_page(td.keyed(old), td.keyed(new));
        copied.map_err(|_| Broken("machine check on a page of a TD"))?;
    }

    let commit = call.commit();
    old_page.free(&commit);
    new_page.assign(&commit, PageUse::Regular, td.tdr);
    let aliases = entry.entry().aliases();
    td.sept.move_aliases(&commit, at.gpa, aliases, new, !state.is_pending());
    entry.write(&commit, entry.entry().with_hpa(new).unblocked());
    call.set(Gpr::Rcx, old.raw());
    Ok(commit.done())
}
