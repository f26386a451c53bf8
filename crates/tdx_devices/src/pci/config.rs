//! A function's configuration space: 256 bytes, of which software may change some bits (PCI Local Bus 3.0, 6.1).

/// Offsets in the header.
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3C;
const INTERRUPT_PIN: usize = 0x3D;
/// Where the first capability goes.
const FIRST_CAPABILITY: usize = 0x40;

/// Bits of the command register.
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
/// Bit 10: no INTx, as bit 2 of the second byte.
const COMMAND_NO_INTX: u8 = 1 << 2;
/// Status bit 4: there is a list of capabilities. Bit 3: INTx is asserted.
const STATUS_CAPABILITIES: u8 = 1 << 4;
const STATUS_INTX: u8 = 1 << 3;

/// What a function is: the identity part of its header.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Class, subclass and programming interface, as 0xCCSSPP.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// The registers and which of their bits are software's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    /// The capability added last, and where the next one goes.
    last_capability: Option<usize>,
    next_capability: usize,
}

impl ConfigSpace {
    pub fn new(identity: Identity) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; 256],
            writable: [0; 256],
            last_capability: None,
            next_capability: FIRST_CAPABILITY,
        };
        space.set(0x00, &identity.vendor.to_le_bytes());
        space.set(0x02, &identity.device.to_le_bytes());
        space.set(0x08, &[identity.revision]);
        space.set(0x09, &identity.class.to_le_bytes()[..3]);
        space.set(0x2C, &identity.subsystem_vendor.to_le_bytes());
        space.set(0x2E, &identity.subsystem.to_le_bytes());
        // Memory decoding, bus mastering, INTx disable.
        space.allow(COMMAND, &[COMMAND_MEMORY | COMMAND_MASTER, COMMAND_NO_INTX]);
        space.allow(INTERRUPT_LINE, &[0xFF]);
        space
    }

    /// Lays down register content. The offsets are this crate's own, so they are inside.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets software change the set bits.
    pub fn allow(&mut self, offset: usize, bits: &[u8]) {
        self.writable[offset..offset + bits.len()].copy_from_slice(bits);
    }

    /// A read of 1, 2 or 4 bytes; beyond the end it reads all ones.
    pub fn read(&self, offset: usize, size: u8) -> u32 {
        (0..usize::from(size)).rev().fold(0, |value, i| {
            value << 8 | u32::from(self.bytes.get(offset + i).copied().unwrap_or(0xFF))
        })
    }

    /// A write of 1, 2 or 4 bytes; read-only bits stay.
    pub fn write(&mut self, offset: usize, size: u8, value: u32) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, mask), new) in places.zip(&value.to_le_bytes()[..usize::from(size)]) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Makes BARs `index` and `index + 1` a 64-bit, non-prefetchable memory BAR of `size` bytes (a power of two).
    pub fn memory_bar(&mut self, index: usize, size: u64) {
        const MEMORY_64: u8 = 0b100;
        let at = BARS + 4 * index;
        self.set(at, &[MEMORY_64]);
        self.allow(at, &(!(size - 1)).to_le_bytes());
    }

    /// Where memory BAR `index` begins, if memory decoding is on.
    pub fn bar(&self, index: usize) -> Option<u64> {
        let at = BARS + 4 * index;
        let word = u64::from(self.read(at, 4)) | u64::from(self.read(at + 4, 4)) << 32;
        (self.bytes[COMMAND] & COMMAND_MEMORY != 0).then_some(word & !0xF)
    }

    /// Whether the function may access memory and send messages.
    pub fn is_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MASTER != 0
    }

    /// Names the function's interrupt pin: 1 is INTA.
    pub fn interrupt_pin(&mut self, pin: u8) {
        self.set(INTERRUPT_PIN, &[pin]);
    }

    /// Shows in the status register whether the device wants INTx; gives whether the pin is asserted.
    pub fn show_intx(&mut self, wanted: bool) -> bool {
        self.bytes[STATUS] &= !STATUS_INTX;
        if wanted {
            self.bytes[STATUS] |= STATUS_INTX;
        }
        wanted && self.bytes[COMMAND + 1] & COMMAND_NO_INTX == 0
    }

    /// Appends a capability: its id, then `body` after the link to the next one. Gives its offset.
    pub fn capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next_capability;
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        let link = self.last_capability.map_or(CAPABILITIES, |last| last + 1);
        self.bytes[link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.last_capability = Some(at);
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor: 0x1AF4,
            device: 0x1042,
            revision: 1,
            class: 0x01_8000,
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        })
    }

    #[test]
    fn every_size_and_offset_reads_the_same_bytes() {
        let mut space = space();
        space.memory_bar(0, 0x8000);
        space.capability(9, &[16, 1, 2, 3]);
        let bytes: Vec<u32> = (0..256).map(|at| space.read(at, 1)).collect();
        for at in 0..300 {
            for size in [1u8, 2, 4] {
                let expected = (0..usize::from(size)).rev().fold(0, |value, i| {
                    value << 8 | bytes.get(at + i).copied().unwrap_or(0xFF)
                });
                assert_eq!(space.read(at, size), expected, "{at:#x}, {size}");
            }
        }
        assert_eq!(space.read(0, 4), 0x1042_1AF4);
        assert_eq!(space.read(8, 4), 0x0180_0001);
    }

    #[test]
    fn writes_of_every_size_and_offset_change_only_what_they_may() {
        for at in 0..300 {
            for size in [1u8, 2, 4] {
                for value in [0, u32::MAX] {
                    let mut space = space();
                    space.memory_bar(0, 0x8000);
                    let before = space.clone();
                    space.write(at, size, value);
                    for byte in 0..256 {
                        let hit = (at..at + usize::from(size)).contains(&byte);
                        let mask = if hit { before.writable[byte] } else { 0 };
                        let expected = before.bytes[byte] & !mask | value as u8 & mask;
                        assert_eq!(space.bytes[byte], expected, "{at:#x}, {size}, {byte:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_bar_is_sized_by_all_ones_and_decodes_when_told() {
        let mut space = space();
        space.memory_bar(0, 0x8000);
        space.write(0x10, 4, u32::MAX);
        space.write(0x14, 4, u32::MAX);
        assert_eq!(space.read(0x10, 4), 0xFFFF_8004);
        assert_eq!(space.read(0x14, 4), 0xFFFF_FFFF);
        space.write(0x10, 4, 0xC000_7FFF);
        space.write(0x14, 4, 1);
        assert_eq!(space.bar(0), None, "memory decoding is off");
        space.write(4, 2, 2);
        assert_eq!(space.bar(0), Some(0x1_C000_0000));
    }

    #[test]
    fn capabilities_are_linked_from_the_header() {
        let mut space = space();
        assert_eq!(space.read(6, 2) & 0x10, 0);
        let first = space.capability(9, &[1, 2, 3]);
        let second = space.capability(0x11, &[0; 10]);
        assert_eq!(space.read(6, 2) & 0x10, 0x10);
        assert_eq!(space.read(0x34, 1) as usize, first);
        assert_eq!(space.read(first + 1, 1) as usize, second);
        assert_eq!(space.read(second, 2), 0x0011, "the last link is 0");
        assert_eq!(second % 4, 0);
    }

    #[test]
    fn intx_shows_in_the_status_and_can_be_disabled() {
        let mut space = space();
        assert!(space.show_intx(true));
        assert_eq!(space.read(6, 2) & 8, 8);
        space.write(4, 2, 1 << 10);
        assert!(!space.show_intx(true));
        assert_eq!(space.read(6, 2) & 8, 8, "the status shows it all the same");
        assert!(!space.show_intx(false));
        assert_eq!(space.read(6, 2) & 8, 0);
    }
}
