//! TDG.MEM.PAGE.ATTR.RD and ATTR.WR (guest-leaves.md 8.2 and 8.3), as far as they go without L2 VMs: no page has an
//! alias, so all attributes are 0.

use super::mem_page_accept::{NO_SEPT_PAGE, mapping, sept_info};
use super::{Diversion, LeafEnd, busy, invalid};
use crate::guest::{AsyncExit, Guest, extended};
use crate::lock::Side;
use crate::machine::Machine;
use crate::refusal::NOT_MODELLED;
use crate::sept::{SeptState, WalkEnd};
use tdx_abi::{OperandId, Status};
use x86_arch::{Gpa, Gpr};

const WRITE: u64 = 1 << 1;
/// RCX of both: the page is pending.
const PENDING: u64 = 1 << 62;
/// An attribute word is meant.
const VALID: u64 = 1 << 15;

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

    /// RCX and RDX are 0 where the leaf completes with an error.
    fn clear_on_refusal(&mut self, end: LeafEnd) -> LeafEnd {
        if let Err(Diversion::Complete(_)) = end {
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
        let guard = slot.lock(Side::Guest).map_err(busy(OperandId::RCX))?;
        let state = guard.entry().state();
        let readable = state.is_some_and(|state| {
            state.is_leaf() && !matches!(state, SeptState::Blocked | SeptState::PendingBlocked)
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
        self.set(Gpr::Rcx, gpa & !(size - 1) | slot.level as u64 | pending);
        self.set(Gpr::Rdx, 0);
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
        let guard = slot.lock(Side::Guest).map_err(busy(OperandId::RCX))?;
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
        if attributes != 0 {
            return Err(NOT_MODELLED.into());
        }
        let pending = if state.is_some_and(SeptState::is_pending) {
            PENDING
        } else {
            0
        };
        self.set(Gpr::Rcx, raw | pending);
        self.set(Gpr::Rdx, 0);
        Ok(Status::SUCCESS)
    }
}
