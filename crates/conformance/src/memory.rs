//! Memory of the recording machine: flat, zero at first, the same bytes under every key ID, ending at 8 GiB.

use std::collections::HashMap;

const PAGE: u64 = 4096;
/// Physical memory of the reference recordings ends here.
const END: u64 = 8 << 30;

enum Page {
    /// Every byte is this one.
    Filled(u8),
    Bytes(Box<[u8; PAGE as usize]>),
}

/// Holds only pages that were written. Beyond its end reads give all ones and writes vanish.
pub(crate) struct FlatMemory {
    pages: HashMap<u64, Page>,
    end: u64,
}

impl Default for FlatMemory {
    fn default() -> Self {
        FlatMemory::ending_at(END)
    }
}

/// The parts of `[address, address + len)` page by page: page number, offset in it, offset in the range, length.
fn parts(address: u64, len: u64) -> impl Iterator<Item = (u64, usize, u64, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address.checked_add(done).filter(|_| done < len)?;
        let size = (PAGE - at % PAGE).min(len - done);
        let part = (at / PAGE, (at % PAGE) as usize, done, size as usize);
        done += size;
        Some(part)
    })
}

impl FlatMemory {
    pub(crate) fn ending_at(end: u64) -> FlatMemory {
        FlatMemory {
            pages: HashMap::new(),
            end,
        }
    }

    pub(crate) fn read(&self, from: u64, to: &mut [u8]) {
        for (page, offset, start, len) in parts(from, to.len() as u64) {
            let to = &mut to[start as usize..][..len];
            match self.pages.get(&page) {
                _ if page >= self.end / PAGE => to.fill(0xFF),
                None => to.fill(0),
                Some(Page::Filled(byte)) => to.fill(*byte),
                Some(Page::Bytes(bytes)) => to.copy_from_slice(&bytes[offset..][..len]),
            }
        }
    }

    pub(crate) fn write(&mut self, to: u64, from: &[u8]) {
        for (page, offset, start, len) in parts(to, from.len() as u64) {
            if page < self.end / PAGE {
                self.page(page)[offset..][..len].copy_from_slice(&from[start as usize..][..len]);
            }
        }
    }

    pub(crate) fn fill(&mut self, to: u64, len: u64, byte: u8) {
        for (page, offset, _, len) in parts(to, len.min(self.end.saturating_sub(to))) {
            match (len as u64, byte) {
                (PAGE, 0) => drop(self.pages.remove(&page)),
                (PAGE, _) => drop(self.pages.insert(page, Page::Filled(byte))),
                _ => self.page(page)[offset..][..len].fill(byte),
            }
        }
    }

    fn page(&mut self, page: u64) -> &mut [u8; PAGE as usize] {
        let page = self.pages.entry(page).or_insert(Page::Filled(0));
        if let Page::Filled(byte) = *page {
            *page = Page::Bytes(Box::new([byte; PAGE as usize]));
        }
        match page {
            Page::Bytes(bytes) => bytes,
            Page::Filled(_) => unreachable!("just turned into bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_ends_at_8_gib_and_is_sparse() {
        let mut memory = FlatMemory::default();
        memory.fill(0x1000, END, 0xAB);
        memory.write(END - 2, &[1, 2, 3, 4]);
        memory.fill(0x2000, 0x1001, 0);
        let mut bytes = [0; 4];
        memory.read(END - 2, &mut bytes);
        assert_eq!(bytes, [1, 2, 0xFF, 0xFF]);
        memory.read(0x2FFF, &mut bytes);
        assert_eq!(bytes, [0, 0, 0xAB, 0xAB]);
        memory.read(u64::MAX - 1, &mut bytes[..2]);
        assert_eq!(bytes[..2], [0xFF, 0xFF]);
    }
}
