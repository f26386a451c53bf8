//! Words that name guest pages: mapping level and address, permissions per VM, and the SHARED bit.

use core::fmt;

use x86_arch::Gpa;

use crate::layout::{bytes, flags, word, word_type};

word! {
    /// A GPA and the level of its mapping: an operand of the memory leaves.
    GpaMapping: u64 {
        /// 0: 4 KiB, 1: 2 MiB, 2: 1 GiB, 3: 512 GiB, 4: 256 TiB.
        2..0 LEVEL level with_level,
        /// Bits 51:12.
        51..12 GPA gpa with_gpa,
    }
}

word! {
    /// RCX that TDG.MEM.PAGE.ATTR.RD and WR return.
    GpaMappingAndFlags: u64 {
        2..0 LEVEL level with_level,
        51..12 GPA gpa with_gpa,
        62..62 PENDING pending with_pending,
    }
}

flags! {
    /// Access permissions of one VM to a page.
    GpaAttr: u16 {
        0 R,
        1 W,
        /// Execute in supervisor mode.
        2 XS,
        /// Execute in user mode.
        3 XU,
        /// Verify guest paging.
        4 VGP,
        /// Paging-write access.
        5 PWA,
        /// Supervisor shadow stack.
        6 SSS,
        /// Suppress #VE.
        7 SVE,
        /// The entry is valid.
        15 VALID,
    }
}

bytes! {
    /// Permissions of a page for each VM of a TD; entry 0 is L1.
    GpaAttrs: 0x8 {
        0x0 vm: [GpaAttr; 4],
    }
}

word! {
    /// A page level as a register operand.
    PageSizeOperand: u64 {
        2..0 LEVEL level with_level,
    }
}

/// Width of a TD's guest physical addresses, which decides where the SHARED bit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gpaw {
    /// 48 bits: SHARED is bit 47.
    Bits48,
    /// 52 bits: SHARED is bit 51.
    Bits52,
}

impl Gpaw {
    /// The width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Gpaw::Bits48 => 48,
            Gpaw::Bits52 => 52,
        }
    }
    /// The SHARED bit as a mask.
    pub const fn shared_bit(self) -> u64 {
        1 << (self.bits() - 1)
    }
    /// Whether `gpa` has its SHARED bit set.
    pub const fn is_shared(self, gpa: Gpa) -> bool {
        gpa.raw() & self.shared_bit() != 0
    }
    /// Whether `gpa` fits the width (no bit above the SHARED bit).
    pub const fn fits(self, gpa: Gpa) -> bool {
        gpa.raw() >> self.bits() == 0
    }
}

/// Bytes that an entry at `level` maps: 4 KiB shifted by 9 for each level.
pub const fn level_size(level: u8) -> u64 {
    4096 << (9 * level as u32)
}

/// What a level maps, for people.
pub const fn level_name(level: u8) -> Option<&'static str> {
    match level {
        0 => Some("4 KiB"),
        1 => Some("2 MiB"),
        2 => Some("1 GiB"),
        3 => Some("512 GiB"),
        4 => Some("256 TiB"),
        _ => None,
    }
}

impl GpaMapping {
    /// The mapping of `gpa` at `level`.
    pub const fn new(gpa: Gpa, level: u8) -> GpaMapping {
        GpaMapping(gpa.raw() & !0xFFF | level as u64)
    }
    /// The 4 KiB page at `gpa`.
    pub const fn page_4k(gpa: Gpa) -> GpaMapping {
        GpaMapping::new(gpa, 0)
    }
    /// The 2 MiB page at `gpa`.
    pub const fn page_2m(gpa: Gpa) -> GpaMapping {
        GpaMapping::new(gpa, 1)
    }
    /// The address.
    pub const fn address(self) -> Gpa {
        Gpa::new(self.gpa() << 12)
    }
    /// Whether the address is a multiple of what the level maps.
    pub const fn is_aligned(self) -> bool {
        self.address().is_aligned(level_size(self.level() as u8))
    }
    /// A human reading, such as `0x80000000 at level 1 (2 MiB)`.
    pub const fn describe(self) -> GpaMappingText {
        GpaMappingText(self)
    }
}

/// [`GpaMapping::describe`].
#[derive(Clone, Copy, Debug)]
pub struct GpaMappingText(GpaMapping);

impl fmt::Display for GpaMappingText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.0.level();
        write!(f, "{:#x} at level {level}", self.0.address().raw())?;
        match level_name(level as u8) {
            Some(name) => write!(f, " ({name})")?,
            None => f.write_str(" (no such level)")?,
        }
        match self.0.unnamed() {
            0 => Ok(()),
            bits => write!(f, ", reserved bits {bits:#x}"),
        }
    }
}
