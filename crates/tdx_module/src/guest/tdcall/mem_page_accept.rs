//! TDG.MEM.PAGE.ACCEPT (guest-leaves.md 8.1).

use super::{Diversion, LeafEnd, busy, invalid};
use crate::call::Commit;
use crate::guest::{AsyncExit, Guest, extended};
use crate::lock::Side;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::Broken;
use crate::sept::{SeptEntry, SeptState, Slot, WalkEnd};
use tdx_abi::{OperandId, Status};
use x86_arch::{Gpa, Gpr, Hpa};

const WRITE: u64 = 1 << 1;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// 4 KiB chunks of a 2 MiB page.
const CHUNKS: u16 = 512;

/// RCX of ACCEPT and ATTR.WR: a GPA and a level.
pub(super) fn mapping(raw: u64, max_level: u8) -> Option<(u64, u8)> {
    let (gpa, level) = (raw & ADDRESS, (raw & 7) as u8);
    let good = raw & !(ADDRESS | 7) == 0 && level <= max_level;
    (good && gpa.is_multiple_of(4096 << (9 * u32::from(level.min(2))))).then_some((gpa, level))
}

/// R8 and RDX of an exit about a Secure-EPT entry (vp-enter.md 6.3).
pub(super) fn sept_info(kind: u64, wanted: u8, slot: &Slot) -> u64 {
    let entry = slot.entry();
    let state = entry.state().map_or(0, SeptState::public) as u64;
    let leaf = entry.state().is_some_and(SeptState::is_leaf) as u64;
    let info = wanted as u64 | (slot.level as u64) << 3 | state << 6 | leaf << 14;
    kind | info << 32
}

pub(super) const NO_SEPT_PAGE: Diversion =
    Diversion::Broken(Broken("Secure EPT without a page it names"));
const NO_STATE: Diversion = Diversion::Broken(Broken("a Secure-EPT entry in no known state"));

impl<M: Machine> Guest<'_, M> {
    pub(super) fn mem_page_accept(&mut self) -> LeafEnd {
        let (gpa, level) = mapping(self.get(Gpr::Rcx), 1).ok_or(invalid(OperandId::RCX))?;
        if !self.is_private(gpa) {
            return Err(invalid(OperandId::RCX));
        }
        let slot = match self
            .td
            .sept
            .walk(Gpa::new(gpa), level)
            .ok_or(NO_SEPT_PAGE)?
        {
            WalkEnd::Reached(slot) => slot,
            WalkEnd::Stopped(slot) => {
                let state = slot.state().ok_or(NO_STATE)?;
                return match state.is_guest_accessible() {
                    true => Err(Status::PAGE_ALREADY_ACCEPTED
                        .with_details(slot.level as u32)
                        .into()),
                    false => Err(self.cannot_accept(gpa, level, &slot)),
                };
            }
        };
        let guard = self
            .order
            .hold(Lock::SeptEntry, slot.lock(Side::Guest))
            .map_err(busy(OperandId::RCX))?;
        let entry = guard.entry();
        let state = entry.state().ok_or(NO_STATE)?;
        let at_level = |status: Status| Err(status.with_details(level as u32).into());
        if state != SeptState::Free && !state.is_leaf() {
            return at_level(Status::PAGE_SIZE_MISMATCH);
        }
        if state.is_guest_accessible() {
            return at_level(Status::PAGE_ALREADY_ACCEPTED);
        }
        if !state.is_acceptable() {
            return Err(self.cannot_accept(gpa, level, &slot));
        }

        let commit = Commit::new();
        let last = if level == 0 { 1 } else { CHUNKS };
        let first = if level == 0 {
            0
        } else {
            entry.accept_counter()
        };
        for chunk in first..last {
            self.zero(entry, level, chunk);
            if chunk + 1 < last && self.event_pending() {
                guard.write(&commit, entry.with_accept_counter(chunk + 1));
                let _ = commit.done();
                return Err(Diversion::Interrupted);
            }
        }
        let mut accepted = entry;
        if level == 1 {
            accepted = accepted.with_accept_counter(0);
        }
        let to = match state {
            SeptState::Pending => SeptState::Mapped,
            _ => SeptState::ExportedDirty,
        };
        self.td
            .sept
            .unblock_aliases(&commit, Gpa::new(gpa), level, entry.aliases());
        guard.write(&commit, accepted.with_state(to).with_access(true));
        let _ = commit.done();
        Ok(Status::SUCCESS)
    }

    fn cannot_accept(&self, gpa: u64, level: u8, slot: &Slot) -> Diversion {
        let rights = slot.entry().0 & 7;
        let info = sept_info(extended::ACCEPT, level, slot);
        Diversion::Exit(AsyncExit::ept_violation(gpa, WRITE | rights << 3, info))
    }

    /// Zeroes one 4 KiB chunk of a pending page.
    fn zero(&self, entry: SeptEntry, level: u8, chunk: u16) {
        let mask = (4096u64 << (9 * u32::from(level))) - 1;
        let page = (entry.hpa().raw() & !mask) + 4096 * u64::from(chunk);
        let to = self.td.keyed(Hpa::new(page));
        self.module.machine().clear_page(to);
    }
}
