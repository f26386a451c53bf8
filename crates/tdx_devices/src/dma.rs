//! Guest memory as a device reaches it.

use tdx_call::HostMemory;
use tdx_host::GuestMemory;
use x86_arch::Gpa;

/// The bytes at this address are private, or no RAM at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotShared;

/// A TD's shared memory. Nothing private can be read or written through it.
pub trait SharedMemory {
    /// Reads; after an error the content of `to` is unspecified.
    fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), NotShared>;
    /// Writes; after an error a part in front may have been written.
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), NotShared>;
}

impl<M: HostMemory> SharedMemory for GuestMemory<'_, M> {
    fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), NotShared> {
        GuestMemory::read(self, Gpa::new(gpa), to).map_err(|_| NotShared)
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), NotShared> {
        GuestMemory::write(self, Gpa::new(gpa), from).map_err(|_| NotShared)
    }
}
