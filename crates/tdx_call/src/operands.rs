//! Operands of the leaves that have a form of their own.

use core::fmt;

use x86_arch::{Gpa, Hpa};

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

/// A guest physical address and the level of the mapping meant: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct GpaMapping(pub u64);

impl GpaMapping {
    pub const fn new(gpa: Gpa, level: u8) -> GpaMapping {
        GpaMapping(gpa.raw() | level as u64)
    }
    pub const fn page_4k(gpa: Gpa) -> GpaMapping {
        GpaMapping::new(gpa, 0)
    }
    pub const fn page_2m(gpa: Gpa) -> GpaMapping {
        GpaMapping::new(gpa, 1)
    }
    /// Bits 51:12.
    pub const fn gpa(self) -> Gpa {
        Gpa::new(self.0 & 0x000F_FFFF_FFFF_F000)
    }
    /// Bits 2:0.
    pub const fn level(self) -> u8 {
        (self.0 & 7) as u8
    }
}

/// A metadata field id; its layout and names are `tdx_abi`'s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct FieldId(pub u64);

impl FieldId {
    /// All ones: "the first one" as input, "there is none" as output.
    pub const NONE: FieldId = FieldId(u64::MAX);
}

/// One metadata field as a read returned it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldValue {
    pub value: u64,
    /// The id of the next readable field, by those leaf versions that return it.
    pub next: FieldId,
}

/// A Secure EPT entry as the module shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeptEntry {
    /// RCX: the entry in its architectural form.
    pub entry: u64,
    /// RDX: level in 2:0, state in 15:8, VM index in 17:16.
    pub info: u64,
}

impl SeptEntry {
    pub const fn level(self) -> u8 {
        (self.info & 7) as u8
    }
    pub const fn state(self) -> u8 {
        (self.info >> 8) as u8
    }
    pub const fn vm(self) -> u8 {
        (self.info >> 16 & 3) as u8
    }
}

/// An interruptible leaf: finished, or to be called again with these operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress<T> {
    Done(T),
    Interrupted(T),
}
