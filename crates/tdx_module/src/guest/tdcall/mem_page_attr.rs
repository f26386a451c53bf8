//! TDG.MEM.PAGE.ATTR.RD and ATTR.WR: what the L2 VMs of a TD may do with a page (guest-leaves.md 8.2 and 8.3).

use super::mem_page_accept::{NO_SEPT_PAGE, mapping, sept_info};
use super::{Diversion, LeafEnd, busy, invalid};
use crate::call::Commit;
use crate::guest::{AsyncExit, Guest, extended};
use crate::lock::Side;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::sept::{L2Entry, SeptEntry, SeptState, Slot, WalkEnd};
use core::sync::atomic::Ordering;
use tdx_abi::{OperandId, Status};
use x86_arch::{Gpa, Gpr};

const WRITE: u64 = 1 << 1;
/// RCX of both: the page is pending.
const PENDING: u64 = 1 << 62;
/// An attribute word is meant.
const VALID: u64 = 1 << 15;

/// R, W, Xs, Xu: with none of them there is no alias.
const RIGHTS: u64 = 0xF;
const R: u64 = 1 << 0;
const W: u64 = 1 << 1;
const PWA: u64 = 1 << 5;
const SVE: u64 = 1 << 7;
const RESERVED: u64 = 0x7F << 8;
/// Flag word: flush the VM's translations.
const FLUSH: u64 = 1 << 15;

/// A page whose attributes are written; its L1 entry is locked.
struct Page {
    gpa: Gpa,
    level: u8,
    entry: SeptEntry,
    pending: bool,
}

/// What becomes of a VM's alias.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Nothing; this word is reported.
    None(u64),
    /// An alias with these attributes: a new one, or another than before.
    Set(u64),
    Free,
}

/// Attribute word of VM `vm`.
const fn word(words: u64, vm: u16) -> u64 {
    words >> (16 * vm as u32) & 0xFFFF
}

impl<M: Machine> Guest<'_, M> {
    pub(super) fn mem_page_attr_rd(&mut self) -> LeafEnd {
        let end = self.attr_rd();
        self.clear_on_refusal(end)
    }

    pub(super) fn mem_page_attr_wr(&mut self) -> LeafEnd {
        let end = self.attr_wr();
        self.clear_on_refusal(end)
    }

    /// RCX and RDX are 0 where the leaf completes with an error, but for PAGE_ATTR_INVALID.
    fn clear_on_refusal(&mut self, end: LeafEnd) -> LeafEnd {
        if end == Err(Status::PAGE_ATTR_INVALID.into()) {
            self.set(Gpr::Rcx, 0);
        } else if let Err(Diversion::Complete(_)) = end {
            self.set(Gpr::Rcx, 0);
            self.set(Gpr::Rdx, 0);
        }
        end
    }

    fn attr_rd(&mut self) -> LeafEnd {
        let gpa = self.get(Gpr::Rcx);
        if !self.is_private(gpa) {
            return Err(invalid(OperandId::RCX));
        }
        let slot = self
            .td
            .sept
            .walk_to_end(Gpa::new(gpa))
            .ok_or(NO_SEPT_PAGE)?;
        let guard = self
            .order
            .hold(Lock::SeptEntry, slot.lock(Side::Guest))
            .map_err(busy(OperandId::RCX))?;
        let state = guard.entry().state();
        let readable = state.is_some_and(|state| {
            state.is_leaf() && !matches!(state, SeptState::Blocked | SeptState::Removed)
        });
        if !readable {
            return Err(Diversion::Exit(AsyncExit::ept_violation(gpa, 0, 0)));
        }
        let size = 4096u64 << (9 * u32::from(slot.level));
        let pending = if state.is_some_and(SeptState::is_pending) {
            PENDING
        } else {
            0
        };
        let aliases = guard.entry().aliases();
        let words = self
            .td
            .sept
            .l2_attributes(Gpa::new(gpa & !(size - 1)), slot.level, aliases);
        self.set(Gpr::Rcx, gpa & !(size - 1) | slot.level as u64 | pending);
        self.set(Gpr::Rdx, words);
        Ok(Status::SUCCESS)
    }

    fn attr_wr(&mut self) -> LeafEnd {
        let (attributes, flags) = (self.get(Gpr::Rdx), self.get(Gpr::R8));
        let num_l2_vms = self.td.config.num_l2_vms;
        for vm in 0..4 {
            if vm == 0 || vm > num_l2_vms {
                if word(attributes, vm) != 0 {
                    return Err(invalid(OperandId::RDX));
                }
                if word(flags, vm) != 0 {
                    return Err(invalid(OperandId::R8));
                }
            } else if word(attributes, vm) != 0 && word(attributes, vm) & VALID == 0 {
                return Err(invalid(OperandId::RDX));
            }
        }
        let raw = self.get(Gpr::Rcx);
        let (gpa, level) = mapping(raw, 2).ok_or(invalid(OperandId::RCX))?;
        if !self.is_private(gpa) {
            return Err(invalid(OperandId::RCX));
        }
        let violation = |slot| {
            let info = sept_info(extended::ATTR_WR, level, slot);
            Err(Diversion::Exit(AsyncExit::ept_violation(
                gpa,
                WRITE | slot.entry().0 << 3 & 0x38,
                info,
            )))
        };
        let slot = match self
            .td
            .sept
            .walk(Gpa::new(gpa), level)
            .ok_or(NO_SEPT_PAGE)?
        {
            WalkEnd::Reached(slot) => slot,
            WalkEnd::Stopped(slot) => return violation(&slot),
        };
        let guard = self
            .order
            .hold(Lock::SeptEntry, slot.lock(Side::Guest))
            .map_err(busy(OperandId::RCX))?;
        let state = guard.entry().state();
        if state.is_some_and(|state| state != SeptState::Free && !state.is_leaf()) {
            return Err(Status::PAGE_SIZE_MISMATCH.with_details(level as u32).into());
        }
        let writable = matches!(
            state,
            Some(
                SeptState::Mapped
                    | SeptState::ExportedDirty
                    | SeptState::Pending
                    | SeptState::PendingExportedDirty
            )
        );
        if !writable {
            return violation(&slot);
        }
        let pending = state.is_some_and(SeptState::is_pending);
        let page = Page {
            gpa: Gpa::new(gpa),
            level,
            entry: guard.entry(),
            pending,
        };
        let plan = self.plan(&page, attributes, flags)?;
        let (words, entry) = self.apply(&page, &plan, flags)?;
        let commit = Commit::new();
        guard.write(&commit, entry);
        let _ = commit.done();
        self.set(Gpr::Rcx, raw | if pending { PENDING } else { 0 });
        self.set(Gpr::Rdx, words);
        Ok(Status::SUCCESS)
    }

    /// What each VM's word asks for; nothing is changed if one of them is illegal (8.3, row 8).
    fn plan(&mut self, page: &Page, attributes: u64, flags: u64) -> Result<[Change; 4], Diversion> {
        let aliases = page.entry.aliases();
        let current = self.td.sept.l2_attributes(page.gpa, page.level, aliases);
        let mut plan = [Change::None(0); 4];
        for vm in 1..=self.td.config.num_l2_vms {
            let (asked, mask) = (word(attributes, vm), word(flags, vm) & !FLUSH);
            let has_alias = aliases >> (vm - 1) & 1 != 0;
            let old = word(current, vm);
            if asked & VALID == 0 {
                plan[vm as usize] = Change::None(old);
                continue;
            }
            let new = match has_alias {
                true => old & !mask | asked & (mask | VALID),
                false => asked & (mask | VALID),
            };
            let legal = new & (RESERVED | SVE) == 0
                && (new & W == 0 || new & R != 0)
                && (new & PWA == 0 || new & R != 0);
            if new & RIGHTS != 0 && !legal {
                self.set(Gpr::Rdx, current);
                return Err(Status::PAGE_ATTR_INVALID.into());
            }
            plan[vm as usize] = match (new & RIGHTS != 0, has_alias) {
                (true, _) => Change::Set(new),
                (false, true) => Change::Free,
                // Nothing is made, and the caller's own word comes back.
                (false, false) => Change::None(asked),
            };
        }
        for vm in 1..=self.td.config.num_l2_vms {
            let is_new = aliases >> (vm - 1) & 1 == 0;
            if matches!(plan[vm as usize], Change::Set(_)) && is_new {
                self.l2_slot(page, vm)?;
            }
        }
        Ok(plan)
    }

    /// The entry of an L2 VM at the page's level (8.3, row 9).
    fn l2_slot(&self, page: &Page, vm: u16) -> Result<Slot, Diversion> {
        let walk = self
            .td
            .sept
            .walk_in(vm.into(), page.gpa, page.level)
            .ok_or(NO_SEPT_PAGE)?;
        let stopped = match walk {
            WalkEnd::Reached(slot) => return Ok(slot),
            WalkEnd::Stopped(slot) => slot,
        };
        let level = stopped.level as u32;
        if self.td.vm_ctls[usize::from(vm)].load(Ordering::Acquire) & 1 == 0 {
            let details = (vm as u32) << 16 | level;
            return Err(Status::L2_SEPT_WALK_FAILED.with_details(details).into());
        }
        let raw = stopped.l2_entry().0;
        let rights = raw & 7 | (raw >> 10 & 1) << 3;
        let info = (level << 3 | (vm as u32) << 20) as u64;
        Err(Diversion::Exit(AsyncExit::ept_violation(
            page.gpa.raw(),
            WRITE | rights << 3,
            extended::GPA_DETAILS | info << 32,
        )))
    }

    /// Changes the aliases; gives RDX and the L1 entry with its alias flags.
    fn apply(
        &mut self,
        page: &Page,
        plan: &[Change; 4],
        flags: u64,
    ) -> Result<(u64, SeptEntry), Diversion> {
        let (mut words, mut entry) = (0, page.entry);
        for vm in 1..=self.td.config.num_l2_vms {
            let change = plan[usize::from(vm)];
            let reported = match change {
                Change::None(reported) => reported,
                Change::Set(attributes) => {
                    let slot = self.l2_slot(page, vm)?;
                    let mut leaf = L2Entry::leaf(page.entry.page(page.level), attributes as u16);
                    if page.pending {
                        leaf = leaf.blocked(true);
                    }
                    let commit = Commit::new();
                    slot.write_l2(&commit, leaf);
                    let _ = commit.done();
                    entry = entry.with_alias(vm.into());
                    attributes
                }
                Change::Free => {
                    let slot = self.l2_slot(page, vm)?;
                    let commit = Commit::new();
                    slot.write_l2(&commit, L2Entry::FREE);
                    let _ = commit.done();
                    entry = entry.without_alias(vm.into());
                    VALID
                }
            };
            words |= reported << (16 * vm);
            if word(flags, vm) & FLUSH != 0 {
                let vpid = self.td.vpid(vm);
                self.module
                    .machine()
                    .invalidate_translations(self.lp, &[vpid]);
            }
        }
        Ok((words, entry))
    }
}
