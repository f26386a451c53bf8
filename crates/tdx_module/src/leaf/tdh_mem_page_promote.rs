//! TDH.MEM.PAGE.PROMOTE: 512 small mappings become one large one (spec: host-memory.md 4.8).

use super::Row;
use super::tdh_mem_sept_remove::L2_PAGES;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::lock::Side;
use crate::machine::Machine;
use crate::pamt::{PageSize, WalkError};
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use crate::sept::{L1, L2Entry, SeptEntry, SeptPage, SeptState, SeptStates, Slot, vms};
use crate::state::OpStates;
use alloc::sync::Arc;
use alloc::vec::Vec;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    max_version: 1,
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R9, Gpr::R10, Gpr::R11],
    interruptible: true,
    ..Row::new(HostLeaf::MEM_PAGE_PROMOTE)
};

const STATES: SeptStates = SeptStates::of(&[SeptState::NlMapped, SeptState::NlBlocked]);

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
    let at = call.mapping(mapping, 1, 2)?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    call.entry_state(&entry, STATES)?;
    let before = entry.entry();
    let mut table_page = call.mapped_page(before.hpa(), PageSize::Size4K)?;
    call.blocked_and_tracked(&td, &entry, table_page.entry.bepoch())?;
    let missing = Broken("Secure EPT without a page it names");
    let table = td.sept.page(L1, before.hpa()).ok_or(missing)?;
    let size = PageSize::from_level(at.level).ok_or(Broken("a level out of range"))?;
    let mut children = Vec::with_capacity(512);
    let mut conditions = Ok(());
    for i in 0..512 {
        let child = Slot::of(table.clone(), i, at.level - 1);
        children.push(call.hold(Lock::SeptEntry, child.lock(Side::Host)).busy(OperandId::RCX)?);
    }
    // The large entry takes child 0's value; an accept counter is not part of it.
    let first = match children[0].entry() {
        entry if at.level == 2 && entry.state().is_some_and(SeptState::is_pending) => {
            entry.with_accept_counter(0)
        }
        entry => entry,
    };
    for (i, child) in children.iter().enumerate() {
        if !continues(first, child.entry(), i as u64, at.level, size) {
            conditions = Err(());
            break;
        }
    }
    let mut l2 = Vec::new();
    if conditions.is_ok() {
        for vm in vms(before.aliases()) {
            if call.interrupted() {
                return restart(call, mapping, tdr);
            }
            let parent = td.sept.alias(vm, at.gpa, at.level).ok_or(missing)?;
            let hpa = parent.l2_entry().hpa();
            let page = call.mapped_page(hpa, PageSize::Size4K)?;
            let table = td.sept.page(vm, hpa).ok_or(missing)?;
            match uniform(&table, size) {
                Some(entry) => l2.push((vm, parent, hpa, page, entry)),
                None => {
                    conditions = Err(());
                    break;
                }
            }
        }
    }
    if conditions.is_err() {
        call.show(before.details(at.level));
        let status = Status::EPT_INVALID_PROMOTE_CONDITIONS;
        return Err(status.with_operand(OperandId::RCX).into());
    }
    if call.interrupted() {
        return restart(call, mapping, tdr);
    }
    let range = match call.module.pamt()?.promote(first.page(at.level - 1), size) {
        Ok(range) => Ok(range),
        Err(WalkError::Contended(why)) => Err(why),
        Err(WalkError::OutOfRange) => return Err(missing.into()),
    };
    let mut range = call.hold(Lock::Page, range).busy(OperandId::RCX)?;

    let commit = call.commit();
    range.merge(&commit);
    drop(range);
    drop(children);
    entry.write(&commit, first);
    for (vm, parent, hpa, mut page, large) in l2 {
        parent.write_l2(&commit, large);
        td.sept.remove(&commit, vm, hpa);
        td.remove_children(&commit, 1);
        page.free(&commit);
        if has_l2 {
            call.set(L2_PAGES[vm - 1], hpa.raw());
        }
    }
    td.sept.remove(&commit, L1, before.hpa());
    td.remove_children(&commit, 1);
    table_page.free(&commit);
    call.set(Gpr::Rcx, before.hpa().raw());
    Ok(commit.done())
}

/// Nothing is kept: the call is to be made again.
fn restart<M: Machine>(call: &mut Call<'_, M>, mapping: u64, tdr: u64) -> LeafResult {
    call.set(Gpr::Rcx, mapping);
    call.set(Gpr::Rdx, tdr);
    Err(Stop::from(Status::INTERRUPTED_RESTARTABLE))
}

/// Child `i` maps what follows from child 0, which is aligned and mapped or pending.
fn continues(first: SeptEntry, child: SeptEntry, i: u64, level: u8, size: PageSize) -> bool {
    let plain = |entry: SeptEntry| match (level, entry.state()) {
        // A child at level 1 may hold an accept counter.
        (2, Some(state)) if state.is_pending() => entry.with_accept_counter(0),
        _ => entry,
    };
    let (first, child) = (plain(first), plain(child));
    if i == 0 {
        let state = first.state();
        return first.hpa().is_aligned(size.bytes())
            && matches!(state, Some(SeptState::Mapped | SeptState::Pending));
    }
    let expected = first.hpa().raw() + i * (size.bytes() / 512);
    child == first.with_hpa(Hpa::new(expected))
}

/// The large entry of 512 L2 entries that are all free, or alike on consecutive pages.
fn uniform(table: &Arc<SeptPage>, size: PageSize) -> Option<L2Entry> {
    let first = L2Entry(table.entry(0).0);
    let aligned = first.is_leaf() && first.hpa().is_aligned(size.bytes());
    if !(first == L2Entry::FREE || aligned) {
        return None;
    }
    let same = |entry: SeptEntry| L2Entry(entry.0).with_hpa(Hpa::new(0)) == first.with_hpa(Hpa::new(0));
    table.entries().all(same).then_some(first)
}
