//! The Secure EPT: entries in the module's own format, the tree, its walks (spec: host-memory.md 1, 2).

mod aliases;
mod entry;
mod l2;
mod tree;

pub use aliases::vms;
pub use entry::{Details, SeptEntry, SeptState, SeptStates};
pub use l2::L2Entry;
pub use tree::{EntryGuard, L1, SeptPage, SeptTree, Slot, WalkEnd};
