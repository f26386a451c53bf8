//! TDH.MEM.SEPT.ADD: Secure-EPT pages for L1 and, in version 1, for L2 VMs (spec: host-memory.md 4.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::operand::operand_of;
use crate::pamt::{PageType, PageUse, Walk, Want};
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use crate::sept::{L1, L2Entry, SeptEntry, SeptPage, SeptState, SeptStates, Slot, WalkEnd};
use crate::state::OpStates;
use crate::td::Td;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpa, Gpr, Hpa};

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
    if tdr & 0xFFF0_0000_0000_0FFE != 0 {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let td = call.tdr_shared_at(tdr & !ALLOW_EXISTING, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let at = call.mapping(mapping, 1, td.sept.root_level())?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = td.sept.lock.shared().busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;
    let has_l2 = call.version() > 0;
    let mut pages = Pages::read(call, has_l2);
    let state = match call.entry_state(&entry, STATES) {
        Ok(state) => state,
        Err(stop) => return pages.refuse(call, has_l2, stop),
    };
    let allow_existing = tdr & ALLOW_EXISTING != 0;
    let l1 = match lock_l1(call, &mut pages, state, allow_existing) {
        Ok(page) => page,
        Err(stop) => {
            if let Stop::Refused(Refusal::Status(_)) = stop {
                call.wrong_state(&entry);
            }
            return pages.refuse(call, has_l2, stop);
        }
    };
    let mut l2 = [const { None }; 3];
    for vm in 1..4 {
        let locked = lock_l2(call, &td, &mut pages, vm, at.gpa, at.level, allow_existing);
        match locked {
            Ok(found) => l2[vm - 1] = found,
            Err(stop) => return pages.refuse(call, has_l2, stop),
        }
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
            pages.write(call, has_l2);
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
    pages.write(call, has_l2);
    Ok(commit.done())
}

/// The four page operands on their way from input to output.
pub struct Pages(pub [u64; 4]);

impl Pages {
    pub fn read<M: Machine>(call: &Call<'_, M>, has_l2: bool) -> Pages {
        Pages(core::array::from_fn(|i| {
            let raw = call.get(PAGES[i]);
            match (i, has_l2) {
                (0, false) => raw,
                (_, false) => NONE,
                _ => raw,
            }
        }))
    }
    pub fn is_given(&self, i: usize) -> bool {
        self.0[i] != NONE
    }
    /// Bit 63 does not count.
    pub fn raw(&self, i: usize) -> u64 {
        self.0[i] & !UNUSED
    }
    pub fn address(&self, i: usize) -> Hpa {
        Hpa::new(self.raw(i))
    }
    pub fn mark_unused(&mut self, i: usize) {
        self.0[i] |= UNUSED;
    }
    pub fn write<M: Machine>(&self, call: &mut Call<'_, M>, has_l2: bool) {
        if has_l2 {
            for (reg, value) in PAGES.into_iter().zip(self.0) {
                call.set(reg, value);
            }
        }
    }
    /// A refusal after the entry was locked shows the operands as they were understood.
    fn refuse<M: Machine>(&self, call: &mut Call<'_, M>, has_l2: bool, stop: Stop) -> LeafResult {
        if has_l2 {
            for (i, reg) in PAGES.into_iter().enumerate() {
                let value = match self.is_given(i) {
                    true => self.0[i],
                    false => NONE,
                };
                call.set(reg, value);
            }
        }
        Err(stop)
    }
}

fn wrong_state() -> Stop {
    Status::EPT_ENTRY_STATE_INCORRECT.with_operand(OperandId::RCX).into()
}

fn lock_l1<'m, M: Machine>(
    call: &Call<'m, M>,
    pages: &mut Pages,
    state: SeptState,
    allow_existing: bool,
) -> Result<Option<Walk<'m>>, Stop> {
    let free = state == SeptState::Free;
    if !pages.is_given(0) {
        if call.version() == 0 {
            return Err(Refusal::Invalid(OperandId::R8).into());
        }
        return if free { Err(wrong_state()) } else { Ok(None) };
    }
    if free {
        let page = call.page_at(pages.raw(0), OperandId::R8, Want::Exclusive, PageType::Free)?;
        return Ok(Some(page));
    }
    if !allow_existing {
        return Err(wrong_state());
    }
    pages.mark_unused(0);
    Ok(None)
}

/// A locked L2 page and the entry that will name it.
type L2Page<'m> = Option<(Walk<'m>, Slot)>;

fn lock_l2<'m, M: Machine>(
    call: &mut Call<'m, M>,
    td: &Td,
    pages: &mut Pages,
    vm: usize,
    gpa: Gpa,
    level: u8,
    allow_existing: bool,
) -> Result<L2Page<'m>, Stop> {
    if !pages.is_given(vm) {
        return Ok(None);
    }
    let op = operand_of(PAGES[vm]);
    if vm > td.config.num_l2_vms as usize {
        return Err(Refusal::Invalid(op).into());
    }
    let parent = call.l2_walk(td, vm, gpa, level)?;
    if parent.l2_entry().is_free() {
        let page = call.page_at(pages.raw(vm), op, Want::Exclusive, PageType::Free)?;
        return Ok(Some((page, parent)));
    }
    if !allow_existing {
        let details = parent.l2_entry().details(level, vm as u8, td.config.is_debug());
        call.show(details);
        let status = Status::L2_SEPT_ENTRY_NOT_FREE;
        return Err(status.with_details((vm as u32) << 16 | level as u32).into());
    }
    pages.mark_unused(vm);
    Ok(None)
}

impl<M: Machine> Call<'_, M> {
    /// Walks an L2 VM's tree to `level`; a walk that stops early shows where.
    pub fn l2_walk(&mut self, td: &Td, vm: usize, gpa: Gpa, level: u8) -> Result<Slot, Stop> {
        match td.sept.walk_in(vm, gpa, level) {
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
