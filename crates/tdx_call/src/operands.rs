//! Operands of the leaves that have a form of their own.

use core::fmt;

use tdx_abi::{FieldId, SeptEntry, SeptEntryInfo};
use x86_arch::Hpa;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(transparent)]
        pub struct $name(pub Hpa);

        impl $name {
            pub const fn raw(self) -> u64 {
                self.0.raw()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

handle! {
    /// A TD by the physical address of its TDR page.
    Tdr
}
handle! {
    /// A virtual processor by the physical address of its TDVPR page.
    Tdvpr
}

/// One metadata field as a read returned it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldValue {
    pub value: u64,
    /// The id of the next readable field, by those leaf versions that return it.
    pub next: FieldId,
}

/// A Secure EPT entry as the leaves show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShownEntry {
    /// RCX: the entry in its architectural form.
    pub entry: SeptEntry,
    /// RDX: its level, its state, and the VM whose tree it is in.
    pub info: SeptEntryInfo,
}

/// An interruptible leaf: finished, or to be called again with these operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress<T> {
    Done(T),
    Interrupted(T),
}
