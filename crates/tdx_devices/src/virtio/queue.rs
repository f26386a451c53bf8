//! The split virtqueue, device side (virtio 1.2, 2.7). Nothing that a driver writes there is believed.

use super::chain::{Buffer, Chain, Fault};
use crate::dma::SharedMemory;

/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR: u64 = 16;
/// Flag of the available ring: the driver wants no interrupt.
const NO_INTERRUPT: u16 = 1;
/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xFFFF;

/// A queue: what the driver configured, and how far the device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    /// The largest size, as the device offers it.
    max: u16,
    pub size: u16,
    pub vector: u16,
    pub enabled: bool,
    /// Descriptor table, available ring (the driver's) and used ring (the device's).
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next_available: u16,
    next_used: u16,
}

impl Queue {
    pub fn new(max: u16) -> Queue {
        Queue {
            max,
            size: max,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    pub fn reset(&mut self) {
        *self = Queue::new(self.max);
    }

    /// Whether sizes and addresses are as a queue must have them.
    pub fn is_sound(&self) -> bool {
        let size = u64::from(self.size);
        let parts = [
            (self.descriptors, 16, DESCRIPTOR * size),
            (self.available, 2, 6 + 2 * size),
            (self.used, 4, 6 + 8 * size),
        ];
        self.size.is_power_of_two()
            && self.size <= self.max
            && parts.iter().all(|&(start, alignment, length)| {
                start % alignment == 0 && start.checked_add(length).is_some()
            })
    }

    /// The next request, if there is one.
    pub fn pop(&mut self, memory: &dyn SharedMemory) -> Result<Option<Chain>, Fault> {
        let index = word(memory, self.available + 2)?;
        let ahead = index.wrapping_sub(self.next_available);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.size {
            let size = self.size;
            return Err(Fault::AvailableIndex { ahead, size });
        }
        let slot = u64::from(self.next_available % self.size);
        let head = word(memory, self.available + 4 + 2 * slot)?;
        let chain = self.chain(memory, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Gives a request back with the number of bytes that were written.
    pub fn push(&mut self, memory: &dyn SharedMemory, head: u16, bytes: u32) -> Result<(), Fault> {
        let slot = u64::from(self.next_used % self.size);
        let entry = u64::from(head) | u64::from(bytes) << 32;
        store(memory, self.used + 4 + 8 * slot, &entry.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        store(memory, self.used + 2, &self.next_used.to_le_bytes())
    }

    /// Whether the driver wants to hear that requests came back.
    pub fn wants_interrupt(&self, memory: &dyn SharedMemory) -> Result<bool, Fault> {
        Ok(word(memory, self.available)? & NO_INTERRUPT == 0)
    }

    fn chain(&self, memory: &dyn SharedMemory, head: u16) -> Result<Chain, Fault> {
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let (mut table, mut size, mut indirect) = (self.descriptors, self.size, false);
        let (mut index, mut bytes) = (head, 0u64);
        // No chain is longer than the queue, through an indirect table either (2.7.5.3.1).
        for _ in 0..=self.size {
            if index >= size {
                return Err(Fault::NoDescriptor { index, size });
            }
            let found = Descriptor::read(memory, table + DESCRIPTOR * u64::from(index))?;
            if found.flags & INDIRECT != 0 {
                let entries = u64::from(found.length) / DESCRIPTOR;
                let whole = u64::from(found.length) % DESCRIPTOR == 0;
                if indirect
                    || found.flags & NEXT != 0
                    || !whole
                    || entries == 0
                    || entries > u64::from(self.size)
                    || found.gpa.checked_add(u64::from(found.length)).is_none()
                {
                    let length = found.length;
                    return Err(Fault::BadIndirect { length });
                }
                (table, size, indirect, index) = (found.gpa, entries as u16, true, 0);
                continue;
            }
            bytes += u64::from(found.length);
            if bytes > 1 << 32 {
                return Err(Fault::HugeChain);
            }
            if chain.readable.len() + chain.writable.len() == usize::from(self.size) {
                return Err(Fault::EndlessChain);
            }
            let Descriptor { gpa, length, .. } = found;
            let buffer = Buffer { gpa, length };
            if found.flags & WRITE != 0 {
                chain.writable.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.push(buffer);
            } else {
                return Err(Fault::ReadAfterWrite);
            }
            if found.flags & NEXT == 0 {
                return Ok(chain);
            }
            index = found.next;
        }
        Err(Fault::EndlessChain)
    }
}

struct Descriptor {
    gpa: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(memory: &dyn SharedMemory, at: u64) -> Result<Descriptor, Fault> {
        let bytes: [u8; DESCRIPTOR as usize] = load(memory, at)?;
        let word = u128::from_le_bytes(bytes);
        Ok(Descriptor {
            gpa: word as u64,
            length: (word >> 64) as u32,
            flags: (word >> 96) as u16,
            next: (word >> 112) as u16,
        })
    }
}

fn load<const N: usize>(memory: &dyn SharedMemory, gpa: u64) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    let length = N as u64;
    match memory.read(gpa, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Fault::NotShared { gpa, length }),
    }
}

fn word(memory: &dyn SharedMemory, gpa: u64) -> Result<u16, Fault> {
    load(memory, gpa).map(u16::from_le_bytes)
}

fn store(memory: &dyn SharedMemory, gpa: u64, bytes: &[u8]) -> Result<(), Fault> {
    let length = bytes.len() as u64;
    let fault = |_| Fault::NotShared { gpa, length };
    memory.write(gpa, bytes).map_err(fault)
}
