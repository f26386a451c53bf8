//! A disk (virtio 1.2, 5.2) in a raw file.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use thiserror::Error;

use super::{Chain, Device, Fault};
use crate::dma::SharedMemory;

const QUEUES: [u16; 1] = [128];
const SECTOR: u64 = 512;
/// Bytes that are in our memory at once.
const PIECE: usize = 64 << 10;
const ID: usize = 20;

/// Feature bits.
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;

/// Kinds of request.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
}

/// The status byte at a request's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What a disk's bytes lie in.
pub trait Storage: Send {
    fn read_at(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()>;
    fn write_at(&mut self, offset: u64, from: &[u8]) -> io::Result<()>;
    /// Makes what was written last through a crash of the host.
    fn sync(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn read_at(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.read_exact(to)
    }
    fn write_at(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(from)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Why a file cannot be a disk.
#[derive(Debug, Error)]
pub enum NoDisk {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0} bytes are no whole number of 512-byte sectors")]
    NoSectors(u64),
    #[error("the file is empty")]
    Empty,
    #[error("it is no regular file")]
    NoFile,
    #[error("another disk or program uses the file")]
    Locked,
}

/// The device.
pub struct Block {
    storage: Box<dyn Storage>,
    sectors: u64,
    read_only: bool,
    id: [u8; ID],
    config: [u8; 24],
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("sectors", &self.sectors)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl Block {
    /// Opens a raw file as a disk with this id (at most 20 bytes count), and locks it: shared if it is read-only.
    pub fn open(path: &Path, read_only: bool, id: &str) -> Result<Block, NoDisk> {
        // Looked at before it is opened: a pipe would wait for its other end.
        if !fs::metadata(path)?.is_file() {
            return Err(NoDisk::NoFile);
        }
        let file = File::options().read(true).write(!read_only).open(path)?;
        let locked = match read_only {
            true => file.try_lock_shared(),
            false => file.try_lock(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NoDisk::Locked),
            Err(TryLockError::Error(why)) => return Err(NoDisk::Io(why)),
        }
        let length = file.metadata()?.len();
        Block::new(Box::new(file), length, read_only, id)
    }

    /// A disk in `length` bytes of storage.
    pub fn new(
        storage: Box<dyn Storage>,
        length: u64,
        read_only: bool,
        id: &str,
    ) -> Result<Block, NoDisk> {
        if length == 0 {
            return Err(NoDisk::Empty);
        }
        if !length.is_multiple_of(SECTOR) {
            return Err(NoDisk::NoSectors(length));
        }
        let sectors = length / SECTOR;
        // Capacity, size_max, seg_max (a header and a status go with the data), geometry, blk_size.
        let mut config = [0; 24];
        config[..8].copy_from_slice(&sectors.to_le_bytes());
        config[12..16].copy_from_slice(&u32::from(QUEUES[0] - 2).to_le_bytes());
        config[20..].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        let mut name = [0; ID];
        for (place, byte) in name.iter_mut().zip(id.bytes()) {
            *place = byte;
        }
        Ok(Block {
            storage,
            sectors,
            read_only,
            id: name,
            config,
        })
    }

    /// Where a request's bytes lie on the disk, if it has them.
    fn place(&self, sector: u64, bytes: u64) -> Option<u64> {
        let end = sector.checked_add(bytes.div_ceil(SECTOR))?;
        (bytes.is_multiple_of(SECTOR) && end <= self.sectors).then_some(sector * SECTOR)
    }

    /// Moves `bytes` bytes between disk and memory, piece by piece; false when the file refuses.
    fn pieces(
        &mut self,
        place: u64,
        bytes: u64,
        mut act: impl FnMut(&mut dyn Storage, u64, &mut [u8]) -> Result<bool, Fault>,
    ) -> Result<Status, Fault> {
        let mut piece = vec![0; PIECE.min(bytes as usize)];
        let mut done = 0;
        while done < bytes {
            let length = (bytes - done).min(PIECE as u64);
            let piece = &mut piece[..length as usize];
            if !act(&mut *self.storage, place + done, piece)? {
                return Ok(Status::IoError);
            }
            done += length;
        }
        Ok(Status::Ok)
    }
}

impl Device for Block {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }
    fn id(&self) -> u16 {
        2
    }
    fn class(&self) -> u32 {
        // Mass storage, other.
        0x01_8000
    }
    fn features(&self) -> u64 {
        let read_only = if self.read_only { READ_ONLY } else { 0 };
        SEG_MAX | BLK_SIZE | FLUSH | read_only
    }
    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn serve(
        &mut self,
        _queue: usize,
        chain: &Chain,
        memory: &dyn SharedMemory,
    ) -> Result<u32, Fault> {
        let mut from = chain.reader(memory);
        let mut header = [0; 16];
        from.read(&mut header)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (
            u32::from_le_bytes([k0, k1, k2, k3]),
            u64::from_le_bytes(sector),
        );
        let mut to = chain.writer(memory);
        // The status byte is the last one.
        let room = to.left().checked_sub(1).ok_or(Fault::ShortRequest)?;
        let mut written = 0;
        let status = match kind {
            kind::IN => match self.place(sector, room) {
                None => Status::IoError,
                Some(place) => self.pieces(place, room, |disk, at, piece| {
                    let read = disk.read_at(at, piece).is_ok();
                    if read {
                        to.write(piece)?;
                        written += piece.len() as u64;
                    }
                    Ok(read)
                })?,
            },
            kind::OUT if self.read_only => Status::IoError,
            kind::OUT => match self.place(sector, from.left()) {
                None => Status::IoError,
                Some(place) => {
                    let bytes = from.left();
                    self.pieces(place, bytes, |disk, at, piece| {
                        from.read(piece)?;
                        Ok(disk.write_at(at, piece).is_ok())
                    })?
                }
            },
            kind::FLUSH => match self.storage.sync() {
                Ok(()) => Status::Ok,
                Err(_) => Status::IoError,
            },
            kind::GET_ID => {
                let length = room.min(ID as u64);
                to.write(&self.id[..length as usize])?;
                written = length;
                Status::Ok
            }
            _ => Status::Unsupported,
        };
        to.skip(room - written)?;
        to.write(&[status as u8])?;
        Ok(u32::try_from(written + 1).unwrap_or(u32::MAX))
    }
}
