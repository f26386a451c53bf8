//! TDMRs as TDH.SYS.CONFIG takes them, and the pages they leave for TDs; how they are chosen is in `plan`.

use std::ops::Range;

use crate::plan::{PlanLimits, plan};
use crate::{HostError, ModuleInfo, PageAllocator};

/// TDMRs start and end at 1 GiB.
pub(crate) const GIB: u64 = 1 << 30;
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
    pub fn usable(&self) -> Vec<Range<u64>> {
        subtract(vec![self.range.clone()], &self.reserved)
    }
}

/// The TDMRs of [`plan`], and the pages of `memory` that they leave for TDs.
///
/// `cmrs` and `memory` ascend and do not overlap.
pub fn plan_tdmrs(
    info: &ModuleInfo,
    cmrs: &[Range<u64>],
    memory: &[Range<u64>],
) -> Result<(Vec<Tdmr>, PageAllocator), HostError> {
    let limits = PlanLimits {
        max_tdmrs: info.max_tdmrs.into(),
        max_reserved: usize::from(info.max_reserved_per_tdmr).min(RESERVED_SLOTS),
        pamt_entry_sizes: info.pamt_entry_sizes,
    };
    let plan = plan(&limits, cmrs, memory).map_err(|_| HostError::NoUsableMemory)?;
    let usable: Vec<_> = plan.tdmrs.iter().flat_map(Tdmr::usable).collect();
    let pages = PageAllocator::new(intersect(&plan.convertible, &usable));
    Ok((plan.tdmrs, pages))
}

/// Both lists ascend without overlap.
pub(crate) fn intersect(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
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

pub(crate) fn subtract(from: Vec<Range<u64>>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
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
