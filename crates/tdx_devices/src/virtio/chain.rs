//! A request: a chain of buffers in guest memory, of which the device reads the first part and writes the second.

use thiserror::Error;

use crate::dma::SharedMemory;

/// What a driver did that no driver may do. The device stops until it is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    #[error("{length} bytes at {gpa:#x} are not shared memory")]
    NotShared { gpa: u64, length: u64 },
    #[error("queue {queue} was enabled at addresses or with a size that no queue may have")]
    BadQueue { queue: u16 },
    #[error("the available index says {ahead} new requests in a queue of {size}")]
    AvailableIndex { ahead: u16, size: u16 },
    #[error("descriptor {index} does not exist in a table of {size}")]
    NoDescriptor { index: u16, size: u16 },
    #[error("a chain has more descriptors than its queue, or a loop")]
    EndlessChain,
    #[error("a chain has more than 4 GiB")]
    HugeChain,
    #[error("a descriptor to be read follows one to be written")]
    ReadAfterWrite,
    #[error("an indirect table has {length} bytes or is used where none may be")]
    BadIndirect { length: u32 },
    #[error("a request is shorter than its kind must be")]
    ShortRequest,
    #[error("a request is longer than this device takes")]
    LongRequest,
}

/// A run of bytes in guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    pub gpa: u64,
    pub length: u32,
}

/// One request of a driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The first descriptor's index, by which the request is given back.
    pub head: u16,
    pub readable: Vec<Buffer>,
    pub writable: Vec<Buffer>,
}

impl Chain {
    pub fn reader<'a>(&'a self, memory: &'a dyn SharedMemory) -> Stream<'a> {
        Stream::new(&self.readable, memory)
    }
    pub fn writer<'a>(&'a self, memory: &'a dyn SharedMemory) -> Stream<'a> {
        Stream::new(&self.writable, memory)
    }
}

/// The bytes of several buffers as one run.
pub struct Stream<'a> {
    buffers: &'a [Buffer],
    /// Bytes of the first buffer that are behind us.
    used: u32,
    left: u64,
    memory: &'a dyn SharedMemory,
}

impl<'a> Stream<'a> {
    fn new(buffers: &'a [Buffer], memory: &'a dyn SharedMemory) -> Stream<'a> {
        Stream {
            buffers,
            used: 0,
            left: buffers.iter().map(|b| u64::from(b.length)).sum(),
            memory,
        }
    }

    /// Bytes that are still ahead.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Reads exactly so many bytes.
    pub fn read(&mut self, to: &mut [u8]) -> Result<(), Fault> {
        let mut rest = to;
        while !rest.is_empty() {
            let (gpa, length) = self.piece(rest.len())?;
            let (piece, tail) = rest.split_at_mut(length);
            let not_shared = |_| fault(gpa, length);
            self.memory.read(gpa, piece).map_err(not_shared)?;
            rest = tail;
        }
        Ok(())
    }

    /// Writes all these bytes.
    pub fn write(&mut self, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        while !rest.is_empty() {
            let (gpa, length) = self.piece(rest.len())?;
            let (piece, tail) = rest.split_at(length);
            let not_shared = |_| fault(gpa, length);
            self.memory.write(gpa, piece).map_err(not_shared)?;
            rest = tail;
        }
        Ok(())
    }

    /// Passes over bytes.
    pub fn skip(&mut self, bytes: u64) -> Result<(), Fault> {
        let mut rest = bytes;
        while rest > 0 {
            let (_, length) = self.piece(usize::try_from(rest).unwrap_or(usize::MAX))?;
            rest -= length as u64;
        }
        Ok(())
    }

    /// The next bytes that lie together, at most `wanted`; they are behind us now.
    fn piece(&mut self, wanted: usize) -> Result<(u64, usize), Fault> {
        while let Some((first, others)) = self.buffers.split_first() {
            let room = (first.length - self.used) as usize;
            if room == 0 {
                (self.buffers, self.used) = (others, 0);
                continue;
            }
            let length = room.min(wanted);
            let Some(gpa) = first.gpa.checked_add(u64::from(self.used)) else {
                return Err(fault(first.gpa, first.length as usize));
            };
            self.used += length as u32;
            self.left -= length as u64;
            return Ok((gpa, length));
        }
        Err(Fault::ShortRequest)
    }
}

fn fault(gpa: u64, length: usize) -> Fault {
    Fault::NotShared {
        gpa,
        length: length as u64,
    }
}
