//! A driver that lies, for the fuzz target and for `cargo test`.

use std::cell::RefCell;
use std::io;

use super::{Block, Console, Device, Entropy, Storage, Transport};
use crate::dma::{NotShared, SharedMemory};

/// Shared memory from 0 to here; the rest of the guest's is private.
const SHARED: usize = 0x1_0000;
/// Where the driver's queue is: descriptors, available ring, used ring.
const RINGS: [u64; 3] = [0x1000, 0x2000, 0x3000];
const SIZE: u64 = 8;

struct Memory(RefCell<Vec<u8>>);

impl Memory {
    fn range(gpa: u64, length: usize) -> Result<std::ops::Range<usize>, NotShared> {
        let start = usize::try_from(gpa).map_err(|_| NotShared)?;
        let end = start.checked_add(length).filter(|end| *end <= SHARED);
        Ok(start..end.ok_or(NotShared)?)
    }
}

impl SharedMemory for Memory {
    fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), NotShared> {
        let range = Memory::range(gpa, to.len())?;
        to.copy_from_slice(&self.0.borrow()[range]);
        Ok(())
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), NotShared> {
        let range = Memory::range(gpa, from.len())?;
        self.0.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }
}

/// A disk in memory, which must never be asked for a byte that it does not have.
struct Disk(Vec<u8>);

impl Storage for Disk {
    fn read_at(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        to.copy_from_slice(&self.0[offset as usize..][..to.len()]);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0[offset as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plays a driver that brings a device up and then does what the bytes say: stores into memory, into the BAR and
/// into the configuration space, and doorbells. The first byte chooses the device.
///
/// # Panics
/// If the device breaks a promise: it goes on after a fault, or writes outside shared memory or the disk.
pub fn fuzz_driver(bytes: &[u8]) {
    let Some((&kind, acts)) = bytes.split_first() else {
        return;
    };
    let disk = |read_only| Block::new(Box::new(Disk(vec![0; 0x2000])), 0x2000, read_only, "fuzz");
    let device: Box<dyn Device> = match kind % 4 {
        0 => Box::new(Console::new(Box::new(io::sink()))),
        1 => Box::new(Entropy::new(1)),
        kind => match disk(kind == 2) {
            Ok(disk) => Box::new(disk),
            Err(_) => return,
        },
    };
    let queues = device.queues().len() as u64;
    let mut device = Transport::new(device);
    let memory = Memory(RefCell::new(vec![0; SHARED]));
    device.config_write(4, 2, 6);
    start(&mut device, queues);
    device.receive(b"typed");
    // An act is a kind, a 16-bit offset and a 64-bit value.
    for act in acts.chunks_exact(11) {
        let offset = u64::from(u16::from_le_bytes([act[1], act[2]]));
        let value = u64::from_le_bytes([
            act[3], act[4], act[5], act[6], act[7], act[8], act[9], act[10],
        ]);
        let size = 1 << (act[0] >> 4 & 3);
        match act[0] & 7 {
            // Anywhere in memory, refused at its end; then in the rings, where it matters.
            0 => drop(memory.write(offset, &value.to_le_bytes()[..size])),
            1 => drop(memory.write(0x1000 + offset % 0x80, &value.to_le_bytes()[..size])),
            2 => drop(memory.write(0x2000 + offset % 0x18, &value.to_le_bytes()[..size])),
            3 => device.store(offset % 0x8000, size as u8, value),
            4 => drop(device.load(offset % 0x8000, size as u8)),
            5 => device.config_write(usize::from(act[1]), size.min(4) as u8, value as u32),
            6 => start(&mut device, queues),
            _ => device.store(0x3000 + 4 * (offset % queues), 4, 0),
        }
        let stopped = device.load(0x14, 1) & 0x40 != 0;
        let used = used_index(&memory);
        device.serve(&memory);
        assert!(
            !stopped || used == used_index(&memory),
            "it served after a fault"
        );
        while device.next_message().is_some() {}
        device.intx();
    }
}

fn used_index(memory: &Memory) -> [u8; 2] {
    let mut index = [0; 2];
    // The ring is inside the shared memory.
    let _ = memory.read(RINGS[2] + 2, &mut index);
    index
}

/// Resets the device and brings it up as a well-behaved driver does; all its queues are at one place.
fn start(device: &mut Transport, queues: u64) {
    device.store(0x14, 1, 0);
    for (select, features) in [(0, 1 << 28), (1, 3)] {
        device.store(0x08, 4, select);
        device.store(0x0C, 4, features);
    }
    device.store(0x14, 1, 0xB);
    for queue in 0..queues {
        device.store(0x16, 2, queue);
        device.store(0x18, 2, SIZE);
        device.store(0x1A, 2, queue);
        for (field, ring) in [0x20, 0x28, 0x30].into_iter().zip(RINGS) {
            device.store(field, 8, ring);
        }
        device.store(0x1C, 2, 1);
    }
    device.store(0x14, 1, 0xF);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Acts that aim at the rings: flags, indices and lengths near the interesting ones.
    fn acts() -> impl Strategy<Value = Vec<u8>> {
        let lie = prop_oneof![
            (0u8..0x40, any::<u16>(), any::<u64>()),
            (0u8..8, 0u16..0x80, 0u64..16),
            // A descriptor's first half, its second half, the available ring, a doorbell.
            (
                Just(0x31),
                (0u16..8).prop_map(|n| 16 * n),
                (0u64..0x12).prop_map(|n| n << 12)
            ),
            (Just(0x31), (0u16..8).prop_map(|n| 16 * n + 8), descriptor()),
            (Just(0x12), (0u16..12).prop_map(|n| 2 * n), 0u64..10),
            (Just(0x07), Just(0), Just(0)),
        ];
        proptest::collection::vec(lie, 0..60).prop_map(|acts| {
            acts.into_iter()
                .fold(Vec::new(), |mut bytes, (kind, offset, value)| {
                    bytes.push(kind);
                    bytes.extend(offset.to_le_bytes());
                    bytes.extend(value.to_le_bytes());
                    bytes
                })
        })
    }

    fn descriptor() -> impl Strategy<Value = u64> {
        let length = prop_oneof![
            0u64..0x300,
            Just(0xFFFF_FFFF),
            any::<u32>().prop_map(u64::from)
        ];
        (length, 0u64..8, 0u64..9)
            .prop_map(|(length, flags, next)| length | flags << 32 | next << 48)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_driver_makes_a_device_panic_or_go_on_after_a_fault(kind in 0u8..4, acts in acts()) {
            let mut bytes = vec![kind];
            bytes.extend(acts);
            fuzz_driver(&bytes);
        }
    }
}
