//! Physical memory behind an encryption engine: every 64-byte line remembers the key it was written with.
//!
//! What a wrong access shows follows the hardware (spec: host-platform.md; SDM, multi-key total memory encryption
//! with integrity):
//! - a shared key reads a private line as zeros, and another shared key's line as noise;
//! - a private key that meets any other key's line takes a machine check, and the line stays poisoned;
//! - a host write over a private line makes it the host's, so the TD's next access is that machine check;
//! - a poisoned line is a machine check for everybody until a full-line direct store (MOVDIR64B) replaces it;
//! - a page written with a private key has dirty cache lines until they are written back. Until then writes
//!   under another key are lost: the stale line lands on top of them. Hardware does so sometimes, this always.
//!
//! Simplifications: shared-key writes are written back at once (a host must flush them, and is taken to), and a
//! line is cached in the package whose memory it is.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use x86_arch::{Hkid, Hpa, KeyedHpa, RamPage};

use crate::ram::{PAGE, Page, Ram};

const LINE: usize = 64;
const LINES: usize = PAGE / LINE;
/// Locks over page states, by page number.
const STRIPES: usize = 64;

/// Bit of a key that a private key ID carries.
const PRIVATE: u32 = 1 << 31;
/// Not a key: the page's lines differ.
const MIXED: u32 = u32::MAX;
/// Not a key: reading the line is a machine check.
const POISON: u32 = u32::MAX - 1;
/// The key of shared key IDs that were not programmed, and of RAM that nobody wrote yet.
const TME: u32 = 0;

/// An access met poison or another key's integrity tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCheck(pub Hpa);

pub struct Memory {
    ram: Ram,
    /// The key of every key ID, by package.
    keys: Vec<Vec<AtomicU32>>,
    next_key: AtomicU32,
    private: RangeInclusive<u16>,
    /// Where each package's memory ends.
    homes: Vec<u64>,
    /// Keys by line of the pages whose lines differ.
    mixed: Mutex<HashMap<u64, Box<[u32; LINES]>>>,
    stripes: [Mutex<()>; STRIPES],
    revoked: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts of an access page by page: page number, offset in it, range of the buffer.
fn parts(at: Hpa, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = at.checked_add(done as u64).filter(|_| done < len)?;
        let size = (PAGE - at.page_offset()).min(len - done);
        let part = (at.raw() / PAGE as u64, at.page_offset(), done..done + size);
        done += size;
        Some(part)
    })
}

/// The lines that `len` bytes at `offset` touch: line, and the range of the buffer that lies in it.
fn lines(offset: usize, len: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    (offset / LINE..(offset + len).div_ceil(LINE)).map(move |line| {
        let start = (line * LINE).max(offset);
        let end = ((line + 1) * LINE).min(offset + len);
        (line, start - offset..end - offset)
    })
}

impl Memory {
    /// RAM of `homes.last()` bytes; package `i` holds what lies below `homes[i]` and not below `homes[i - 1]`.
    pub fn new(homes: Vec<u64>, key_ids: u16, private: RangeInclusive<u16>) -> Memory {
        let next_key = AtomicU32::new(1);
        let unprogrammed = |hkid: u16| match private.contains(&hkid) {
            true => next_key.fetch_add(1, Relaxed) | PRIVATE,
            false => TME,
        };
        let keys = |_: &u64| {
            (0..key_ids)
                .map(|hkid| AtomicU32::new(unprogrammed(hkid)))
                .collect()
        };
        Memory {
            ram: Ram::new(homes.last().copied().unwrap_or(0)),
            keys: homes.iter().map(keys).collect(),
            next_key,
            private,
            homes,
            mixed: Mutex::default(),
            stripes: [const { Mutex::new(()) }; STRIPES],
            revoked: AtomicU64::new(0),
        }
    }

    /// Gives `hkid` a new key in one package (PCONFIG).
    pub fn program_key(&self, package: u32, hkid: Hkid) {
        let kind = if self.private.contains(&hkid.0) {
            PRIVATE
        } else {
            0
        };
        let key = self.next_key.fetch_add(1, SeqCst) | kind;
        if let Some(slot) = self.keys[package as usize].get(hkid.0 as usize) {
            slot.store(key, SeqCst);
        }
        self.revoked.fetch_add(1, SeqCst);
    }

    /// Reads with a key; all ones outside RAM.
    pub fn read(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck> {
        for (number, offset, range) in parts(from.hpa, to.len()) {
            let to = &mut to[range];
            match self.ram.page(number) {
                None => to.fill(0xFF),
                Some(page) => {
                    let _guard = self.stripe(number);
                    self.read_page(number, &page, from.hkid, offset, to)?;
                }
            }
        }
        Ok(())
    }

    /// Writes with a key through the cache; vanishes outside RAM.
    pub fn write(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        for (number, offset, range) in parts(to.hpa, from.len()) {
            if let Some(page) = self.ram.page(number) {
                let _guard = self.stripe(number);
                self.write_page(number, &page, to.hkid, offset, &from[range])?;
            }
        }
        Ok(())
    }

    /// Full-line direct stores (MOVDIR64B): whole lines, never read, heal poison.
    ///
    /// # Panics
    /// When `to` or the length is not a multiple of 64 bytes.
    pub fn write_direct(&self, to: KeyedHpa, from: &[u8]) {
        assert!(to.hpa.is_aligned(LINE as u64) && from.len().is_multiple_of(LINE));
        for (number, offset, range) in parts(to.hpa, from.len()) {
            let Some(page) = self.ram.page(number) else {
                continue;
            };
            let _guard = self.stripe(number);
            if self.is_stale(&page, to.hkid) {
                continue;
            }
            let key = self.key(number, to.hkid);
            outside_seam(&page, key);
            put(&page, offset, &from[range.clone()]);
            self.set_keys(number, &page, offset / LINE, range.len() / LINE, key);
        }
    }

    /// Fills a page with zeros by full-line direct stores. One that never held anything else costs the host no memory.
    ///
    /// # Panics
    /// When the address is no page's.
    pub fn clear_page(&self, at: KeyedHpa) {
        assert!(at.hpa.is_aligned(PAGE as u64));
        let number = at.hpa.raw() / PAGE as u64;
        let Some(page) = self.ram.page(number) else {
            return;
        };
        let _guard = self.stripe(number);
        if self.is_stale(&page, at.hkid) {
            return;
        }
        let key = self.key(number, at.hkid);
        outside_seam(&page, key);
        if page.state().touched.load(Relaxed) {
            page.write(0, &[0; PAGE]);
        }
        self.set_keys(number, &page, 0, LINES, key);
    }

    /// Copies a page to another as a read and full-line direct stores do, in one pass where both are plain.
    ///
    /// # Panics
    /// When an address is no page's.
    pub fn copy_page(&self, from: KeyedHpa, to: KeyedHpa) -> Result<(), MachineCheck> {
        assert!(from.hpa.is_aligned(PAGE as u64) && to.hpa.is_aligned(PAGE as u64));
        if self.copy_plain_page(from, to).is_none() {
            let mut bytes = [0; PAGE];
            self.read(from, &mut bytes)?;
            self.write_direct(to, &bytes);
        }
        Ok(())
    }
    fn copy_plain_page(&self, from: KeyedHpa, to: KeyedHpa) -> Option<()> {
        let [source, target] = [from, to].map(|at| at.hpa.raw() / PAGE as u64);
        let (from_page, to_page) = (self.ram.page(source)?, self.ram.page(target)?);
        // Two stripes are locked in their order.
        let stripes = [source, target].map(|number| number as usize % STRIPES);
        let _first = lock(&self.stripes[stripes[0].min(stripes[1])]);
        let _second =
            (stripes[0] != stripes[1]).then(|| lock(&self.stripes[stripes[0].max(stripes[1])]));
        let plain = from_page.state().key.load(Relaxed) == self.key(source, from.hkid)
            && from_page.state().touched.load(Relaxed)
            && !self.is_stale(&to_page, to.hkid);
        if !plain {
            return None;
        }
        let key = self.key(target, to.hkid);
        outside_seam(&to_page, key);
        if !to_page.state().touched.load(Relaxed) {
            to_page.back_ahead();
            to_page.state().touched.store(true, Relaxed);
        }
        to_page.copy_from(&from_page);
        self.set_keys(target, &to_page, 0, LINES, key);
        Some(())
    }

    /// The write to these bytes was made in SEAM mode: [`Memory::exposed_seam_data`] tells where that can be read outside.
    pub fn note_seam_write(&self, to: KeyedHpa, len: usize) {
        if self.private.contains(&to.hkid.0) {
            return;
        }
        for page in parts(to.hpa, len).filter_map(|(number, ..)| self.ram.page(number)) {
            page.state().seam_wrote.store(true, Relaxed);
        }
    }
    /// The first page in a range whose lines a shared key reads although SEAM mode was the last to write with one.
    pub fn exposed_seam_data(&self, range: std::ops::Range<u64>) -> Option<Hpa> {
        let pages = range.start / PAGE as u64..range.end.div_ceil(PAGE as u64);
        let mut wrote = self.ram.known(pages);
        let (number, _) = wrote.find(|(number, page)| {
            page.state().seam_wrote.load(Relaxed) && {
                let _guard = self.stripe(*number);
                (0..LINES).any(|line| self.line_key(*number, page, line) & PRIVATE == 0)
            }
        })?;
        Some(Hpa::new(number * PAGE as u64))
    }
    /// The key ID whose key all lines of the page carry, if there is one.
    pub fn key_id(&self, page: Hpa) -> Option<Hkid> {
        let number = page.raw() / PAGE as u64;
        let (_, page) = self.ram.known(number..number + 1).next()?;
        let key = page.state().key.load(Relaxed);
        let keys = &self.keys[self.home(number)];
        let hkid = keys.iter().position(|k| k.load(Relaxed) == key)?;
        Some(Hkid(hkid as u16))
    }

    /// Writes back and invalidates a page's lines of one key ID.
    pub fn flush_page(&self, at: KeyedHpa) {
        let number = at.hpa.raw() / PAGE as u64;
        if let Some(page) = self.ram.page(number) {
            let _guard = self.stripe(number);
            let dirty = &page.state().dirty;
            if dirty.load(Relaxed) == at.hkid.0 + 1 {
                dirty.store(0, Relaxed);
            }
        }
    }

    /// Writes back the part `index` of `parts` of one package's caches.
    pub fn write_back(&self, package: u32, index: u32, parts: u32) {
        for (number, page) in self.ram.touched() {
            let here = self.home(number) == package as usize;
            if here && number % u64::from(parts.max(1)) == u64::from(index) {
                page.state().dirty.store(0, Relaxed);
            }
        }
    }

    /// A handle for direct access: `None` where an access would show more than plain bytes, or outside RAM.
    ///
    /// The handle goes on to work when the page's keys change; [`Memory::revoked`] tells when to drop handles.
    pub fn page(&self, at: KeyedHpa) -> Option<Page> {
        let number = at.hpa.raw() / PAGE as u64;
        let page = self.ram.page(number)?;
        let _guard = self.stripe(number);
        let key = self.key(number, at.hkid);
        if self.is_stale(&page, at.hkid) || page.state().key.load(Relaxed) != key {
            return None;
        }
        self.mark_dirty(&page, at.hkid, key);
        page.state().handed_out.store(true, Relaxed);
        if !page.state().touched.load(Relaxed) {
            page.back_ahead();
            page.state().touched.store(true, Relaxed);
        }
        Some(page)
    }

    /// Changes whenever a page that was handed out may not be used directly any more.
    pub fn revoked(&self) -> u64 {
        self.revoked.load(SeqCst)
    }

    /// The page's memory goes bad: whoever reads it takes a machine check, until direct stores replace its lines.
    pub fn poison_page(&self, page: Hpa) {
        let number = page.raw() / PAGE as u64;
        if let Some(page) = self.ram.page(number) {
            let _guard = self.stripe(number);
            page.state().dirty.store(0, Relaxed);
            self.set_keys(number, &page, 0, LINES, POISON);
        }
    }

    fn stripe(&self, number: u64) -> MutexGuard<'_, ()> {
        lock(&self.stripes[number as usize % STRIPES])
    }
    fn home(&self, number: u64) -> usize {
        let at = number * PAGE as u64;
        self.homes.partition_point(|&end| end <= at)
    }
    /// The key that `hkid` stands for where the page lies; an unknown key ID is a shared one.
    fn key(&self, number: u64, hkid: Hkid) -> u32 {
        let keys = &self.keys[self.home(number)];
        keys.get(hkid.0 as usize)
            .map_or(TME, |key| key.load(Relaxed))
    }

    /// Another key ID's dirty lines lie over the page.
    fn is_stale(&self, page: &Page, hkid: Hkid) -> bool {
        let dirty = page.state().dirty.load(Relaxed);
        dirty != 0 && dirty != hkid.0 + 1
    }
    fn mark_dirty(&self, page: &Page, hkid: Hkid, key: u32) {
        if key & PRIVATE != 0 {
            page.state().dirty.store(hkid.0 + 1, Relaxed);
        }
    }

    fn read_page(
        &self,
        number: u64,
        page: &Page,
        hkid: Hkid,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), MachineCheck> {
        let key = self.key(number, hkid);
        if page.state().key.load(Relaxed) == key {
            page.read(offset, to);
            return Ok(());
        }
        for (line, range) in lines(offset, to.len()) {
            let bytes = self.read_line(number, page, line, key)?;
            let start = (offset + range.start) % LINE;
            let len = range.len();
            to[range].copy_from_slice(&bytes[start..start + len]);
        }
        Ok(())
    }

    /// A line as `key` sees it.
    fn read_line(
        &self,
        number: u64,
        page: &Page,
        line: usize,
        key: u32,
    ) -> Result<[u8; LINE], MachineCheck> {
        let of_line = self.line_key(number, page, line);
        let mut bytes = [0; LINE];
        if of_line == POISON || of_line != key && key & PRIVATE != 0 {
            self.set_keys(number, page, line, 1, POISON);
            return Err(MachineCheck(Hpa::new(
                number * PAGE as u64 + (line * LINE) as u64,
            )));
        }
        if of_line == key || of_line & PRIVATE == 0 {
            page.read(line * LINE, &mut bytes);
            if of_line != key {
                add_noise(
                    &mut bytes,
                    u64::from(of_line) << 32 | u64::from(key),
                    number,
                );
            }
        }
        Ok(bytes)
    }

    fn write_page(
        &self,
        number: u64,
        page: &Page,
        hkid: Hkid,
        offset: usize,
        from: &[u8],
    ) -> Result<(), MachineCheck> {
        if self.is_stale(page, hkid) {
            return Ok(());
        }
        let key = self.key(number, hkid);
        if page.state().key.load(Relaxed) != key {
            // The line is read for ownership before the bytes are merged into it.
            for (line, _) in lines(offset, from.len()) {
                let bytes = self.read_line(number, page, line, key)?;
                put(page, line * LINE, &bytes);
                self.set_keys(number, page, line, 1, key);
            }
        }
        outside_seam(page, key);
        put(page, offset, from);
        self.mark_dirty(page, hkid, key);
        Ok(())
    }

    fn line_key(&self, number: u64, page: &Page, line: usize) -> u32 {
        match page.state().key.load(Relaxed) {
            MIXED => lock(&self.mixed)
                .get(&number)
                .map_or(POISON, |keys| keys[line]),
            key => key,
        }
    }

    fn set_keys(&self, number: u64, page: &Page, first: usize, count: usize, key: u32) {
        let state = page.state();
        let old = state.key.load(Relaxed);
        if old == key && old != MIXED {
            return;
        }
        if count == LINES && key != POISON {
            if old == MIXED {
                lock(&self.mixed).remove(&number);
            }
            state.key.store(key, Relaxed);
        } else {
            let mut mixed = lock(&self.mixed);
            let keys = mixed
                .entry(number)
                .or_insert_with(|| Box::new([old; LINES]));
            keys[first..first + count].fill(key);
            if keys.iter().all(|&k| k == key) && key != POISON {
                mixed.remove(&number);
                state.key.store(key, Relaxed);
            } else {
                state.key.store(MIXED, Relaxed);
            }
        }
        if state.handed_out.load(Relaxed) {
            self.revoked.fetch_add(1, SeqCst);
        }
    }
}

/// Software outside SEAM mode writes with a shared key, as far as is known yet.
fn outside_seam(page: &Page, key: u32) {
    if key & PRIVATE == 0 {
        page.state().seam_wrote.store(false, Relaxed);
    }
}

/// Writes bytes, unless they are zeros on a page that never held anything else: that costs the host no memory.
fn put(page: &Page, offset: usize, bytes: &[u8]) {
    let touched = &page.state().touched;
    if !touched.load(Relaxed) {
        if is_zero(bytes) {
            return;
        }
        page.back_ahead();
        touched.store(true, Relaxed);
    }
    page.write(offset, bytes);
}

/// Whether all bytes are zero. Many are looked at at once: this is most of what a sparse guest's memory costs.
fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<LINE>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) != 0;
    !lines.iter().any(|line| any(line)) && !any(rest)
}

/// What decryption with the wrong key gives: the same noise every time.
fn add_noise(bytes: &mut [u8; LINE], keys: u64, number: u64) {
    let mut state = keys ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte ^= (state >> 32) as u8;
    }
}
