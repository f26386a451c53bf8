//! What happens to the L2 entries that alias an L1 entry, when that changes (spec: host-memory.md 1.2).
//!
//! The L1 entry is locked by the caller, which covers its aliases.

use super::{L2Entry, SeptTree, Slot, WalkEnd};
use crate::call::Commit;
use x86_arch::{Gpa, Hpa};

/// The L2 VMs of an alias mask, from 1.
pub fn vms(aliases: u8) -> impl Iterator<Item = usize> {
    (1..4).filter(move |vm| aliases >> (vm - 1) & 1 != 0)
}

impl SeptTree {
    /// The entry that aliases `gpa` at `level` in an L2 VM, if the walk reaches it.
    pub fn alias(&self, vm: usize, gpa: Gpa, level: u8) -> Option<Slot> {
        match self.walk_in(vm, gpa, level)? {
            WalkEnd::Reached(slot) => Some(slot),
            WalkEnd::Stopped(_) => None,
        }
    }
    fn update_aliases(
        &self,
        commit: &Commit,
        gpa: Gpa,
        level: u8,
        aliases: u8,
        change: impl Fn(L2Entry) -> L2Entry,
    ) {
        for slot in vms(aliases).filter_map(|vm| self.alias(vm, gpa, level)) {
            slot.write_l2(commit, change(slot.l2_entry()));
        }
    }
    /// The page is gone for the L2 VMs too.
    pub fn drop_aliases(&self, commit: &Commit, gpa: Gpa, level: u8, aliases: u8) {
        self.update_aliases(commit, gpa, level, aliases, |_| L2Entry::FREE);
    }
    pub fn block_aliases(&self, commit: &Commit, gpa: Gpa, level: u8, aliases: u8, keep_w: bool) {
        self.update_aliases(commit, gpa, level, aliases, |entry| entry.blocked(keep_w));
    }
    pub fn unblock_aliases(&self, commit: &Commit, gpa: Gpa, level: u8, aliases: u8) {
        self.update_aliases(commit, gpa, level, aliases, |entry| {
            match entry.is_blocked() {
                true => entry.unblocked(),
                false => entry,
            }
        });
    }
    /// The aliased 4 KiB page lies elsewhere now.
    pub fn move_aliases(&self, commit: &Commit, gpa: Gpa, aliases: u8, to: Hpa, unblock: bool) {
        self.update_aliases(commit, gpa, 0, aliases, |entry| {
            let moved = entry.with_hpa(to);
            match unblock && moved.is_blocked() {
                true => moved.unblocked(),
                false => moved,
            }
        });
    }
    /// GPA_ATTR of the aliases: 16 bits for each VM, 0 for L1 and where there is none.
    pub fn l2_attributes(&self, gpa: Gpa, level: u8, aliases: u8) -> u64 {
        vms(aliases)
            .filter_map(|vm| Some((vm, self.alias(vm, gpa, level)?)))
            .filter(|(_, slot)| slot.l2_entry().is_leaf())
            .fold(0, |all, (vm, slot)| {
                all | (slot.l2_entry().attributes() as u64) << (16 * vm)
            })
    }
}
