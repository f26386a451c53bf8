//! Which physical pages the host may give to TDs.

use std::collections::BTreeMap;
use std::ops::Range;

use x86_arch::{Hpa, PAGE_SIZE};

use crate::HostError;

/// Bytes of a 2 MiB page.
pub(crate) const LARGE_PAGE: u64 = 2 << 20;

/// Free physical memory as disjoint ranges of 4 KiB pages.
///
/// Small pages come from the low end and 2 MiB pages from the high end, so that neither breaks up the other's
/// memory, and so that a TDR never shares its 2 MiB block with a large page (PAGE.AUG would find it busy).
#[derive(Clone, Debug, Default)]
pub struct PageAllocator {
    /// Start to end, never touching.
    free: BTreeMap<u64, u64>,
    pages: u64,
}

impl PageAllocator {
    /// All whole pages of these ranges, which must not overlap, less page 0.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut all = Self::default();
        for range in ranges {
            let start = range.start.max(PAGE_SIZE).next_multiple_of(PAGE_SIZE);
            let end = range.end & !(PAGE_SIZE - 1);
            if start < end {
                all.insert(start, end);
            }
        }
        all
    }

    /// How many 4 KiB pages are free.
    pub fn free_pages(&self) -> u64 {
        self.pages
    }

    /// A 4 KiB page.
    pub fn take(&mut self) -> Result<Hpa, HostError> {
        let (start, end) = self.free.pop_first().ok_or(HostError::OutOfPages)?;
        self.pages -= 1;
        if start + PAGE_SIZE < end {
            self.free.insert(start + PAGE_SIZE, end);
        }
        Ok(Hpa::new(start))
    }

    /// 512 pages in one aligned block.
    pub fn take_large(&mut self) -> Result<Hpa, HostError> {
        self.take_block(LARGE_PAGE, LARGE_PAGE)
    }

    /// The highest aligned block of `size` bytes.
    pub fn take_block(&mut self, size: u64, align: u64) -> Result<Hpa, HostError> {
        let found = self.free.iter().rev().find_map(|(&start, &end)| {
            let block = end.checked_sub(size)? & !(align - 1);
            (block >= start).then_some((start, end, block))
        });
        let (start, end, block) = found.ok_or(HostError::OutOfPages)?;
        self.free.remove(&start);
        if start < block {
            self.free.insert(start, block);
        }
        if block + size < end {
            self.free.insert(block + size, end);
        }
        self.pages -= size / PAGE_SIZE;
        Ok(Hpa::new(block))
    }

    /// Gives back a 4 KiB page.
    pub fn give_back(&mut self, page: Hpa) {
        self.insert(page.raw(), page.raw() + PAGE_SIZE);
    }

    /// Gives back a 2 MiB page.
    pub fn give_back_large(&mut self, page: Hpa) {
        self.insert(page.raw(), page.raw() + LARGE_PAGE);
    }

    fn insert(&mut self, mut start: u64, mut end: u64) {
        self.pages += (end - start) / PAGE_SIZE;
        if let Some((&before, &before_end)) = self.free.range(..=start).next_back() {
            assert!(before_end <= start, "page {start:#x} was free already");
            if before_end == start {
                self.free.remove(&before);
                start = before;
            }
        }
        if let Some((&after, &after_end)) = self.free.range(start..).next() {
            assert!(end <= after, "page {after:#x} was free already");
            if after == end {
                self.free.remove(&after);
                end = after_end;
            }
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_as_it_was() {
        let mut pages = PageAllocator::new([0..0x3000, LARGE_PAGE..3 * LARGE_PAGE]);
        assert_eq!(pages.free_pages(), 2 + 1024);
        let small = pages.take().unwrap();
        assert_eq!(small, Hpa::new(0x1000), "page 0 is never given out");
        let large = pages.take_large().unwrap();
        assert_eq!(large, Hpa::new(2 * LARGE_PAGE));
        let other = pages.take_large().unwrap();
        assert_eq!(pages.take_large(), Err(HostError::OutOfPages));
        let last = pages.take().unwrap();
        assert_eq!(pages.take(), Err(HostError::OutOfPages));
        assert_eq!(pages.free_pages(), 0);
        for page in [small, last] {
            pages.give_back(page);
        }
        for page in [large, other] {
            pages.give_back_large(page);
        }
        assert_eq!(pages.free_pages(), 2 + 1024);
        assert_eq!(pages.free.len(), 2, "neighbours join");
    }

    #[test]
    #[should_panic(expected = "free already")]
    fn a_page_given_back_twice_is_caught() {
        let mut pages = PageAllocator::new([0x1000..0x3000]);
        let page = pages.take().unwrap();
        pages.give_back(page);
        pages.give_back(page);
    }
}
