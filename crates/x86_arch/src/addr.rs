//! Addresses as kinds: a host physical address is not a guest physical one.

use core::fmt;

/// Bytes of a 4 KiB page.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The number, for the edge of the program only.
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// The address of the 4 KiB page it lies in.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }
            /// The offset in its 4 KiB page.
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE - 1)) as usize
            }
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0.is_multiple_of(align)
            }
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A host physical address without key-ID bits.
    Hpa
}
address! {
    /// A guest physical address, its shared bit included.
    Gpa
}

/// A memory-encryption key ID (MKTME or private).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Hkid(pub u16);

impl fmt::Display for Hkid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What goes on the memory bus: a physical address and the key its bytes are read or written with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyedHpa {
    pub hpa: Hpa,
    pub hkid: Hkid,
}

impl KeyedHpa {
    pub const fn new(hpa: Hpa, hkid: Hkid) -> Self {
        Self { hpa, hkid }
    }
}
