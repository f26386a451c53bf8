//! The trees of Secure-EPT pages of one TD: L1's, and one for each L2 VM.

use super::{L2Entry, SeptEntry, SeptState};
use crate::call::Commit;
use crate::lock::{Contended, ShareEx, Side, interleave};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::RwLock;
use x86_arch::{Access, EptFault, EptPermissions, Gpa, Hkid, Hpa, KeyedHpa, SecondLevelMapping};

/// 512 entries. Each entry is one atomic word that also holds its lock.
pub struct SeptPage {
    entries: [AtomicU64; 512],
}

impl SeptPage {
    /// A page of free L1 entries.
    pub fn free() -> Arc<SeptPage> {
        Self::filled(|_| SeptEntry::FREE.0)
    }
    /// A page of free L2 entries.
    pub fn l2_free() -> Arc<SeptPage> {
        Self::filled(|_| L2Entry::FREE.0)
    }
    /// A page of these raw entries.
    pub fn filled(entry: impl Fn(u64) -> u64) -> Arc<SeptPage> {
        Arc::new(SeptPage {
            entries: core::array::from_fn(|i| AtomicU64::new(entry(i as u64))),
        })
    }
    pub fn entry(&self, index: usize) -> SeptEntry {
        SeptEntry(self.entries[index].load(Ordering::Acquire))
    }
    pub fn entries(&self) -> impl Iterator<Item = SeptEntry> {
        (0..512).map(|i| self.entry(i))
    }
}

/// Where an entry lies: its page, its index, its level.
#[derive(Clone)]
pub struct Slot {
    page: Arc<SeptPage>,
    index: usize,
    pub level: u8,
}

/// What a walk found: the target, or the entry that stopped it.
pub enum WalkEnd {
    Reached(Slot),
    Stopped(Slot),
}

/// One tree: root in the TDCS, further pages by address.
#[derive(Default)]
struct Tree {
    root: Option<Arc<SeptPage>>,
    pages: RwLock<BTreeMap<u64, Arc<SeptPage>>>,
}

/// The trees of a TD.
#[derive(Default)]
pub struct SeptTree {
    /// The tree lock that leaves take (`TDX_OPERAND_BUSY` on SEPT_TREE).
    pub lock: ShareEx<()>,
    /// Level of the roots' entries: 3 (4 levels) or 4.
    root_level: u8,
    /// L1, then L2 VM 1 to 3.
    trees: [Tree; 4],
}

/// The index of L1's tree; L2 VM n has tree n.
pub const L1: usize = 0;

impl SeptTree {
    /// Makes L1's root, when its TDCS page is added.
    pub fn create_root(&mut self, _: &Commit) {
        self.trees[L1].root = Some(SeptPage::free());
    }
    /// Makes the root of an L2 VM (from 1).
    pub fn create_l2_root(&mut self, _: &Commit, vm: usize) {
        self.trees[vm].root = Some(SeptPage::l2_free());
    }
    pub fn set_root_level(&mut self, _: &Commit, level: u8) {
        self.root_level = level;
    }
    pub fn root_level(&self) -> u8 {
        self.root_level
    }
    pub fn root(&self, vm: usize) -> Option<&Arc<SeptPage>> {
        self.trees[vm].root.as_ref()
    }
    /// The Secure-EPT page of a tree at this address.
    pub fn page(&self, vm: usize, hpa: Hpa) -> Option<Arc<SeptPage>> {
        self.trees[vm].pages.read().get(&hpa.raw()).cloned()
    }
    pub fn insert(&self, _: &Commit, vm: usize, hpa: Hpa, page: Arc<SeptPage>) {
        self.trees[vm].pages.write().insert(hpa.raw(), page);
    }
    pub fn remove(&self, _: &Commit, vm: usize, hpa: Hpa) {
        self.trees[vm].pages.write().remove(&hpa.raw());
    }
    /// Every page of a tree below its root: for consistency checks.
    pub fn for_each_page(&self, vm: usize, mut f: impl FnMut(Hpa, &SeptPage)) {
        for (hpa, page) in self.trees[vm].pages.read().iter() {
            f(Hpa::new(*hpa), page);
        }
    }

    /// Walks L1's tree to the entry of `gpa` at `level` (spec: host-memory.md 2). `None` if the tree has no root, or
    /// an entry names a page that is not there: an impossible state.
    pub fn walk(&self, gpa: Gpa, level: u8) -> Option<WalkEnd> {
        self.walk_in(L1, gpa, level)
    }
    /// The same in the tree of any VM. Access and leaf bits lie alike in L1 and L2 entries.
    pub fn walk_in(&self, vm: usize, gpa: Gpa, level: u8) -> Option<WalkEnd> {
        let mut page = self.trees[vm].root.clone()?;
        let mut at = self.root_level;
        loop {
            let index = (gpa.raw() >> (12 + 9 * at as u32) & 0x1FF) as usize;
            let entry = page.entry(index);
            let slot = Slot {
                page,
                index,
                level: at,
            };
            if at == level {
                return Some(WalkEnd::Reached(slot));
            }
            if !entry.is_accessible() || entry.is_leaf() || at == 0 {
                return Some(WalkEnd::Stopped(slot));
            }
            page = self.page(vm, entry.hpa())?;
            at -= 1;
        }
    }
    /// Walks down to whatever ends the path: a leaf, or an entry that leads nowhere.
    pub fn walk_to_end(&self, gpa: Gpa) -> Option<Slot> {
        match self.walk(gpa, 0)? {
            WalkEnd::Reached(slot) | WalkEnd::Stopped(slot) => Some(slot),
        }
    }
    /// The private half of the second level, as hardware walks it: no locks.
    pub fn translate(
        &self,
        gpa: Gpa,
        access: Access,
        hkid: Hkid,
    ) -> Result<SecondLevelMapping, EptFault> {
        const NOTHING: EptPermissions = EptPermissions {
            read: false,
            write: false,
            execute: false,
        };
        let slot = self.walk_to_end(gpa).ok_or(EptFault::Misconfiguration)?;
        let entry = slot.entry();
        let permissions = match entry.is_leaf() {
            true => entry.permissions(),
            false => NOTHING,
        };
        if !permissions.allow(access) {
            return Err(EptFault::Violation {
                allowed: permissions,
                // Secure-EPT entries always suppress #VE.
                suppress_ve: true,
            });
        }
        let size = 4096u64 << (9 * slot.level as u32);
        let offset = gpa.raw() & (size - 1) & !0xFFF;
        Ok(SecondLevelMapping {
            page: KeyedHpa::new(Hpa::new(entry.page(slot.level).raw() + offset), hkid),
            level: slot.level,
            permissions,
        })
    }
}

impl Slot {
    /// The slot of entry `index` of a page.
    pub fn of(page: Arc<SeptPage>, index: usize, level: u8) -> Slot {
        Slot { page, index, level }
    }
    pub fn entry(&self) -> SeptEntry {
        self.page.entry(self.index)
    }
    /// The entry of an L2 tree.
    pub fn l2_entry(&self) -> L2Entry {
        L2Entry(self.entry().0)
    }
    /// The state, or `None` for bits that are no state: an impossible entry.
    pub fn state(&self) -> Option<SeptState> {
        self.entry().state()
    }
    /// Locks the entry (spec: host-platform.md 5): test-and-set of bit 11; a host that loses sets bit 52, which keeps
    /// guests out until a host got the lock.
    pub fn lock(&self, side: Side) -> Result<EntryGuard, Contended> {
        interleave();
        let word = &self.page.entries[self.index];
        if side == Side::Guest && word.load(Ordering::Acquire) & SeptEntry::HOST_PRIORITY != 0 {
            return Err(Contended::HostPriority);
        }
        if word.fetch_or(SeptEntry::LOCK, Ordering::AcqRel) & SeptEntry::LOCK != 0 {
            if side == Side::Host {
                word.fetch_or(SeptEntry::HOST_PRIORITY, Ordering::AcqRel);
            }
            return Err(Contended::Busy);
        }
        if side == Side::Host {
            word.fetch_and(!SeptEntry::HOST_PRIORITY, Ordering::AcqRel);
        }
        Ok(EntryGuard { slot: self.clone() })
    }
    /// Writes an L2 entry; the L1 entry of the same range is locked, which covers it.
    pub fn write_l2(&self, _: &Commit, entry: L2Entry) {
        self.page.entries[self.index].store(entry.0, Ordering::Release);
    }
}

/// A locked entry; dropping it unlocks.
pub struct EntryGuard {
    slot: Slot,
}

impl EntryGuard {
    pub fn level(&self) -> u8 {
        self.slot.level
    }
    /// The entry without its lock bits.
    pub fn entry(&self) -> SeptEntry {
        self.slot.entry().unlocked()
    }
    /// Replaces the entry; it stays locked until the guard goes. A host that was made to wait stays marked.
    pub fn write(&self, _: &Commit, entry: SeptEntry) {
        interleave();
        let word = &self.slot.page.entries[self.slot.index];
        let kept = word.load(Ordering::Acquire) & (SeptEntry::LOCK | SeptEntry::HOST_PRIORITY);
        word.store(entry.unlocked().0 | kept, Ordering::Release);
    }
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        let word = &self.slot.page.entries[self.slot.index];
        word.fetch_and(!SeptEntry::LOCK, Ordering::AcqRel);
    }
}
