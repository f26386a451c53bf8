//! TDH.MEM.SEPT.ADD: Secure-EPT pages for L1 and, in version 1, for L2 VMs (spec: host-memory.md 4.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Held;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::operand::{Mapping, operand_of};
use crate::pamt::{PageType, PageUse, Walk, Want};
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use crate::sept::{EntryGuard, L1, L2Entry, SeptEntry, SeptPage, SeptState, SeptStates, Slot, WalkEnd};
use crate::state::OpStates;
use crate::td::Td;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    max_version: 1,
    op_states: OpStates::row([0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11],
    interruptible: true,
    ..Row::new(HostLeaf::MEM_SEPT_ADD)
};

const STATES: SeptStates = SeptStates::of(&[SeptState::Free, SeptState::NlMapped]);
const ALLOW_EXISTING: u64 = 1;
/// A page operand that is not given.
const NONE: u64 = u64::MAX;
/// Of a page operand on return: the page was not needed.
const UNUSED: u64 = 1 << 63;
/// R8 for L1, R9 to R11 for L2 VM 1 to 3.
pub const PAGES: [Gpr; 4] = [Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11];

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    if call.version() > ROW.max_version {
        return Err(Refusal::Invalid(OperandId::RAX).into());
    }
    let mut pages = Pages::read(call);
    let result = add(call, mapping, tdr, &mut pages);
    // Whatever the result: the operands as they were understood.
    if call.version() > 0 {
        for (reg, value) in PAGES.into_iter().zip(pages.0) {
            call.set(reg, value);
        }
    }
    result
}

fn add<M: Machine>(
    call: &mut Call<'_, M>,
    mapping: u64,
    tdr: u64,
    pages: &mut Pages,
) -> LeafResult {
    if tdr & 0xFFF0_0000_0000_0FFE != 0 {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let td = call.tdr_shared_at(tdr & !ALLOW_EXISTING, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 1, td.sept.root_level())?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    let state = call.entry_state(&entry, STATES)?;
    let allow_existing = tdr & ALLOW_EXISTING != 0;
    let l1 = lock_l1(call, pages, &entry, state, allow_existing)?;
    let mut l2 = [const { None }; 3];
    for vm in 1..4 {
        l2[vm - 1] = lock_l2(call, &td, pages, vm, at, allow_existing)?;
    }

    let commit = call.commit();
    let mut added = false;
    if let Some(mut page) = l1 {
        let hpa = pages.address(0);
        call.clear_control_page(hpa, td.hkid);
        td.sept.insert(&commit, L1, hpa, SeptPage::free());
        page.assign(&commit, PageUse::SecureEpt, td.tdr);
        td.add_children(&commit, 1);
        entry.write(&commit, SeptEntry::table(hpa));
        pages.0[0] = NONE;
        added = true;
    }
    for vm in 1..4 {
        let Some((mut page, parent)) = l2[vm - 1].take() else { continue };
        if added && call.interrupted() {
            call.set(Gpr::Rcx, mapping);
            call.set(Gpr::Rdx, tdr);
            return Ok(commit.done_with(Status::INTERRUPTED_RESUMABLE));
        }
        let hpa = pages.address(vm);
        call.clear_control_page(hpa, td.hkid);
        td.sept.insert(&commit, vm, hpa, SeptPage::l2_free());
        page.assign(&commit, PageUse::SecureEpt, td.tdr);
        td.add_children(&commit, 1);
        entry.write(&commit, entry.entry().with_alias(vm));
        parent.write_l2(&commit, L2Entry::table(hpa));
        pages.0[vm] = NONE;
        added = true;
    }
    Ok(commit.done())
}

/// The four page operands on their way from input to output.
pub struct Pages(pub [u64; 4]);

impl Pages {
    /// Version 0 has L1's page only. Bit 63 does not count, unless the page is not given.
    pub fn read<M: Machine>(call: &Call<'_, M>) -> Pages {
        Pages(core::array::from_fn(|i| {
            let raw = call.get(PAGES[i]);
            match raw == NONE || i > 0 && call.version() == 0 && call.leaf.number() == ROW.leaf.0 {
                true => NONE,
                false => raw & !UNUSED,
            }
        }))
    }
    pub fn is_given(&self, i: usize) -> bool {
        self.0[i] != NONE
    }
    pub fn address(&self, i: usize) -> Hpa {
        Hpa::new(self.0[i])
    }
    pub fn mark_unused(&mut self, i: usize) {
        self.0[i] |= UNUSED;
    }
}

fn lock_l1<'m, M: Machine>(
    call: &mut Call<'m, M>,
    pages: &mut Pages,
    entry: &EntryGuard,
    state: SeptState,
    allow_existing: bool,
) -> Result<Option<Held<'m, Walk<'m>>>, Stop> {
    let free = state == SeptState::Free;
    if !pages.is_given(0) {
        if call.version() == 0 {
            return Err(Refusal::Invalid(OperandId::R8).into());
        }
        return match free {
            true => Err(call.wrong_state(entry).into()),
            false => Ok(None),
        };
    }
    if free {
        let page = call.page_at(pages.0[0], OperandId::R8, Want::Exclusive, PageType::Nda)?;
        return Ok(Some(page));
    }
    if !allow_existing {
        return Err(call.wrong_state(entry).into());
    }
    pages.mark_unused(0);
    Ok(None)
}

/// A locked L2 page and the entry that will name it.
type L2Page<'m> = Option<(Held<'m, Walk<'m>>, Slot)>;

fn lock_l2<'m, M: Machine>(
    call: &mut Call<'m, M>,
    td: &Td,
    pages: &mut Pages,
    vm: usize,
    at: Mapping,
    allow_existing: bool,
) -> Result<L2Page<'m>, Stop> {
    if !pages.is_given(vm) {
        return Ok(None);
    }
    let op = operand_of(PAGES[vm]);
    if vm > td.config.num_l2_vms as usize {
        return Err(Refusal::Invalid(op).into());
    }
    let parent = call.l2_walk(td, vm, at)?;
    if parent.l2_entry().is_free() {
        let page = call.page_at(pages.0[vm], op, Want::Exclusive, PageType::Nda)?;
        return Ok(Some((page, parent)));
    }
    if !allow_existing {
        let details = parent.l2_entry().details(at.level, vm as u8, td.config.is_debug());
        call.show(details);
        let status = Status::L2_SEPT_ENTRY_NOT_FREE;
        return Err(status.with_details((vm as u32) << 16 | at.level as u32).into());
    }
    pages.mark_unused(vm);
    Ok(None)
}

impl<M: Machine> Call<'_, M> {
    /// Walks an L2 VM's tree to `level`; a walk that stops early shows where.
    pub fn l2_walk(&mut self, td: &Td, vm: usize, at: Mapping) -> Result<Slot, Stop> {
        match td.sept.walk_in(vm, at.gpa, at.level) {
            Some(WalkEnd::Reached(slot)) => Ok(slot),
            Some(WalkEnd::Stopped(slot)) => {
                let debug = td.config.is_debug();
                self.show(slot.l2_entry().details(slot.level, vm as u8, debug));
                let details = (vm as u32) << 16 | slot.level as u32;
                Err(Status::L2_SEPT_WALK_FAILED.with_details(details).into())
            }
            None => Err(Broken("an L2 Secure EPT without a page it names").into()),
        }
    }
}
