//! Consistency of the whole module: what must hold whenever no call is in progress.
//!
//! Debug builds look at the pages a call named after every call, and at everything every thousand calls
//! ([`crate::Module::seamcall`]); what the machine holds of memory keys and translations belongs to it
//! (`hardware`). [`crate::Module::audit`] can be called at any time while no call is in progress.

mod hardware;

use crate::kot::HkidState;
use crate::machine::{LpId, Machine};
use crate::module::Module;
use crate::pamt::{PageSize, PageType, PageUse, Pamt, PamtEntry};
use crate::sept::{L1, SeptPage, SeptState};
use crate::state::{LifeCycle, VcpuState};
use crate::td::{MIN_TDCS_PAGES, Td};
use crate::vp::NO_LP;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use x86_arch::{Hkid, Hpa};

/// A rule that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Violation {
    /// A page that is part of a TD names an owner that is no TDR.
    Orphan(Hpa),
    /// CHLDCNT is not the number of pages that name the TD as their owner.
    ChildCount { tdr: Hpa, counted: u64, kept: u64 },
    /// Two TDs have one key ID.
    SharedHkid(Hkid),
    /// The key-ownership table does not say what the TD's life cycle says.
    HkidState { tdr: Hpa, hkid: Hkid },
    /// A Secure-EPT entry names a page that the PAMT gives another use, size or owner.
    MappedPage { tdr: Hpa, page: Hpa },
    /// Two Secure-EPT entries name one page.
    MappedTwice(Hpa),
    /// A page of a TD that no Secure-EPT entry names.
    Unmapped { tdr: Hpa, page: Hpa },
    /// A Secure-EPT entry in no known state, or still locked.
    BadEntry { tdr: Hpa, raw: u64 },
    /// A control page that the PAMT gives another use or owner.
    ControlPage { tdr: Hpa, page: Hpa },
    /// NUM_ASSOC_VCPUS is not the number of vCPUs that a processor has.
    Associated { tdr: Hpa, counted: u32, kept: u32 },
    /// A vCPU is ACTIVE, or counted in an epoch, although nothing runs.
    Active { tdr: Hpa },
    /// A large page in use has a smaller page in use inside.
    Nested(Hpa),
    /// A lock is held although no call is in progress.
    Locked(Hpa),
    /// What the module wrote to a page of a TD can be read with a shared key.
    Exposed(Hpa),
    /// A processor can still use a translation that leads where the TD has no such page, or a wrong key goes.
    Translation { tdr: Hpa, lp: LpId, page: Hpa },
}

/// What the PAMT says of one page in use.
struct Used {
    size: PageSize,
    page_type: PageType,
    owner: Hpa,
}

type UsedPages = BTreeMap<(u64, PageSize), Used>;

impl<M: Machine> Module<M> {
    /// Checks everything; no call may be in progress. Empty if all is well.
    pub fn audit(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let Some(pamt) = self.pamt.get() else {
            return found;
        };
        let used = used_pages(pamt, &mut found);
        check_nesting(&used, &mut found);
        let mut hkids = BTreeMap::new();
        for (hpa, page) in used.iter().filter(|(_, u)| u.page_type == PageType::Tdr) {
            let Some(entry) = pamt.entry_of_size(Hpa::new(hpa.0), page.size) else {
                continue;
            };
            let Some(page) = entry.lock().peek() else {
                continue;
            };
            if let PageUse::Tdr(td) = &*page {
                self.check_hkid(td, &mut hkids, &mut found);
                check_td(td, pamt, &used, &mut found);
            }
        }
        for ((hpa, _), page) in &used {
            let owned = !matches!(page.page_type, PageType::Tdr);
            let owner = used.get(&(page.owner.raw(), PageSize::Size4K));
            if owned && owner.is_none_or(|o| o.page_type != PageType::Tdr) {
                found.push(Violation::Orphan(Hpa::new(*hpa)));
            }
        }
        self.check_memory(&used, &mut found);
        self.check_translations(pamt, &mut found);
        found
    }

    /// The same of a page that a call named for what the machine holds; no call may be in progress.
    #[cfg(debug_assertions)]
    pub(crate) fn audit_page_on_machine(&self, raw: u64) -> Option<Violation> {
        let pamt = self.pamt.get()?;
        let hpa = Hpa::new(raw).page();
        let page_type = pamt.known_entry(hpa)?.lock().peek()?.page_type();
        match page_type {
            PageType::Nda => self.translation_to(pamt, hpa),
            PageType::Rsvd => None,
            _ => {
                let range = hpa.raw()..hpa.raw() + PageSize::Size4K.bytes();
                self.machine.exposed(range).map(Violation::Exposed)
            }
        }
    }

    /// What must hold of a page that a call named, checked after the call.
    #[cfg(debug_assertions)]
    pub(crate) fn audit_page(&self, raw: u64) -> Option<Violation> {
        let pamt = self.pamt.get()?;
        let hpa = Hpa::new(raw).page();
        let entry = pamt.known_entry(hpa)?;
        let page = entry.lock().peek()?;
        let owner = match &*page {
            PageUse::Free | PageUse::Reserved | PageUse::Tdr(_) => return None,
            PageUse::Regular | PageUse::Tdcx | PageUse::Tdvpr(_) | PageUse::SecureEpt => {
                entry.owner()
            }
        };
        let owner = pamt.known_entry(owner).map(|entry| entry.lock().peek());
        match owner {
            Some(Some(owner)) if owner.page_type() != PageType::Tdr => Some(Violation::Orphan(hpa)),
            None => Some(Violation::Orphan(hpa)),
            // Somebody changes the owner right now: not ours to judge.
            _ => None,
        }
    }

    fn check_hkid(&self, td: &Td, hkids: &mut BTreeMap<Hkid, Hpa>, found: &mut Vec<Violation>) {
        if td.life_cycle == LifeCycle::Teardown {
            return;
        }
        if hkids.insert(td.hkid, td.tdr).is_some() {
            found.push(Violation::SharedHkid(td.hkid));
        }
        let expected = match td.life_cycle {
            LifeCycle::Blocked => HkidState::Flushed,
            _ => HkidState::Assigned,
        };
        if self
            .kot
            .shared()
            .is_ok_and(|kot| kot.state(td.hkid) != expected)
        {
            found.push(Violation::HkidState {
                tdr: td.tdr,
                hkid: td.hkid,
            });
        }
    }
}

fn used_pages(pamt: &Pamt, found: &mut Vec<Violation>) -> UsedPages {
    let mut used = BTreeMap::new();
    pamt.for_each(|hpa, size, entry: &PamtEntry| {
        if entry.lock().is_held() {
            found.push(Violation::Locked(hpa));
        }
        let Some(page) = entry.lock().peek() else {
            return;
        };
        let page_type = page.page_type();
        if !matches!(page_type, PageType::Nda | PageType::Rsvd) {
            let owner = entry.owner();
            let page = Used {
                size,
                page_type,
                owner,
            };
            used.insert((hpa.raw(), size), page);
        }
    });
    used
}

fn check_nesting(used: &UsedPages, found: &mut Vec<Violation>) {
    for ((hpa, size), _) in used
        .iter()
        .filter(|((_, size), _)| *size != PageSize::Size4K)
    {
        let inside = used
            .range((*hpa, PageSize::Size4K)..(hpa + size.bytes(), PageSize::Size4K))
            .any(|((_, other), _)| other < size);
        if inside {
            found.push(Violation::Nested(Hpa::new(*hpa)));
        }
    }
}

fn check_td(td: &Td, pamt: &Pamt, used: &UsedPages, found: &mut Vec<Violation>) {
    let tdr = td.tdr;
    let children = || {
        used.iter()
            .filter(|(_, u)| u.owner == tdr && u.page_type != PageType::Tdr)
    };
    let counted = children().map(|(_, u)| u.size.pages()).sum();
    if counted != td.chldcnt() {
        let kept = td.chldcnt();
        found.push(Violation::ChildCount { tdr, counted, kept });
    }
    if td.life_cycle == LifeCycle::Teardown {
        // The pages go one by one now, in any order.
        return;
    }
    let mut associated = 0;
    let mut control: BTreeSet<u64> = td.tdcx.iter().map(|page| page.raw()).collect();
    if let Ok(streams) = td.migration.lock.shared() {
        control.extend(streams.iter().map(|page| page.raw()));
    }
    for ((hpa, _), _) in children().filter(|(_, u)| u.page_type == PageType::Tdvpr) {
        let Some(page) = pamt.entry(Hpa::new(*hpa)).and_then(|e| e.lock().peek()) else {
            continue;
        };
        if let PageUse::Tdvpr(vp) = &*page {
            associated += u32::from(vp.assoc_lpid() != NO_LP);
            control.extend(vp.pages.iter().skip(1).map(|page| page.raw()));
            if vp.state() == VcpuState::Active && !td.is_fatal() {
                found.push(Violation::Active { tdr });
            }
        }
    }
    let kept = td.num_assoc_vcpus.load(Ordering::Acquire);
    if associated != kept {
        let counted = associated;
        found.push(Violation::Associated { tdr, counted, kept });
    }
    if !td.is_fatal() && td.epoch.references(0) + td.epoch.references(1) != 0 {
        found.push(Violation::Active { tdr });
    }
    for page in &control {
        let page_type = used
            .get(&(*page, PageSize::Size4K))
            .map(|u| (u.page_type, u.owner));
        if page_type != Some((PageType::Tdcx, tdr)) {
            let page = Hpa::new(*page);
            found.push(Violation::ControlPage { tdr, page });
        }
    }
    if td.tdcx.len() < MIN_TDCS_PAGES {
        return;
    }
    let mapped = mapped_pages(td, used, found);
    let private = |t| matches!(t, PageType::Reg | PageType::Ept);
    for ((hpa, size), page) in children() {
        let stray = page.page_type == PageType::Tdcx && !control.contains(hpa);
        if stray || private(page.page_type) && !mapped.contains(&(*hpa, *size)) {
            let page = Hpa::new(*hpa);
            found.push(Violation::Unmapped { tdr, page });
        }
    }
}

/// Every page that the TD's trees name, after checking it against the PAMT.
fn mapped_pages(
    td: &Td,
    used: &UsedPages,
    found: &mut Vec<Violation>,
) -> BTreeSet<(u64, PageSize)> {
    let tdr = td.tdr;
    let mut mapped = BTreeSet::new();
    let mut name = |page: Hpa, size, page_type, found: &mut Vec<Violation>| {
        let known = used
            .get(&(page.raw(), size))
            .map(|u| (u.page_type, u.owner));
        if known != Some((page_type, tdr)) {
            found.push(Violation::MappedPage { tdr, page });
        }
        if !mapped.insert((page.raw(), size)) {
            found.push(Violation::MappedTwice(page));
        }
    };
    let mut tables = Vec::new();
    if let Some(root) = td.sept.root(L1) {
        tables.push((root.clone(), td.sept.root_level()));
    }
    while let Some((table, level)) = tables.pop() {
        for entry in SeptPage::entries(&table) {
            match entry.state() {
                _ if entry.is_locked() => found.push(Violation::BadEntry { tdr, raw: entry.0 }),
                None => found.push(Violation::BadEntry { tdr, raw: entry.0 }),
                Some(SeptState::Free | SeptState::Removed) => {}
                Some(SeptState::NlMapped | SeptState::NlBlocked) => {
                    name(entry.hpa(), PageSize::Size4K, PageType::Ept, found);
                    if let (Some(next), true) = (td.sept.page(L1, entry.hpa()), level > 0) {
                        tables.push((next, level - 1));
                    }
                }
                Some(_) => match PageSize::from_level(level) {
                    Some(size) => name(entry.page(level), size, PageType::Reg, found),
                    None => found.push(Violation::BadEntry { tdr, raw: entry.0 }),
                },
            }
        }
    }
    for vm in 1..4 {
        td.sept.for_each_page(vm, |hpa, _| {
            name(hpa, PageSize::Size4K, PageType::Ept, found);
        });
    }
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bug::Bug;
    use crate::testing::World;
    use alloc::vec;
    use std::format;
    use std::string::String;
    use tdx_abi::{HostLeaf, Status};
    use x86_arch::Gpr;

    /// A TD is built, grows, shrinks; the names of the rules that are broken at the end.
    fn life_of_a_td(bug: Option<Bug>) -> Vec<String> {
        let mut world = World::ready(2);
        world.module.bug = bug;
        let (td, tdvpr) = {
            let td = world.td(33);
            world.sept_path(td, 0, 0);
            world.add_page(td, 0x1000);
            let tdvpr = world.vcpu(td, 0);
            world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
            (td, tdvpr)
        };
        world.aug_page(td, 0x2000, 0);
        let refused = [(Gpr::Rcx, 0x5000), (Gpr::Rdx, td.tdr), (Gpr::R8, td.tdr)];
        let status = world.call(0, HostLeaf::MEM_PAGE_AUG, &refused);
        assert!(status.is_error());
        let range = [(Gpr::Rcx, 0x1000), (Gpr::Rdx, td.tdr)];
        world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &range);
        world.ok(0, HostLeaf::MEM_TRACK, &[(Gpr::Rcx, td.tdr)]);
        world.ok(0, HostLeaf::MEM_PAGE_REMOVE, &range);
        world.ok(0, HostLeaf::VP_FLUSH, &[(Gpr::Rcx, tdvpr)]);
        let found = world.module.audit();
        let name = |v: &Violation| format!("{v:?}").split([' ', '(']).next().map(String::from);
        found.iter().filter_map(name).collect()
    }

    #[test]
    fn a_td_built_grown_and_shrunk_breaks_no_rule() {
        assert_eq!(life_of_a_td(None), Vec::<String>::new());
    }

    #[test]
    fn each_deliberate_bug_is_found() {
        let expected = [
            (Bug::ForgetsChild, vec!["ChildCount"]),
            (Bug::LeavesEntry, vec!["MappedPage"]),
            (Bug::ForgetsHkid, vec!["HkidState"]),
            (Bug::ForgetsFlush, vec!["Associated"]),
            (Bug::ChangesBeforeRefusing, vec!["MappedPage"]),
        ];
        for (bug, rules) in expected {
            assert_eq!(life_of_a_td(Some(bug)), rules, "{bug:?}");
        }
    }

    #[test]
    fn removing_without_tracking_is_refused_and_the_bug_that_allows_it_shows() {
        for (bug, expected) in [
            (None, Status::TLB_TRACKING_NOT_DONE),
            (Some(Bug::SkipsTracking), Status::SUCCESS),
        ] {
            let mut world = World::ready(1);
            let td = world.td(33);
            world.sept_path(td, 0, 0);
            world.add_page(td, 0);
            world.vcpu(td, 0);
            world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
            let range = [(Gpr::Rcx, 0), (Gpr::Rdx, td.tdr)];
            world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &range);
            world.module.bug = bug;
            assert_eq!(
                world.call(0, HostLeaf::MEM_PAGE_REMOVE, &range).code(),
                expected
            );
        }
    }
}
