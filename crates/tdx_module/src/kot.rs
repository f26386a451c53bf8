//! The key-ownership table and the cache write-back state of each package (spec: host-platform.md 7).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
pub use tdx_abi::KotState as HkidState;
use x86_arch::Hkid;

/// One key ID.
#[derive(Debug)]
pub struct KotEntry {
    pub state: HkidState,
    /// Packages whose caches were not written back yet.
    pub wbinvd_bitmap: AtomicU32,
}

impl KotEntry {
    const fn free() -> KotEntry {
        KotEntry {
            state: HkidState::Free,
            wbinvd_bitmap: AtomicU32::new(0),
        }
    }
}

/// The table, indexed by key ID.
#[derive(Default, Debug)]
pub struct Kot {
    entries: Vec<KotEntry>,
}

impl Kot {
    pub fn new(hkids: usize) -> Kot {
        Kot {
            entries: (0..hkids).map(|_| KotEntry::free()).collect(),
        }
    }
    pub fn state(&self, hkid: Hkid) -> HkidState {
        self.entries[hkid.0 as usize].state
    }
    pub fn set(&mut self, _: &impl crate::call::Right, hkid: Hkid, state: HkidState) {
        self.entries[hkid.0 as usize].state = state;
    }
    pub fn wbinvd_bitmap(&self, hkid: Hkid) -> u32 {
        self.entries[hkid.0 as usize]
            .wbinvd_bitmap
            .load(Ordering::Acquire)
    }
    pub fn require_wbinvd(&mut self, _: &crate::call::Commit, hkid: Hkid, packages: u32) {
        *self.entries[hkid.0 as usize].wbinvd_bitmap.get_mut() = packages;
    }
    /// A package wrote its caches back.
    pub fn written_back(&self, _: &crate::call::Commit, hkid: Hkid, package: u32) {
        let entry = &self.entries[hkid.0 as usize];
        entry
            .wbinvd_bitmap
            .fetch_and(!(1 << package), Ordering::AcqRel);
    }
    /// Every key ID in this state, ascending.
    pub fn in_state(&self, state: HkidState) -> impl Iterator<Item = Hkid> {
        self.entries
            .iter()
            .enumerate()
            .filter(move |(_, e)| e.state == state)
            .map(|(i, _)| Hkid(i as u16))
    }
}

/// A package's cache write-back: what was noted at its start and where it stopped.
#[derive(Clone, Default, Debug)]
pub struct WriteBack {
    /// Key IDs that were FLUSHED when it started.
    pub noted: Vec<Hkid>,
    /// Next sub-block, when an interrupt stopped it.
    pub resume_at: Option<u32>,
}
