//! One 4 KiB page of RAM as processors share it.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

/// A handle on a page of guest memory that several processors read and write at once.
///
/// Offsets are in bytes and an access never leaves the page; `load`/`store` are little-endian, of any
/// alignment, and single-copy atomic when naturally aligned, as on x86. They keep x86's order: a load may go ahead of
/// an earlier store to another place, and nothing else changes its place. Handles are cheap to copy, so that a
/// TLB can hold them; an implementation must keep the page alive as long as a handle exists.
pub trait RamPage: Clone {
    fn load_u8(&self, offset: usize) -> u8;
    fn load_u16(&self, offset: usize) -> u16;
    fn load_u32(&self, offset: usize) -> u32;
    fn load_u64(&self, offset: usize) -> u64;
    fn store_u8(&self, offset: usize, value: u8);
    fn store_u16(&self, offset: usize, value: u16);
    fn store_u32(&self, offset: usize, value: u32);
    fn store_u64(&self, offset: usize, value: u64);
    /// Atomic when aligned on hosts whose processor does so (x86-64 with AVX).
    fn load_u128(&self, offset: usize) -> u128 {
        u128::from(self.load_u64(offset)) | u128::from(self.load_u64(offset + 8)) << 64
    }
    fn store_u128(&self, offset: usize, value: u128) {
        self.store_u64(offset, value as u64);
        self.store_u64(offset + 8, (value >> 64) as u64);
    }
    /// Copies out of the page; the range must lie inside it.
    fn read(&self, offset: usize, to: &mut [u8]);
    /// Copies into the page; the range must lie inside it.
    fn write(&self, offset: usize, from: &[u8]);
    /// Sequentially consistent compare-and-swap of 1, 2, 4 or 8 bytes at any alignment; returns the old value.
    fn compare_exchange(
        &self,
        offset: usize,
        size: u8,
        expected: u64,
        new: u64,
    ) -> Result<u64, u64>;
    /// The same on 16 bytes, 16-byte aligned (CMPXCHG16B).
    fn compare_exchange_u128(&self, offset: usize, expected: u128, new: u128)
    -> Result<u128, u128>;
    /// A number that changes whenever the bytes of the page may have changed since it carried decoded code:
    /// writers bump it for pages that [`RamPage::watch_code`] marked.
    fn code_version(&self) -> u32;
    /// Marks the page as holding decoded code, so that writes bump [`RamPage::code_version`].
    fn watch_code(&self);
    /// Whether [`RamPage::watch_code`] marked the page.
    fn is_watched(&self) -> bool;
    /// Where the page lies in the host's memory, as long as a handle exists; `None` when it lies nowhere as it is.
    fn host(&self) -> Option<HostPage> {
        None
    }
}

/// Addresses for machine code that accesses a page directly. Such code must leave writes to watched pages to
/// [`RamPage`], which counts them.
#[derive(Clone, Copy, Debug)]
pub struct HostPage {
    /// The 4096 bytes, aligned to 64.
    pub bytes: NonNull<u8>,
    /// What [`RamPage::code_version`] returns.
    pub code_version: NonNull<AtomicU32>,
}
