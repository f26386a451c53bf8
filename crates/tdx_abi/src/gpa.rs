//! Words that name guest pages: mapping level and address, permissions per VM, and the SHARED bit.

use core::fmt;

use x86_arch::Gpa;

use crate::layout::{bytes, flags, named_bits_display, word, word_type};

word! {
    own Display;
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
}

impl fmt::Display for GpaMapping {
    /// Such as `0x80000000 at level 1 (2 MiB)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level();
        write!(f, "{:#x} at level {level}", self.address().raw())?;
        match level_name(level as u8) {
            Some(name) => write!(f, " ({name})")?,
            None => f.write_str(" (no such level)")?,
        }
        match self.unnamed() {
            0 => Ok(()),
            bits => write!(f, ", reserved bits {bits:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_mapping_reads_as_address_and_level() {
        let mapping = GpaMapping::new(Gpa::new(0x8020_0000), 1);
        assert_eq!(mapping.to_string(), "0x80200000 at level 1 (2 MiB)");
        assert_eq!(mapping.address().raw(), 0x8020_0000);
        assert!(mapping.is_aligned() && !GpaMapping::new(Gpa::new(0x1000), 1).is_aligned());
        assert_eq!(
            GpaMapping(0x8005).to_string(),
            "0x8000 at level 5 (no such level)"
        );
        assert_eq!(
            GpaMapping(1 << 63 | 8).to_string(),
            "0x0 at level 0 (4 KiB), reserved bits 0x8000000000000008"
        );
    }

    #[test]
    fn the_shared_bit_is_the_highest_of_the_width() {
        assert!(Gpaw::Bits48.is_shared(Gpa::new(1 << 47)) && !Gpaw::Bits48.fits(Gpa::new(1 << 48)));
        assert!(
            Gpaw::Bits52.is_shared(Gpa::new(1 << 51)) && !Gpaw::Bits52.is_shared(Gpa::new(1 << 47))
        );
    }
}
