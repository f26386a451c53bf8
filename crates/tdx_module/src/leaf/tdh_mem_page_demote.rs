//! TDH.MEM.PAGE.DEMOTE: one large mapping becomes 512 small ones (spec: host-memory.md 4.9).

use super::Row;
use super::tdh_mem_sept_add::{PAGES, Pages};
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::operand::operand_of;
use crate::pamt::{PageSize, PageType, PageUse, WalkError, Want};
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use crate::sept::{L1, L2Entry, SeptEntry, SeptPage, SeptState, SeptStates};
use crate::state::OpStates;
use alloc::vec::Vec;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R9, Gpr::R10, Gpr::R11],
    interruptible: true,
    ..Row::new(HostLeaf::MEM_PAGE_DEMOTE)
};

const STATES: SeptStates = SeptStates::of(&[
    SeptState::Mapped,
    SeptState::Blocked,
    SeptState::Pending,
    SeptState::PendingBlocked,
]);
/// RDX bit 0: L2 pages are added only where the range is aliased.
const ONLY_ALIASED: u64 = 1;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    if tdr & 0xFFF0_0000_0000_0FFE != 0 {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let td = call.tdr_shared_at(tdr & !ONLY_ALIASED, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 1, 2)?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    let state = call.entry_state(&entry, STATES)?;
    let before = entry.entry();
    let size = PageSize::from_level(at.level).ok_or(Broken("a level out of range"))?;
    let large = before.page(at.level);
    let missing = Broken("a Secure-EPT entry names a page in no TDMR");
    let pamt = call.module.pamt()?;
    let bepoch = pamt.entry_of_size(large, size).ok_or(missing)?.bepoch();
    call.blocked_and_tracked(&td, &entry, bepoch)?;
    let mut pages = Pages::read(call);
    // Of R8, unlike SEPT.ADD's, bit 63 counts.
    let mut table_page = call.page(Gpr::R8, Want::Exclusive, PageType::Nda)?;
    let table = Hpa::new(call.get(Gpr::R8));
    let mut l2 = Vec::new();
    let l2_vms = td.config.num_l2_vms as usize;
    for (vm, reg) in PAGES.into_iter().enumerate().skip(1).take(l2_vms) {
        let op = operand_of(reg);
        let aliased = before.aliases() >> (vm - 1) & 1 != 0;
        if !pages.is_given(vm) {
            if aliased {
                return Err(Status::L2_SEPT_PAGE_NOT_PROVIDED.with_operand(op).into());
            }
        } else if aliased || tdr & ONLY_ALIASED == 0 {
            let page = call.page_at(pages.0[vm], op, Want::Exclusive, PageType::Nda)?;
            l2.push((vm, page));
        } else {
            pages.mark_unused(vm);
        }
    }
    let mut walked = Vec::with_capacity(l2.len());
    for (vm, page) in l2 {
        if call.interrupted() {
            return restart(call, mapping, tdr);
        }
        let parent = call.l2_walk(&td, vm, at)?;
        walked.push((vm, page, parent));
    }
    if call.interrupted() {
        return restart(call, mapping, tdr);
    }
    let range = match pamt.promote(large, size) {
        Ok(range) => Ok(range),
        Err(WalkError::Contended(why)) => Err(why),
        Err(WalkError::OutOfRange) => return Err(missing.into()),
    };
    let mut range = call.hold(Lock::Page, range).busy(OperandId::RCX)?;

    let commit = call.commit();
    range.split(&commit);
    drop(range);
    let step = size.bytes() / 512;
    let plain = before.with_hpa(large).unblocked();
    call.clear_control_page(table, td.hkid);
    let children = SeptPage::filled(|i| plain.with_hpa(Hpa::new(large.raw() + i * step)).0);
    td.sept.insert(&commit, L1, table, children);
    table_page.assign(&commit, PageUse::SecureEpt, td.tdr);
    td.add_children(&commit, 1);
    let mut parent_entry = SeptEntry::table(table);
    for (vm, mut page, parent) in walked {
        let old = parent.l2_entry();
        let table = pages.address(vm);
        let child = match old.is_blocked() && !state.is_pending() {
            true => old.unblocked(),
            false => old,
        };
        let content = SeptPage::filled(|i| match child.is_leaf() {
            true => child.with_hpa(Hpa::new(large.raw() + i * step)).0,
            false => L2Entry::FREE.0,
        });
        call.clear_control_page(table, td.hkid);
        td.sept.insert(&commit, vm, table, content);
        page.assign(&commit, PageUse::SecureEpt, td.tdr);
        td.add_children(&commit, 1);
        parent.write_l2(&commit, L2Entry::table(table));
        parent_entry = parent_entry.with_alias(vm);
    }
    entry.write(&commit, parent_entry);
    for (reg, page) in PAGES.into_iter().zip(pages.0).skip(1).take(l2_vms) {
        call.set(reg, page);
    }
    Ok(commit.done())
}

/// Nothing is kept: the call is to be made again.
fn restart<M: Machine>(call: &mut Call<'_, M>, mapping: u64, tdr: u64) -> LeafResult {
    call.set(Gpr::Rcx, mapping);
    call.set(Gpr::Rdx, tdr);
    Err(Stop::from(Status::INTERRUPTED_RESTARTABLE))
}
