//! What must hold between the module's state and what the machine holds: memory keys and cached translations.
//!
//! Both need that no call is in progress: a vCPU that runs fills its translations as we look.

use super::{UsedPages, Violation};
use crate::machine::{CachedTranslation, LpId, Machine};
use crate::module::Module;
use crate::pamt::{PageSize, PageUse, Pamt, PamtEntry};
use crate::td::Td;
use alloc::vec::Vec;
use tdx_abi::PageType;
use x86_arch::Hpa;

impl<M: Machine> Module<M> {
    /// No private plaintext is reachable with a shared key.
    pub(super) fn check_memory(&self, used: &UsedPages, found: &mut Vec<Violation>) {
        for (hpa, size) in used.keys() {
            let range = *hpa..hpa + size.bytes();
            found.extend(self.machine.exposed(range).map(Violation::Exposed));
        }
    }

    /// No processor can use a translation that BLOCK and TRACK have ended, or one that another key would be used with.
    pub(super) fn check_translations(&self, pamt: &Pamt, found: &mut Vec<Violation>) {
        self.for_each_live_translation(pamt, |lp, td, cached| {
            if !self.is_in_order(pamt, td, &cached) {
                let (tdr, page) = (td.tdr, cached.page.hpa);
                found.push(Violation::Translation { tdr, lp, page });
            }
        });
    }

    /// A page that was taken out of a TD: no processor can still use a translation to it.
    #[cfg(debug_assertions)]
    pub(super) fn translation_to(&self, pamt: &Pamt, page: Hpa) -> Option<Violation> {
        let mut found = None;
        self.for_each_live_translation(pamt, |lp, td, cached| {
            if cached.page.hpa == page && cached.page.hkid == td.hkid {
                let tdr = td.tdr;
                found = Some(Violation::Translation { tdr, lp, page });
            }
        });
        found
    }

    /// Every translation that its processor would use at its next TD entry: those of the vCPU that ran there last, if
    /// the entry would drop nothing (vp-enter.md 3.1: another vCPU, a new association or a newer epoch drops all).
    fn for_each_live_translation(
        &self,
        pamt: &Pamt,
        mut f: impl FnMut(LpId, &Td, CachedTranslation),
    ) {
        for (lp, state) in (0..).map(LpId).zip(&self.lps) {
            let Some(last) = state.local.try_lock().and_then(|local| local.last_tdvpr) else {
                continue;
            };
            let Some(entry) = pamt.known_entry(last) else {
                continue;
            };
            let Some(page) = entry.lock().peek() else {
                continue;
            };
            let PageUse::Tdvpr(vp) = &*page else { continue };
            let owner = pamt.known_entry(entry.owner());
            let Some(owner) = owner.and_then(|owner| owner.lock().peek()) else {
                continue;
            };
            let (PageUse::Tdr(td), true) = (&*owner, vp.assoc_lpid() == lp.0) else {
                continue;
            };
            let epoch = vp.data().map(|data| data.epoch);
            if epoch != Some(td.epoch.current()) || td.is_fatal() {
                continue;
            }
            for cached in self.machine.cached_translations(lp) {
                if td.vpids().contains(&cached.vpid) {
                    f(lp, td, cached);
                }
            }
        }
    }

    fn is_in_order(&self, pamt: &Pamt, td: &Td, cached: &CachedTranslation) -> bool {
        let page = cached.page;
        let private = match cached.gpa {
            Some(gpa) => td.config.is_private(gpa),
            None => page.hkid == td.hkid,
        };
        if !private {
            // The VMM's pages, with a key ID of the VMM.
            let shared = self
                .sys
                .get()
                .is_some_and(|sys| !sys.is_private_hkid(page.hkid.0));
            return shared;
        }
        page.hkid == td.hkid
            && is_memory_of(pamt, td, page.hpa)
            && cached
                .gpa
                .is_none_or(|gpa| is_mapped(pamt, td, gpa, page.hpa))
    }
}

/// The page is private memory of the TD, alone or in a larger one.
fn is_memory_of(pamt: &Pamt, td: &Td, page: Hpa) -> bool {
    let of_td = |entry: &PamtEntry| {
        entry.owner() == td.tdr
            && entry
                .lock()
                .peek()
                .is_some_and(|page| page.page_type() == PageType::Reg)
    };
    [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G]
        .into_iter()
        .any(|size| pamt.entry_of_size(page, size).is_some_and(of_td))
}

/// The Secure EPT maps the page there, or did until a block that no TRACK has followed yet.
fn is_mapped(pamt: &Pamt, td: &Td, gpa: x86_arch::Gpa, page: Hpa) -> bool {
    let Some(slot) = td.sept.walk_to_end(gpa) else {
        return false;
    };
    let entry = slot.entry();
    let Some(state) = entry.state() else {
        return false;
    };
    let at = entry.page(slot.level);
    if state.is_leaf() {
        let size = 4096u64 << (9 * u32::from(slot.level));
        if at.raw() + (gpa.raw() & (size - 1) & !0xFFF) != page.raw() {
            return false;
        }
    }
    if !state.is_blocked() {
        return state.is_guest_accessible();
    }
    let size = match state.is_leaf() {
        true => PageSize::from_level(slot.level).unwrap_or(PageSize::Size4K),
        false => PageSize::Size4K,
    };
    pamt.entry_of_size(at, size)
        .is_some_and(|entry| entry.bepoch() == td.epoch.current())
}

#[cfg(test)]
mod tests {
    use crate::bug::Bug;
    use crate::testing::{GLOBAL_HKID, TestTd, World};
    use alloc::sync::Arc;
    use std::format;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::string::String;
    use tdx_abi::HostLeaf;
    use x86_arch::{Access, Gpa, Gpr};

    const HKID: u64 = GLOBAL_HKID + 1;

    /// What the checks say of a play with this bug: after a call in debug builds, at the end in others.
    fn found_by(bug: Option<Bug>, play: impl FnOnce(&mut World)) -> String {
        let mut world = World::ready(1);
        world.module.bug = bug;
        match catch_unwind(AssertUnwindSafe(|| play(&mut world))) {
            Ok(()) => format!("{:?}", world.module.audit()),
            Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
        }
    }

    fn measured_page(world: &mut World) -> TestTd {
        let td = world.td(HKID);
        world.sept_path(td, 0, 0);
        world.add_page(td, 0x1000);
        td
    }

    #[test]
    fn a_page_added_in_the_clear_is_found_at_that_call() {
        let play = |world: &mut World| {
            measured_page(world);
        };
        assert_eq!(found_by(None, play), "[]");
        let found = found_by(Some(Bug::WritesInTheClear), play);
        assert!(found.contains("Exposed"), "{found}");
        #[cfg(debug_assertions)]
        assert!(found.contains("after TDH.MEM.PAGE.ADD"), "{found}");
    }

    #[test]
    fn what_the_host_writes_over_a_page_exposes_nothing() {
        let found = found_by(None, |world| {
            let td = world.td(HKID);
            world.sept_path(td, 0, 0);
            let page = world.add_page(td, 0x1000);
            world.machine().poke(page, &[1; 64]);
        });
        assert_eq!(found, "[]");
    }

    /// A vCPU uses a page, which is then blocked, tracked and removed; `again`: the vCPU is entered in between.
    fn removal(world: &mut World, again: bool) {
        let td = measured_page(world);
        let tdvpr = world.vcpu(td, 0);
        world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
        let enter = |world: &World, looks: bool| {
            world.machine().share_guest(Arc::new(move |_, memory| {
                if looks {
                    memory.translate(Gpa::new(0x1000), Access::Read).unwrap();
                }
            }));
            world.call(0, HostLeaf::VP_ENTER, &[(Gpr::Rcx, tdvpr)]);
        };
        enter(world, true);
        let range = [(Gpr::Rcx, 0x1000), (Gpr::Rdx, td.tdr)];
        world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &range);
        world.ok(0, HostLeaf::MEM_TRACK, &[(Gpr::Rcx, td.tdr)]);
        if again {
            enter(world, false);
        }
        world.ok(0, HostLeaf::MEM_PAGE_REMOVE, &range);
    }

    #[test]
    fn a_translation_that_outlives_block_track_and_remove_is_found() {
        for again in [false, true] {
            assert_eq!(found_by(None, |world| removal(world, again)), "[]");
        }
        let found = found_by(Some(Bug::KeepsTranslations), |world| removal(world, true));
        assert!(found.contains("Translation"), "{found}");
        #[cfg(debug_assertions)]
        assert!(found.contains("after TDH.MEM.PAGE.REMOVE"), "{found}");
        // Removed without tracking, the page is still in the TLB that the vCPU would go on with.
        let found = found_by(Some(Bug::SkipsTracking), removal_untracked);
        assert!(found.contains("Translation"), "{found}");
    }

    fn removal_untracked(world: &mut World) {
        let td = measured_page(world);
        let tdvpr = world.vcpu(td, 0);
        world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
        world.machine().share_guest(Arc::new(|_, memory| {
            memory.translate(Gpa::new(0x1000), Access::Write).unwrap();
        }));
        world.call(0, HostLeaf::VP_ENTER, &[(Gpr::Rcx, tdvpr)]);
        let range = [(Gpr::Rcx, 0x1000), (Gpr::Rdx, td.tdr)];
        world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &range);
        assert_eq!(world.module.audit(), [], "blocked, and not removed yet");
        world.ok(0, HostLeaf::MEM_PAGE_REMOVE, &range);
    }
}
