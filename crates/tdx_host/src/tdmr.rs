//! Which memory becomes TDX memory: TDMRs, their PAMTs and their reserved areas.

use std::ops::Range;

use x86_arch::PAGE_SIZE;

use crate::{HostError, ModuleInfo, PageAllocator};

/// TDMRs start and end at 1 GiB.
const GIB: u64 = 1 << 30;
/// Bytes of TDMR_INFO; Linux keeps entries 512 bytes apart, and the module asks for that alignment.
pub(crate) const TDMR_INFO_SIZE: usize = 512;
/// Reserved areas that TDMR_INFO has room for.
const RESERVED_SLOTS: usize = 16;

/// One TDX memory region and what it is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tdmr {
    pub range: Range<u64>,
    /// PAMT areas for 1 GiB, 2 MiB and 4 KiB pages.
    pub pamt: [Range<u64>; 3],
    /// Absolute addresses, ascending, inside `range`: holes between CMRs, and PAMTs.
    pub reserved: Vec<Range<u64>>,
}

impl Tdmr {
    /// TDMR_INFO as TDH.SYS.CONFIG reads it.
    pub fn to_bytes(&self) -> [u8; TDMR_INFO_SIZE] {
        let mut bytes = [0; TDMR_INFO_SIZE];
        let size = |range: &Range<u64>| range.end - range.start;
        let mut words = vec![self.range.start, size(&self.range)];
        for area in &self.pamt {
            words.extend([area.start, size(area)]);
        }
        for area in &self.reserved {
            words.extend([area.start - self.range.start, size(area)]);
        }
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The pages of the TDMR that may be given to TDs.
    fn usable(&self) -> Vec<Range<u64>> {
        subtract(vec![self.range.clone()], &self.reserved)
    }
}

/// One TDMR for each run of convertible memory, its PAMT taken from `pages`; what no TDMR covers leaves `pages`.
///
/// `cmrs` ascend and do not overlap. Runs that share a 1 GiB block become one TDMR.
pub fn plan_tdmrs(
    info: &ModuleInfo,
    cmrs: &[Range<u64>],
    memory: &[Range<u64>],
) -> Result<(Vec<Tdmr>, PageAllocator), HostError> {
    let convertible = intersect(cmrs, memory);
    let mut pages = PageAllocator::new(convertible.iter().cloned());
    let mut spans: Vec<Range<u64>> = Vec::new();
    for run in &convertible {
        let span = run.start & !(GIB - 1)..run.end.next_multiple_of(GIB);
        match spans.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => spans.push(span),
        }
    }
    let (slots, limit) = (
        usize::from(info.max_reserved_per_tdmr).min(RESERVED_SLOTS),
        usize::from(info.max_tdmrs),
    );
    if spans.is_empty() || spans.len() > limit {
        return Err(HostError::NoUsableMemory);
    }
    let mut tdmrs = Vec::with_capacity(spans.len());
    for span in spans {
        let sizes = pamt_sizes(info, span.end - span.start);
        let base = pages
            .take_block(sizes.iter().sum(), PAGE_SIZE)
            .map_err(|_| HostError::NoUsableMemory)?
            .raw();
        let [large, middle, small] = sizes;
        tdmrs.push(Tdmr {
            pamt: [
                base..base + large,
                base + large..base + large + middle,
                base + large + middle..base + large + middle + small,
            ],
            range: span,
            reserved: Vec::new(),
        });
    }
    let pamts: Vec<Range<u64>> = tdmrs
        .iter()
        .map(|tdmr| tdmr.pamt[0].start..tdmr.pamt[2].end)
        .collect();
    for tdmr in &mut tdmrs {
        let tdmr_cmrs = intersect(cmrs, std::slice::from_ref(&tdmr.range));
        let open = subtract(tdmr_cmrs, &pamts);
        tdmr.reserved = subtract(vec![tdmr.range.clone()], &open);
        if tdmr.reserved.len() > slots {
            return Err(HostError::NoUsableMemory);
        }
    }
    let usable: Vec<_> = tdmrs.iter().flat_map(Tdmr::usable).collect();
    let pages = PageAllocator::new(intersect(&convertible, &usable));
    Ok((tdmrs, pages))
}

/// Bytes of the 1 GiB, 2 MiB and 4 KiB tables, each rounded up to a page.
fn pamt_sizes(info: &ModuleInfo, tdmr_size: u64) -> [u64; 3] {
    let [small, middle, large] = info.pamt_entry_sizes;
    [(GIB, large), (2 << 20, middle), (PAGE_SIZE, small)]
        .map(|(page, entry)| (tdmr_size / page * u64::from(entry)).next_multiple_of(PAGE_SIZE))
}

/// Both lists ascend without overlap.
fn intersect(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    for x in a {
        for y in b {
            let both = x.start.max(y.start)..x.end.min(y.end);
            if both.start < both.end {
                out.push(both);
            }
        }
    }
    out.sort_by_key(|range| range.start);
    out
}

fn subtract(from: Vec<Range<u64>>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = from;
    for hole in holes {
        left = left
            .into_iter()
            .flat_map(|range| {
                [
                    range.start..range.end.min(hole.start),
                    range.start.max(hole.end)..range.end,
                ]
            })
            .filter(|range| range.start < range.end)
            .collect();
    }
    left.sort_by_key(|range| range.start);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ModuleInfo {
        ModuleInfo {
            max_tdmrs: 64,
            max_reserved_per_tdmr: 16,
            pamt_entry_sizes: [16; 3],
            ..Default::default()
        }
    }

    #[test]
    fn holes_and_pamts_are_reserved_and_never_given_out() {
        let cmrs = [0x10_0000..0x8000_0000, 0x1_0000_0000..0x1_8000_0000];
        let (tdmrs, mut pages) = plan_tdmrs(&info(), &cmrs, &cmrs).unwrap();
        assert_eq!(tdmrs.len(), 2);
        assert_eq!(tdmrs[0].range, 0..0x8000_0000);
        assert_eq!(tdmrs[0].reserved[0], 0..0x10_0000);
        let pamt: u64 = tdmrs.iter().map(|t| t.pamt[2].end - t.pamt[0].start).sum();
        // 2 GiB each: 2 entries, 1024 entries, 512 Ki entries of 16 bytes.
        assert_eq!(pamt, 2 * (4096 + 16384 + (8 << 20)));
        let memory = 0x8000_0000 - 0x10_0000 + 0x8000_0000;
        assert_eq!(pages.free_pages(), (memory - pamt) / 4096);
        while let Ok(page) = pages.take_large() {
            for tdmr in &tdmrs {
                for area in &tdmr.reserved {
                    assert!(page.raw() + (2 << 20) <= area.start || page.raw() >= area.end);
                }
            }
        }
    }

    #[test]
    fn memory_without_room_is_refused() {
        assert_eq!(
            plan_tdmrs(&info(), &[0x1000..0x8000], &[0..u64::MAX]).unwrap_err(),
            HostError::NoUsableMemory
        );
        assert_eq!(
            plan_tdmrs(&info(), &[], &[0..u64::MAX]).unwrap_err(),
            HostError::NoUsableMemory
        );
    }
}
