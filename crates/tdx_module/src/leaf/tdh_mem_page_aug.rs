//! TDH.MEM.PAGE.AUG: a pending page for a running TD (spec: host-memory.md 4.5).

use super::Row;
use crate::bug::Bug;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::{PageSize, PageUse};
use crate::refusal::BusyOn;
use crate::sept::{SeptEntry, SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MEM_PAGE_AUG)
};

const STATES: SeptStates = SeptStates::of(&[SeptState::Free, SeptState::Removed]);

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let td = call.tdr_shared_at(tdr, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 0, 1)?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    call.entry_state(&entry, STATES)?;
    let size = if at.level == 0 { PageSize::Size4K } else { PageSize::Size2M };
    if call.module.has(Bug::ChangesBeforeRefusing) {
        let early = call.commit();
        entry.write(&early, SeptEntry::leaf(SeptState::Pending, Hpa::new(call.get(Gpr::R8))));
        let _ = early.done();
    }
    let mut page = call.free_range(Gpr::R8, size)?;
    let target = Hpa::new(call.get(Gpr::R8));

    let commit = call.commit();
    entry.write(&commit, SeptEntry::leaf(SeptState::Pending, target));
    td.add_children(&commit, size.pages());
    page.assign(&commit, PageUse::Regular, td.tdr);
    Ok(commit.done())
}
