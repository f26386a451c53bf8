//! TDMR_INFO: what the host gives to TDH.SYS.CONFIG, and its checks (spec: host-platform.md 3.3).

use crate::pamt::PageUse;
use alloc::vec::Vec;
use core::ops::Range;
use tdx_abi::Status;
use x86_arch::Hpa;

/// Bytes of a TDMR_INFO entry.
pub const TDMR_INFO_SIZE: usize = 320;
const GIB: u64 = 1 << 30;

/// A configured TD memory region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tdmr {
    pub base: u64,
    pub size: u64,
    /// The reserved areas as physical ranges, ascending.
    pub reserved: Vec<Range<u64>>,
    /// PAMT ranges of 4K, 2M and 1G entries.
    pub pamt: [Range<u64>; 3],
}

impl Tdmr {
    pub fn end(&self) -> u64 {
        self.base + self.size
    }
    /// Whether any byte of the range is reserved.
    pub fn any_reserved(&self, start: u64, size: u64) -> bool {
        self.reserved
            .iter()
            .any(|area| start < area.end && area.start < start + size)
    }
    /// The use that TDMR.INIT gives to a 4 KiB page.
    pub fn initial_use(&self, page: Hpa) -> PageUse {
        match self.any_reserved(page.raw(), 4096) {
            true => PageUse::Reserved,
            false => PageUse::Free,
        }
    }
    /// The parts that are not reserved, ascending.
    fn usable(&self) -> impl Iterator<Item = Range<u64>> {
        let starts = core::iter::once(self.base).chain(self.reserved.iter().map(|r| r.end));
        let ends = self
            .reserved
            .iter()
            .map(|r| r.start)
            .chain(core::iter::once(self.end()));
        starts
            .zip(ends)
            .map(|(start, end)| start..end)
            .filter(|r| r.start < r.end)
    }
}

/// What an address of the platform may be.
#[derive(Clone, Copy, Debug)]
pub struct AddressLimits {
    /// Bits of a physical address that carry the key ID.
    pub hkid_mask: u64,
}

impl AddressLimits {
    /// First and last byte of a range lie below 2^52 and carry no key ID.
    fn holds(self, base: u64, size: u64) -> bool {
        let last = base.wrapping_add(size).wrapping_sub(1);
        [base, last]
            .into_iter()
            .all(|a| a < 1 << 52 && a & self.hkid_mask == 0)
    }
}

fn details(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

/// Checks entry `i` against the rules and against the entries before it, in the module's order.
pub fn check(
    i: u8,
    raw: &[u8; TDMR_INFO_SIZE],
    before: &[Tdmr],
    cmrs: &[Range<u64>],
    limits: AddressLimits,
) -> Result<Tdmr, Status> {
    let word = |n: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&raw[n * 8..n * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    let (base, size) = (word(0), word(1));
    let invalid = Status::INVALID_TDMR.with_details(details([i, 0, 0, 0]));
    let end = base.checked_add(size).ok_or(invalid)?;
    if let Some(previous) = before.last()
        && (base < previous.base || base < previous.end())
    {
        return Err(Status::NON_ORDERED_TDMR.with_details(details([i, 0, 0, 0])));
    }
    if !base.is_multiple_of(GIB) || !size.is_multiple_of(GIB) || size == 0 {
        return Err(invalid);
    }
    if !limits.holds(base, size) {
        return Err(invalid);
    }
    let reserved = reserved_areas(i, base, end, |j| (word(8 + 2 * j), word(9 + 2 * j)))?;
    let mut tdmr = Tdmr {
        base,
        size,
        reserved,
        pamt: [0..0, 0..0, 0..0],
    };
    for (level, at) in [(2u8, 2), (1, 4), (0, 6)] {
        tdmr.pamt[level as usize] = pamt_range(i, level, size, word(at), word(at + 1), limits)?;
    }
    check_overlaps(i, &tdmr, before)?;
    let cmrs = merged(cmrs);
    let in_cmr = |r: &Range<u64>| cmrs.iter().any(|c| c.start <= r.start && r.end <= c.end);
    for level in [2u8, 1, 0] {
        if !in_cmr(&tdmr.pamt[level as usize]) {
            return Err(Status::PAMT_OUTSIDE_CMRS.with_details(details([i, level, 0, 0])));
        }
    }
    if !tdmr.usable().all(|part| in_cmr(&part)) {
        return Err(Status::TDMR_OUTSIDE_CMRS.with_details(details([i, 0, 0, 0])));
    }
    Ok(tdmr)
}

fn reserved_areas(
    i: u8,
    base: u64,
    end: u64,
    area: impl Fn(usize) -> (u64, u64),
) -> Result<Vec<Range<u64>>, Status> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let (mut last_offset, mut last_end) = (0, 0);
    for j in 0..16 {
        let non_ordered =
            Status::NON_ORDERED_RESERVED_IN_TDMR.with_details(details([i, j as u8, 0, 0]));
        let invalid = Status::INVALID_RESERVED_IN_TDMR.with_details(details([i, j as u8, 0, 0]));
        let (offset, size) = area(j);
        if size == 0 {
            if j < 15 && area(j + 1).1 != 0 {
                return Err(non_ordered);
            }
            continue;
        }
        let area_end = offset.checked_add(size).ok_or(invalid)?;
        if offset < last_offset || offset < last_end {
            return Err(non_ordered);
        }
        if !offset.is_multiple_of(4096) || !size.is_multiple_of(4096) {
            return Err(invalid);
        }
        let start = base.checked_add(offset).ok_or(invalid)?;
        let stop = start.checked_add(size).ok_or(invalid)?;
        if stop > end {
            return Err(invalid);
        }
        (last_offset, last_end) = (offset, area_end);
        found.push(start..stop);
    }
    Ok(found)
}

fn pamt_range(
    i: u8,
    level: u8,
    tdmr_size: u64,
    base: u64,
    size: u64,
    limits: AddressLimits,
) -> Result<Range<u64>, Status> {
    let invalid = Status::INVALID_PAMT.with_details(details([i, level, 0, 0]));
    let end = base.checked_add(size).ok_or(invalid)?;
    let needed = (tdmr_size >> (12 + 9 * level as u32)) * 16;
    if !base.is_multiple_of(4096)
        || !size.is_multiple_of(4096)
        || !limits.holds(base, size)
        || size < needed
    {
        return Err(invalid);
    }
    Ok(base..end)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn check_overlaps(i: u8, tdmr: &Tdmr, before: &[Tdmr]) -> Result<(), Status> {
    let error = |a: u8, level: usize, b: u8| {
        Status::PAMT_OVERLAP.with_details(details([a, level as u8, b, 0]))
    };
    for (j, other) in before.iter().enumerate() {
        for level in 0..3 {
            if other.pamt.iter().any(|p| overlap(&tdmr.pamt[level], p)) {
                return Err(error(i, level, j as u8));
            }
        }
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        if overlap(&tdmr.pamt[a], &tdmr.pamt[b]) {
            return Err(error(i, a, i));
        }
    }
    let hits = |pamt: &Range<u64>, region: &Tdmr| region.usable().any(|part| overlap(pamt, &part));
    for j in 0..=before.len() {
        let other = before.get(j).unwrap_or(tdmr);
        for level in 0..3 {
            if hits(&tdmr.pamt[level], other) {
                return Err(error(i, level, j as u8));
            }
        }
        if j < before.len() {
            for level in 0..3 {
                if hits(&other.pamt[level], tdmr) {
                    return Err(error(j as u8, level, i));
                }
            }
        }
    }
    Ok(())
}

/// The memory ranges with touching neighbours joined.
fn merged(cmrs: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for cmr in cmrs.iter().filter(|c| c.start < c.end) {
        match joined.last_mut() {
            Some(last) if last.end == cmr.start => last.end = cmr.end,
            _ => joined.push(cmr.clone()),
        }
    }
    joined
}
