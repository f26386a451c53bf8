//! RAM as the host's own memory: chunks mapped when first touched, and handles on their 4 KiB pages.
//!
//! The kernel backs a mapping page by page, so a sparse guest costs what it touches. This file knows bytes only;
//! keys and integrity are in [`crate::memory`].
#![expect(unsafe_code, reason = "maps anonymous memory and hands out its pages")]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use x86_arch::{HostPage, Hpa, RamPage};

pub(crate) const PAGE: usize = 4096;
/// Bytes that are mapped at once; what is kept beside them is 6 KiB.
const CHUNK: usize = 2 << 20;
const CHUNK_PAGES: usize = CHUNK / PAGE;
/// Pages that are backed at once.
const AHEAD: usize = 32;

/// What is kept beside a page's bytes. All zero: never touched.
#[derive(Default)]
pub(crate) struct PageState {
    /// The key that every line was written with, or [`crate::memory`]'s mark for "differs by line".
    pub(crate) key: AtomicU32,
    /// Key ID plus 1 whose lines may be dirty in a cache; 0 for none.
    pub(crate) dirty: AtomicU16,
    /// A processor may hold a handle on the page.
    pub(crate) handed_out: AtomicBool,
    /// The bytes may differ from zero, so that the host may have backed the page with memory.
    pub(crate) touched: AtomicBool,
    /// The host was asked to back the page with memory.
    backed: AtomicBool,
    /// What was last written with a shared key was written in SEAM mode.
    pub(crate) seam_wrote: AtomicBool,
    /// Writes count in `code_version`.
    watched: AtomicBool,
    code_version: AtomicU32,
}

/// A 4 KiB page of RAM. It keeps its memory mapped.
#[derive(Clone)]
pub struct Page {
    bytes: NonNull<u8>,
    state: NonNull<PageState>,
    /// Keeps both alive.
    chunk: Arc<Chunk>,
}

// SAFETY: both pointers lead into what the chunk owns, which is Send and Sync; every access through them is atomic.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

struct Chunk {
    base: NonNull<u8>,
    /// The number of the first page.
    first: u64,
    states: Box<[PageState]>,
}

// SAFETY: the mapping belongs to this value alone and is accessed with atomics only.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `base` is the mapping of CHUNK bytes made in `Chunk::map`; no page outlives the chunk.
        unsafe { libc::munmap(self.base.as_ptr().cast(), CHUNK) };
    }
}

impl Chunk {
    fn map(first: u64) -> Chunk {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK, access, flags, -1, 0) };
        assert!(
            base != libc::MAP_FAILED,
            "the host has no {CHUNK} bytes of address space left"
        );
        // A huge page would back 512 pages for one that is used; where the kernel knows none, nothing is lost.
        // SAFETY: the mapping just made; the advice changes no content.
        unsafe { libc::madvise(base, CHUNK, libc::MADV_NOHUGEPAGE) };
        let base = NonNull::new(base.cast()).expect("mmap gives no null without MAP_FIXED");
        let states = (0..CHUNK_PAGES).map(|_| PageState::default()).collect();
        Chunk {
            base,
            first,
            states,
        }
    }
}

/// All RAM below a limit, as sparse as it is used.
pub(crate) struct Ram {
    chunks: Box<[OnceLock<Arc<Chunk>>]>,
    size: u64,
}

impl Ram {
    pub(crate) fn new(size: u64) -> Ram {
        let chunks = size.div_ceil(CHUNK as u64) as usize;
        Ram {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            size,
        }
    }

    /// The page with this number; `None` outside RAM.
    pub(crate) fn page(&self, number: u64) -> Option<Page> {
        if number >= self.size / PAGE as u64 {
            return None;
        }
        let chunk = self.chunks[(number / CHUNK_PAGES as u64) as usize].get_or_init(|| {
            let first = number - number % CHUNK_PAGES as u64;
            Arc::new(Chunk::map(first))
        });
        Some(Page::new(chunk, (number % CHUNK_PAGES as u64) as usize))
    }

    /// Every page of the chunks that were touched, with its number.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (u64, Page)> + '_ {
        self.known(0..self.size / PAGE as u64)
    }
    /// The same of the pages with these numbers.
    pub(crate) fn known(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, Page)> + '_ {
        const IN_CHUNK: u64 = CHUNK_PAGES as u64;
        let first = pages.start / IN_CHUNK;
        let end = pages.end.div_ceil(IN_CHUNK);
        let chunks = self.chunks.iter().enumerate();
        chunks
            .take(end as usize)
            .skip(first as usize)
            .filter_map(|(i, chunk)| Some((i as u64 * IN_CHUNK, chunk.get()?)))
            .flat_map(move |(base, chunk)| {
                let inside = pages.start.max(base)..pages.end.min(base + IN_CHUNK);
                inside.map(move |number| (number, Page::new(chunk, (number - base) as usize)))
            })
    }
}

impl Page {
    fn new(chunk: &Arc<Chunk>, index: usize) -> Page {
        assert!(index < CHUNK_PAGES);
        // SAFETY: the offset lies inside the mapping of CHUNK bytes.
        let bytes = unsafe { chunk.base.add(index * PAGE) };
        Page {
            bytes,
            state: NonNull::from(&chunk.states[index]),
            chunk: chunk.clone(),
        }
    }

    /// Has the host back this page and those after it at once, if the page before it is in use: memory that is filled in
    /// order costs one request for [`AHEAD`] pages instead of a page fault each.
    pub(crate) fn back_ahead(&self) {
        let index = (self.bytes.addr().get() - self.chunk.base.addr().get()) / PAGE;
        let states = &self.chunk.states;
        let in_order = index > 0 && states[index - 1].touched.load(Relaxed);
        if !in_order || states[index].backed.load(Relaxed) {
            return;
        }
        let end = (index + AHEAD).min(CHUNK_PAGES);
        for state in &states[index..end] {
            state.backed.store(true, Relaxed);
        }
        // A kernel without this advice backs the pages when they are touched.
        // SAFETY: the range lies in the mapping of CHUNK bytes, and the advice changes no content.
        unsafe {
            let at = self.bytes.as_ptr().cast();
            libc::madvise(at, (end - index) * PAGE, libc::MADV_POPULATE_WRITE)
        };
    }

    /// Takes over all bytes of another page.
    pub(crate) fn copy_from(&self, from: &Page) {
        if self.bytes != from.bytes {
            // SAFETY: both pages exist and are different, and so do not overlap.
            unsafe { copy_bytes(self.bytes.as_ptr(), from.bytes.as_ptr(), PAGE) };
        }
        self.written();
    }

    /// Where the page lies in physical memory.
    pub fn hpa(&self) -> Hpa {
        let offset = self.bytes.addr().get() - self.chunk.base.addr().get();
        Hpa::new(self.chunk.first * PAGE as u64 + offset as u64)
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> &PageState {
        // SAFETY: it lies in the chunk that `self` keeps alive, and is changed through atomics only.
        unsafe { self.state.as_ref() }
    }

    /// The address of `size` bytes at `offset`, which must lie inside the page.
    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset <= PAGE - size);
        // SAFETY: just checked.
        unsafe { self.bytes.as_ptr().add(offset) }
    }

    #[inline(always)]
    fn written(&self) {
        let state = self.state();
        if state.watched.load(Relaxed) {
            state.code_version.fetch_add(1, Release);
        }
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside the page, which lives as long as `self`; bytes have no alignment.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    // Where an access cannot be made in one step.
    fn load_bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.byte(offset + i).load(Relaxed))
    }
    fn store_bytes(&self, offset: usize, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            self.byte(offset + i).store(byte, Relaxed);
        }
    }
    fn split_exchange<const N: usize>(
        &self,
        offset: usize,
        expected: [u8; N],
        new: [u8; N],
    ) -> Result<[u8; N], [u8; N]> {
        // A split lock stops everybody on real hardware; here it stops other split locks.
        static SPLIT: Mutex<()> = Mutex::new(());
        let _one_at_a_time = SPLIT.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.load_bytes::<N>(offset);
        if old != expected {
            return Err(old);
        }
        self.store_bytes(offset, &new);
        Ok(old)
    }
}

/// The accesses of each size. Aligned ones are atomics that keep x86's order: loads in order, stores in order, and no
/// store before an earlier load. On x86-64 unaligned ones are the host's instructions too, in one step as far as its
/// processor makes them so. A compare-and-swap is atomic for everybody there; one that crosses a cache line is a split
/// lock, which a host may be set to punish (Linux: `split_lock_detect`).
macro_rules! accesses {
    ($($load:ident $store:ident $swap:ident $ty:ty, $atomic:ty, $read:literal, $write:literal, $exchange:literal;)*) => {
        impl Page {$(
            fn $swap(&self, offset: usize, expected: $ty, new: $ty) -> Result<$ty, $ty> {
                let at = self.at(offset, size_of::<$ty>()).cast::<$ty>();
                let done = if at.is_aligned() {
                    // SAFETY: inside the page, which lives as long as `self`, and aligned.
                    unsafe { <$atomic>::from_ptr(at) }.compare_exchange(expected.to_le(), new.to_le(), SeqCst, SeqCst)
                        .map(<$ty>::from_le).map_err(<$ty>::from_le)
                } else {
                    #[cfg(target_arch = "x86_64")]
                    {
                        let mut old = u64::from(expected);
                        // SAFETY: inside the page, which lives as long as `self`.
                        unsafe {
                            std::arch::asm!($exchange, at = in(reg) at, new = in(reg) u64::from(new), inout("rax") old,
                                options(nostack));
                        }
                        let old = old as $ty;
                        if old == expected { Ok(old) } else { Err(old) }
                    }
                    #[cfg(not(target_arch = "x86_64"))]
                    self.split_exchange(offset, expected.to_le_bytes(), new.to_le_bytes())
                        .map(<$ty>::from_le_bytes).map_err(<$ty>::from_le_bytes)
                };
                if done.is_ok() {
                    self.written();
                }
                done
            }

            #[inline(always)]
            fn $load(&self, offset: usize) -> $ty {
                let at = self.at(offset, size_of::<$ty>()).cast::<$ty>();
                if at.is_aligned() {
                    // SAFETY: inside the page, which lives as long as `self`, and aligned.
                    return <$ty>::from_le(unsafe { <$atomic>::from_ptr(at) }.load(Acquire));
                }
                #[cfg(target_arch = "x86_64")]
                {
                    let value: u64;
                    // SAFETY: inside the page, which lives as long as `self`.
                    unsafe {
                        std::arch::asm!($read, at = in(reg) at, value = out(reg) value,
                            options(nostack, preserves_flags, readonly));
                    }
                    value as $ty
                }
                #[cfg(not(target_arch = "x86_64"))]
                <$ty>::from_le_bytes(self.load_bytes(offset))
            }

            #[inline(always)]
            fn $store(&self, offset: usize, value: $ty) {
                let at = self.at(offset, size_of::<$ty>()).cast::<$ty>();
                if at.is_aligned() {
                    // SAFETY: inside the page, which lives as long as `self`, and aligned.
                    unsafe { <$atomic>::from_ptr(at) }.store(value.to_le(), Release);
                } else {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: inside the page, which lives as long as `self`.
                    unsafe {
                        std::arch::asm!($write, at = in(reg) at, value = in(reg) u64::from(value),
                            options(nostack, preserves_flags));
                    }
                    #[cfg(not(target_arch = "x86_64"))]
                    self.store_bytes(offset, &value.to_le_bytes());
                }
                self.written();
            }
        )*}
    };
}

accesses! {
    get8 put8 swap8 u8, AtomicU8,
        "movzx {value:e}, byte ptr [{at}]", "mov [{at}], {value:l}", "lock cmpxchg [{at}], {new:l}";
    get16 put16 swap16 u16, AtomicU16,
        "movzx {value:e}, word ptr [{at}]", "mov [{at}], {value:x}", "lock cmpxchg [{at}], {new:x}";
    get32 put32 swap32 u32, AtomicU32,
        "mov {value:e}, [{at}]", "mov [{at}], {value:e}", "lock cmpxchg [{at}], {new:e}";
    get64 put64 swap64 u64, AtomicU64,
        "mov {value}, [{at}]", "mov [{at}], {value}", "lock cmpxchg [{at}], {new}";
}

impl RamPage for Page {
    #[inline(always)]
    fn load_u8(&self, offset: usize) -> u8 {
        self.get8(offset)
    }
    #[inline(always)]
    fn load_u16(&self, offset: usize) -> u16 {
        self.get16(offset)
    }
    #[inline(always)]
    fn load_u32(&self, offset: usize) -> u32 {
        self.get32(offset)
    }
    #[inline(always)]
    fn load_u64(&self, offset: usize) -> u64 {
        self.get64(offset)
    }
    #[inline(always)]
    fn store_u8(&self, offset: usize, value: u8) {
        self.put8(offset, value);
    }
    #[inline(always)]
    fn store_u16(&self, offset: usize, value: u16) {
        self.put16(offset, value);
    }
    #[inline(always)]
    fn store_u32(&self, offset: usize, value: u32) {
        self.put32(offset, value);
    }
    #[inline(always)]
    fn store_u64(&self, offset: usize, value: u64) {
        self.put64(offset, value);
    }

    #[cfg(target_arch = "x86_64")]
    fn load_u128(&self, offset: usize) -> u128 {
        let at = self.at(offset, 16);
        let value: std::arch::x86_64::__m128i;
        // SAFETY: inside the page, which lives as long as `self`; both types are 16 bytes of any value.
        unsafe {
            std::arch::asm!("movdqu {value}, [{at}]", at = in(reg) at, value = out(xmm_reg) value,
                options(nostack, preserves_flags, readonly));
            std::mem::transmute::<std::arch::x86_64::__m128i, u128>(value)
        }
    }
    #[cfg(target_arch = "x86_64")]
    fn store_u128(&self, offset: usize, value: u128) {
        let at = self.at(offset, 16);
        // SAFETY: as above.
        unsafe {
            let value = std::mem::transmute::<u128, std::arch::x86_64::__m128i>(value);
            std::arch::asm!("movdqu [{at}], {value}", at = in(reg) at, value = in(xmm_reg) value,
                options(nostack, preserves_flags));
        }
        self.written();
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        let at = self.at(offset, to.len());
        if to.len() >= BULK {
            // SAFETY: `at` has as many bytes, inside the page; `to` is borrowed mutably and so lies elsewhere.
            unsafe { copy_bytes(to.as_mut_ptr(), at, to.len()) };
            return;
        }
        let mut at = offset;
        let mut words = to.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.get64(at).to_le_bytes());
            at += 8;
        }
        for (i, byte) in words.into_remainder().iter_mut().enumerate() {
            *byte = self.byte(at + i).load(Relaxed);
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        let at = self.at(offset, from.len());
        if from.len() >= BULK {
            // SAFETY: `at` has as many bytes, inside the page; no reference to a page's bytes exists, so `from` lies
            // elsewhere.
            unsafe { copy_bytes(at, from.as_ptr(), from.len()) };
        } else {
            let mut at = offset;
            let (words, rest) = from.as_chunks::<8>();
            for &word in words {
                self.put64(at, u64::from_le_bytes(word));
                at += 8;
            }
            self.store_bytes(at, rest);
        }
        self.written();
    }

    fn compare_exchange(
        &self,
        offset: usize,
        size: u8,
        expected: u64,
        new: u64,
    ) -> Result<u64, u64> {
        match size {
            1 => widen(self.swap8(offset, expected as u8, new as u8)),
            2 => widen(self.swap16(offset, expected as u16, new as u16)),
            4 => widen(self.swap32(offset, expected as u32, new as u32)),
            8 => self.swap64(offset, expected, new),
            _ => panic!("compare_exchange of {size} bytes: 1, 2, 4 and 8 exist"),
        }
    }

    fn compare_exchange_u128(
        &self,
        offset: usize,
        expected: u128,
        new: u128,
    ) -> Result<u128, u128> {
        assert!(offset.is_multiple_of(16), "CMPXCHG16B is 16-byte aligned");
        let at = self.at(offset, 16).cast::<u128>();
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("cmpxchg16b") {
            // SAFETY: the feature is there; inside the page, which lives as long as `self`, and aligned.
            let old = unsafe { exchange_16(at, expected, new) };
            if old != expected {
                return Err(old);
            }
            self.written();
            return Ok(old);
        }
        let _ = at;
        let done = self.split_exchange(offset, expected.to_le_bytes(), new.to_le_bytes());
        self.written();
        done.map(u128::from_le_bytes).map_err(u128::from_le_bytes)
    }

    #[inline(always)]
    fn code_version(&self) -> u32 {
        self.state().code_version.load(Acquire)
    }
    fn watch_code(&self) {
        if !self.state().watched.swap(true, SeqCst) {
            barrier_everywhere();
        }
    }
    fn is_watched(&self) -> bool {
        self.state().watched.load(Relaxed)
    }
    fn host(&self) -> Option<HostPage> {
        Some(HostPage {
            bytes: self.bytes,
            code_version: NonNull::from(&self.state().code_version),
        })
    }
}

/// A full memory barrier on every processor that runs a thread of this process.
///
/// A writer stores bytes and then looks whether the page is watched, without a barrier in between, since every store of
/// a guest does so. This makes up for it: afterwards a writer has seen that the page is watched, or the bytes it wrote
/// before can be read. Where the kernel lacks the call, processors that write code while another one reads it for the
/// first time may go unnoticed.
fn barrier_everywhere() {
    static REGISTERED: std::sync::Once = std::sync::Once::new();
    let membarrier = |command: libc::c_int| {
        // SAFETY: the call takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
    };
    REGISTERED.call_once(|| {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    });
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

/// From this length on bytes are copied as the processor copies them best.
const BULK: usize = 64;

/// Copies bytes that other processors may be writing or reading: each of them is old or new, as on the simulated
/// processors.
///
/// # Safety
/// Both ranges exist and do not overlap; the one outside simulated memory is the caller's alone.
#[inline]
unsafe fn copy_bytes(to: *mut u8, from: *const u8, len: usize) {
    // Written out on x86-64, since a copy that the compiler knows must not race; the architecture allows it.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; the direction flag is clear by the calling convention.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") len => _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..len {
        // SAFETY: the caller's promise.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(i).cast_mut()).load(Relaxed);
            AtomicU8::from_ptr(to.add(i)).store(byte, Relaxed);
        }
    }
}

/// CMPXCHG16B; returns the old value. Written out, since the compiler has no 16-byte atomics for x86-64's baseline.
///
/// # Safety
/// The processor has the instruction, and `at` is 16-byte aligned and points to 16 bytes accessed with atomics only.
#[cfg(target_arch = "x86_64")]
unsafe fn exchange_16(at: *mut u128, expected: u128, new: u128) -> u128 {
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: the caller's promise; RBX, which the compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [{at}]",
            "mov rbx, {new_low}",
            at = in(reg) at,
            new_low = inout(reg) new as u64 => _,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") (new >> 64) as u64,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

fn widen<T: Into<u64>>(done: Result<T, T>) -> Result<u64, u64> {
    done.map(T::into).map_err(T::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_little_endian_at_any_alignment() {
        let ram = Ram::new(1 << 20);
        let page = ram.page(3).expect("inside");
        page.store_u64(13, 0x1122_3344_5566_7788);
        assert_eq!(page.load_u8(13), 0x88);
        assert_eq!(page.load_u32(15), 0x3344_5566);
        assert_eq!(page.load_u64(13), 0x1122_3344_5566_7788);
        assert_eq!(
            page.compare_exchange(13, 8, 1, 2),
            Err(0x1122_3344_5566_7788)
        );
        assert_eq!(page.compare_exchange(14, 2, 0x6677, 0xABCD), Ok(0x6677));
        assert_eq!(page.load_u64(13), 0x1122_3344_55AB_CD88);
        assert_eq!(page.compare_exchange_u128(32, 0, 5 << 64), Ok(0));
        assert_eq!(page.load_u64(40), 5);
        let mut bytes = [0; 11];
        page.read(13, &mut bytes);
        page.write(4085, &bytes);
        assert_eq!(page.load_u16(4085), 0xCD88);
        assert!(ram.page(256).is_none());
    }

    #[test]
    fn only_watched_pages_count_writes() {
        let ram = Ram::new(1 << 20);
        let page = ram.page(0).expect("inside");
        page.store_u8(0, 1);
        assert_eq!(page.code_version(), 0);
        page.watch_code();
        page.store_u8(0, 2);
        page.write(100, &[1, 2, 3]);
        let version = page.code_version();
        assert!(version > 0);
        page.load_u64(0);
        assert_eq!(page.compare_exchange(0, 1, 9, 9), Err(2));
        assert_eq!(page.code_version(), version);
    }

    #[test]
    #[should_panic]
    fn an_access_over_the_end_of_a_page_is_refused() {
        Ram::new(1 << 20).page(0).expect("inside").load_u64(4089);
    }
}
