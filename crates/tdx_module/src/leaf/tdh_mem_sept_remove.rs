//! TDH.MEM.SEPT.REMOVE: takes empty Secure-EPT pages out of the trees (spec: host-memory.md 4.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::PageSize;
use crate::refusal::{Broken, BusyOn, Refusal};
use crate::sept::{L1, L2Entry, SeptEntry, SeptState, SeptStates, vms};
use crate::state::OpStates;
use alloc::vec::Vec;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    max_version: 1,
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R9, Gpr::R10, Gpr::R11],
    ..Row::new(HostLeaf::MEM_SEPT_REMOVE)
};

const STATES: SeptStates = SeptStates::of(&[SeptState::NlMapped, SeptState::NlBlocked]);
pub const L2_PAGES: [Gpr; 3] = [Gpr::R9, Gpr::R10, Gpr::R11];

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    let has_l2 = call.version() > 0;
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    if has_l2 {
        call.defaults(L2_PAGES, u64::MAX);
    }
    if call.version() > ROW.max_version {
        return Err(Refusal::Invalid(OperandId::RAX).into());
    }
    let td = call.tdr_shared_at(tdr, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 1, td.sept.root_level())?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.exclusive()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    call.entry_state(&entry, STATES)?;
    let before = entry.entry();
    let mut page = call.mapped_page(before.hpa(), PageSize::Size4K)?;
    call.blocked_and_tracked(&td, &entry, page.entry.bepoch())?;
    let missing = Broken("Secure EPT without a page it names");
    let table = td.sept.page(L1, before.hpa()).ok_or(missing)?;
    if !table.entries().all(|e| e.state() == Some(SeptState::Free)) {
        call.show(before.details(at.level));
        let status = Status::EPT_PAGE_NOT_FREE;
        return Err(status.with_operand(OperandId::RCX).into());
    }
    let mut l2 = Vec::new();
    for vm in vms(before.aliases()) {
        let parent = td.sept.alias(vm, at.gpa, at.level).ok_or(missing)?;
        let hpa = parent.l2_entry().hpa();
        l2.push((vm, parent, hpa, call.mapped_page(hpa, PageSize::Size4K)?));
    }

    let commit = call.commit();
    for (vm, parent, hpa, mut page) in l2 {
        parent.write_l2(&commit, L2Entry::FREE);
        td.sept.remove(&commit, vm, hpa);
        td.remove_children(&commit, 1);
        page.free(&commit);
        if has_l2 {
            call.set(L2_PAGES[vm - 1], hpa.raw());
        }
    }
    entry.write(&commit, SeptEntry::FREE);
    td.sept.remove(&commit, L1, before.hpa());
    td.remove_children(&commit, 1);
    page.free(&commit);
    call.set(Gpr::Rcx, before.hpa().raw());
    Ok(commit.done())
}
