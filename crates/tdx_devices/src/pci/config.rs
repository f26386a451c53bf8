//! A function's configuration space: 256 bytes, of which software may change some bits (PCI Local Bus 3.0, 6.1).

/// Offsets in the header.
const COMMAND: usize = 0x04;
const INTERRUPT_LINE: usize = 0x3C;

/// Bits of the command register.
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
/// Bit 10: no INTx, as bit 2 of the second byte.
const COMMAND_NO_INTX: u8 = 1 << 2;

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
}

impl ConfigSpace {
    pub fn new(identity: Identity) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; 256],
            writable: [0; 256],
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
        let space = space();
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
}
