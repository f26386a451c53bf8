//! The Secure EPT: entries in the module's own format, the tree, its walks (spec: host-memory.md 1, 2).

mod entry;
mod tree;

pub use entry::{Details, SeptEntry, SeptState, SeptStates};
pub use tree::{EntryGuard, SeptPage, SeptTree, Slot, WalkEnd};
