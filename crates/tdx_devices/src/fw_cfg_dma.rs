//! fw_cfg by DMA: firmware writes the address of a descriptor, and whole runs of an item's bytes go to its memory at
//! once (QEMU: docs/specs/fw_cfg.rst, "Guest-side DMA Interface").

use crate::dma::SharedMemory;
use crate::fw_cfg::FwCfg;

/// The descriptor's address in big-endian order, upper half first; writing the lower half begins.
pub const ADDRESS_HIGH: u16 = 0x514;
pub const ADDRESS_LOW: u16 = 0x518;
/// What the two ports read as.
pub const SIGNATURE: &[u8; 8] = b"QEMU CFG";

/// Bits of a descriptor's control word; bits 31:16 are the key to select.
const ERROR: u32 = 1;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// Control word, length, address; all in big-endian order.
const DESCRIPTOR: usize = 16;

/// Does what the descriptor at `at` says and reports in its control word. A descriptor that is not in shared memory
/// has no place for a report: nothing happens.
pub fn transfer(device: &mut FwCfg, memory: &dyn SharedMemory, at: u64) {
    let mut descriptor = [0; DESCRIPTOR];
    if memory.read(at, &mut descriptor).is_err() {
        return;
    }
    let word = |at: usize| u32::from_be_bytes(descriptor[at..at + 4].try_into().expect("four"));
    let (control, length) = (word(0), word(4));
    let address = u64::from(word(8)) << 32 | u64::from(word(12));
    if control & SELECT != 0 {
        device.select((control >> 16) as u16);
    }
    let done = if control & READ != 0 {
        read(device, memory, address, length as usize)
    } else {
        if control & SKIP != 0 {
            device.skip(length as usize);
        }
        // No item may be written.
        control & WRITE == 0
    };
    let result = if done { 0 } else { ERROR };
    // The descriptor was there a moment ago; if the guest takes it away, it gets no report.
    let _ = memory.write(at, &result.to_be_bytes());
}

fn read(device: &mut FwCfg, memory: &dyn SharedMemory, mut to: u64, mut length: usize) -> bool {
    let mut piece = vec![0; PIECE.min(length)];
    while length > 0 {
        let piece = &mut piece[..PIECE.min(length)];
        device.read(piece);
        if memory.write(to, piece).is_err() {
            return false;
        }
        to = to.saturating_add(piece.len() as u64);
        length -= piece.len();
    }
    true
}

/// What the fuzzer and the tests do with arbitrary bytes: they are the guest's memory and the descriptor's address.
pub fn fuzz_dma(bytes: &[u8]) {
    let (at, rest) = bytes.split_at(bytes.len().min(2));
    let at = at.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let memory = tests_memory::Flat(std::cell::RefCell::new(rest.to_vec()));
    let mut device = FwCfg::new();
    device.file("opt/x", vec![1; 100]);
    transfer(&mut device, &memory, at);
    assert_eq!(memory.0.borrow().len(), rest.len());
}

/// Guest memory for tests.
mod tests_memory {
    use crate::dma::{NotShared, SharedMemory};
    use std::cell::RefCell;

    /// Shared memory from address 0 on.
    pub(super) struct Flat(pub(super) RefCell<Vec<u8>>);

    impl Flat {
        fn range(&self, gpa: u64, length: usize) -> Result<std::ops::Range<usize>, NotShared> {
            let start = usize::try_from(gpa).map_err(|_| NotShared)?;
            let end = start.checked_add(length).ok_or(NotShared)?;
            match end <= self.0.borrow().len() {
                true => Ok(start..end),
                false => Err(NotShared),
            }
        }
    }

    impl SharedMemory for Flat {
        fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), NotShared> {
            let range = self.range(gpa, to.len())?;
            to.copy_from_slice(&self.0.borrow()[range]);
            Ok(())
        }
        fn write(&self, gpa: u64, from: &[u8]) -> Result<(), NotShared> {
            let range = self.range(gpa, from.len())?;
            self.0.borrow_mut()[range].copy_from_slice(from);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tests_memory::Flat;
    use super::*;
    use crate::fw_cfg::key;
    use std::cell::RefCell;

    const AT: u64 = 0x10;
    const TO: usize = 0x40;

    fn device() -> FwCfg {
        let mut device = FwCfg::new();
        device.item(key::KERNEL_DATA, (0..200).collect());
        device
    }

    /// Memory of 4 KiB with a descriptor in it.
    fn memory(control: u32, length: u32, address: u64) -> Flat {
        let mut bytes = vec![0xEE; 0x1000];
        let words = [control, length, (address >> 32) as u32, address as u32];
        let descriptor = words.map(u32::to_be_bytes).concat();
        bytes[AT as usize..AT as usize + DESCRIPTOR].copy_from_slice(&descriptor);
        Flat(RefCell::new(bytes))
    }

    fn report(memory: &Flat) -> [u8; 4] {
        let at = AT as usize;
        memory.0.borrow()[at..at + 4].try_into().expect("four")
    }

    #[test]
    fn select_skip_and_read_follow_one_another() {
        let mut device = device();
        let kernel = u32::from(key::KERNEL_DATA) << 16;
        let skip = memory(kernel | SELECT | SKIP, 50, 0);
        transfer(&mut device, &skip, AT);
        assert_eq!(report(&skip), [0; 4]);
        let read = memory(READ, 200, TO as u64);
        transfer(&mut device, &read, AT);
        assert_eq!(report(&read), [0; 4]);
        let bytes = read.0.borrow();
        let expected: Vec<u8> = (50..200).chain([0; 50]).collect();
        assert_eq!(bytes[TO..TO + 200], expected, "zeros behind the end");
        assert_eq!(bytes[TO + 200], 0xEE);
    }

    #[test]
    fn what_is_not_shared_or_not_writable_is_an_error() {
        for (control, length, address) in [
            (READ, 16, 0xFF8),
            (READ, 16, u64::MAX),
            (READ, u32::MAX, 0),
            (WRITE, 1, TO as u64),
        ] {
            let memory = memory(control, length, address);
            transfer(&mut device(), &memory, AT);
            // The longest read runs over its own descriptor before it fails.
            assert_eq!(report(&memory), [0, 0, 0, 1], "{control:#x} {address:#x}");
        }
        for at in [0xFF1, u64::MAX] {
            let memory = memory(READ, 1, TO as u64);
            transfer(&mut device(), &memory, at);
            assert_eq!(memory.0.borrow()[TO], 0xEE, "no descriptor, no transfer");
        }
    }

    #[test]
    fn any_bytes_are_a_descriptor_or_none() {
        let mut state = 1u64;
        for length in 0..600 {
            let bytes: Vec<u8> = (0..length % 100)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    // Small numbers often, so that some descriptors are good ones.
                    let byte = (state >> 56) as u8;
                    if state >> 40 & 3 == 0 {
                        byte
                    } else {
                        byte & 0x1F
                    }
                })
                .collect();
            fuzz_dma(&bytes);
        }
        let whole = [
            &[0, 0][..],
            &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        fuzz_dma(&whole);
    }
}
