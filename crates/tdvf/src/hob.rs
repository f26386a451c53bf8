//! The TD HOB: hand-off blocks that tell the firmware what memory it has (UEFI Platform Initialization, volume 3).

use core::fmt;

use x86_arch::Gpa;

/// What a range of the guest's address space is. Open, as in the PI specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceType(pub u32);

impl ResourceType {
    /// Memory that is private and accepted: what TDH.MEM.PAGE.ADD put there.
    pub const SYSTEM_MEMORY: ResourceType = ResourceType(0);
    pub const MEMORY_MAPPED_IO: ResourceType = ResourceType(1);
    pub const IO: ResourceType = ResourceType(2);
    pub const FIRMWARE_DEVICE: ResourceType = ResourceType(3);
    pub const MEMORY_RESERVED: ResourceType = ResourceType(5);
    /// Memory that the guest accepts before it uses it.
    pub const MEMORY_UNACCEPTED: ResourceType = ResourceType(7);
}

/// The buffer is too small for another block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HobListFull {
    /// Bytes of the buffer.
    pub capacity: usize,
}

impl fmt::Display for HobListFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the TD HOB does not fit its {} bytes", self.capacity)
    }
}

impl core::error::Error for HobListFull {}

/// A HOB list under construction in a buffer that will lie at a guest address.
#[derive(Debug)]
pub struct HobList<'b> {
    buffer: &'b mut [u8],
    address: Gpa,
    used: usize,
}

const HANDOFF: u16 = 1;
const RESOURCE_DESCRIPTOR: u16 = 3;
const GUID_EXTENSION: u16 = 4;
const END_OF_LIST: u16 = 0xFFFF;
const HEADER: usize = 8;
const HANDOFF_SIZE: usize = 56;
/// EFI_HOB_HANDOFF_TABLE_VERSION.
const HANDOFF_VERSION: u32 = 9;
/// Present, initialized and tested.
const RESOURCE_ATTRIBUTES: u32 = 7;

impl<'b> HobList<'b> {
    /// Begins a list with its hand-off block. `address` is where the firmware will find the buffer (section TD_HOB).
    pub fn new(buffer: &'b mut [u8], address: Gpa) -> Result<HobList<'b>, HobListFull> {
        buffer.fill(0);
        let mut list = HobList {
            buffer,
            address,
            used: 0,
        };
        // The list's end, the last word, is known at `finish`; a TD's firmware takes memory from the descriptors alone.
        let mut body = [0; HANDOFF_SIZE - HEADER];
        body[..4].copy_from_slice(&HANDOFF_VERSION.to_le_bytes());
        list.push(HANDOFF, &body)?;
        Ok(list)
    }

    /// Adds a resource descriptor for `bytes` at `start`.
    pub fn resource(
        &mut self,
        kind: ResourceType,
        start: Gpa,
        bytes: u64,
    ) -> Result<(), HobListFull> {
        let mut body = [0; 40];
        body[16..20].copy_from_slice(&kind.0.to_le_bytes());
        body[20..24].copy_from_slice(&RESOURCE_ATTRIBUTES.to_le_bytes());
        body[24..32].copy_from_slice(&start.raw().to_le_bytes());
        body[32..40].copy_from_slice(&bytes.to_le_bytes());
        self.push(RESOURCE_DESCRIPTOR, &body)
    }

    /// Adds a GUID extension block (`guid` as its bytes lie in memory) with data of its owner's own making.
    pub fn guid_extension(&mut self, guid: &[u8; 16], data: &[u8]) -> Result<(), HobListFull> {
        let capacity = self.buffer.len();
        let size = (HEADER + guid.len() + data.len()).next_multiple_of(8);
        let full = HobListFull { capacity };
        let length = u16::try_from(size).map_err(|_| full)?;
        let block = self.buffer[self.used..].get_mut(..size).ok_or(full)?;
        block[..2].copy_from_slice(&GUID_EXTENSION.to_le_bytes());
        block[2..4].copy_from_slice(&length.to_le_bytes());
        block[HEADER..HEADER + 16].copy_from_slice(guid);
        block[HEADER + 16..][..data.len()].copy_from_slice(data);
        self.used += size;
        Ok(())
    }

    /// Ends the list; returns its bytes, the rest of the buffer being zero.
    pub fn finish(mut self) -> Result<usize, HobListFull> {
        self.push(END_OF_LIST, &[])?;
        let end = self.address.raw() + self.used as u64;
        self.buffer[HANDOFF_SIZE - 8..HANDOFF_SIZE].copy_from_slice(&end.to_le_bytes());
        Ok(self.used)
    }

    fn push(&mut self, kind: u16, body: &[u8]) -> Result<(), HobListFull> {
        let size = HEADER + body.len();
        let capacity = self.buffer.len();
        let block = self.buffer[self.used..]
            .get_mut(..size)
            .ok_or(HobListFull { capacity })?;
        block[..2].copy_from_slice(&kind.to_le_bytes());
        block[2..4].copy_from_slice(&(size as u16).to_le_bytes());
        block[HEADER..].copy_from_slice(body);
        self.used += size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_hand_off_block_the_resources_and_an_end() {
        let mut buffer = [0xAA; 4096];
        let mut list = HobList::new(&mut buffer, Gpa::new(0x80_9000)).unwrap();
        list.resource(ResourceType::SYSTEM_MEMORY, Gpa::new(0x80_0000), 0x6000)
            .unwrap();
        list.resource(
            ResourceType::MEMORY_UNACCEPTED,
            Gpa::new(0x10_0000),
            0x70_0000,
        )
        .unwrap();
        let used = list.finish().unwrap();
        assert_eq!(used, 56 + 48 + 48 + 8);
        assert_eq!(buffer[..8], [1, 0, 56, 0, 0, 0, 0, 0]);
        assert_eq!(buffer[48..56], (0x80_9000_u64 + used as u64).to_le_bytes());
        assert_eq!(buffer[56..64], [3, 0, 48, 0, 0, 0, 0, 0]);
        assert_eq!(buffer[56 + 48 + 24..56 + 48 + 28], 7_u32.to_le_bytes());
        assert_eq!(
            buffer[56 + 48 + 32..56 + 48 + 40],
            0x10_0000_u64.to_le_bytes()
        );
        assert_eq!(buffer[56 + 96..used], [0xFF, 0xFF, 8, 0, 0, 0, 0, 0]);
        assert!(buffer[used..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_list_that_does_not_fit_says_so_and_nothing_is_written_beyond() {
        let mut buffer = [0; 56 + 47];
        let mut list = HobList::new(&mut buffer, Gpa::new(0)).unwrap();
        assert_eq!(
            list.resource(ResourceType::IO, Gpa::new(0), 1),
            Err(HobListFull { capacity: 103 })
        );
        let mut small = [0; 60];
        assert!(
            HobList::new(&mut small, Gpa::new(0))
                .unwrap()
                .finish()
                .is_err()
        );
        assert!(HobList::new(&mut [], Gpa::new(0)).is_err());
    }
}
