//! Message-signalled interrupts of a function (PCI Local Bus 3.0, 6.8.2): a table of messages and the bits of those
//! that wait behind a mask.

/// Bytes of a table entry: address, data, vector control.
const ENTRY: usize = 16;
/// Bit 0 of the vector control word.
const MASKED: u8 = 1;

/// A message: a store of `data` to `address`, which interrupt controllers take as an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
}

/// The table. Whether it is in use is in the capability's control word, which the caller has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Msix {
    table: Vec<u8>,
    pending: u64,
}

impl Msix {
    /// A table of up to 64 vectors, each masked.
    pub fn new(vectors: u16) -> Msix {
        let mut msix = Msix {
            table: vec![0; usize::from(vectors.min(64)) * ENTRY],
            pending: 0,
        };
        for entry in msix.table.chunks_exact_mut(ENTRY) {
            entry[12] = MASKED;
        }
        msix
    }

    pub fn vectors(&self) -> u16 {
        (self.table.len() / ENTRY) as u16
    }

    /// A load from the table; outside of it there are zeros.
    pub fn read(&self, offset: usize, size: u8) -> u64 {
        le(&self.table, offset, size)
    }

    /// A store into the table, of 4 or 8 aligned bytes as the specification has it.
    pub fn write(&mut self, offset: usize, size: u8, value: u64) {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(size.into()) {
            return;
        }
        let places = self.table.iter_mut().skip(offset).take(size.into());
        for (byte, new) in places.zip(value.to_le_bytes()) {
            *byte = new;
        }
    }

    /// A load from the array of pending bits.
    pub fn read_pending(&self, offset: usize, size: u8) -> u64 {
        le(&self.pending.to_le_bytes(), offset, size)
    }

    /// Wants a vector's message sent; a vector that does not exist has none.
    pub fn trigger(&mut self, vector: u16) {
        if vector < self.vectors() {
            self.pending |= 1 << vector;
        }
    }

    /// Forgets messages that wait.
    pub fn forget(&mut self) {
        self.pending = 0;
    }

    /// The next message that waits behind no mask.
    pub fn take(&mut self) -> Option<Msi> {
        let mut waiting = self.pending;
        while waiting != 0 {
            let vector = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            let entry = self.table.get(vector * ENTRY..)?;
            if entry[12] & MASKED == 0 {
                self.pending &= !(1 << vector);
                return Some(Msi {
                    address: le(entry, 0, 8),
                    data: le(entry, 8, 4) as u32,
                });
            }
        }
        None
    }
}

/// A little-endian word of `size` bytes; what is outside reads zero.
pub fn le(bytes: &[u8], offset: usize, size: u8) -> u64 {
    (0..usize::from(size)).rev().fold(0, |value, i| {
        value << 8 | u64::from(bytes.get(offset + i).copied().unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_message_waits_and_shows_as_pending() {
        let mut msix = Msix::new(3);
        msix.trigger(1);
        msix.trigger(7);
        assert_eq!(msix.take(), None);
        assert_eq!(msix.read_pending(0, 8), 2);
        msix.write(16, 8, 0xFEE0_1000);
        msix.write(24, 4, 0x41);
        msix.write(28, 1, 0);
        assert_eq!(msix.take(), None, "the table takes no bytes");
        msix.write(28, 4, 0);
        let msi = Msi {
            address: 0xFEE0_1000,
            data: 0x41,
        };
        assert_eq!(msix.take(), Some(msi));
        assert_eq!((msix.take(), msix.read_pending(0, 4)), (None, 0));
        assert_eq!(msix.read(24, 8), 0x41);
        msix.write(48, 8, u64::MAX);
        assert_eq!(msix.read(48, 8), 0, "there are three entries");
    }
}
