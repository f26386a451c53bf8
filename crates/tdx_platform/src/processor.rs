//! The platform that swtdx is by default: CPUID and MSRs of a processor with TDX, as the 1.5 module demands them.

use std::collections::BTreeMap;

use x86_engine::platform_cpu::{CPUID, MSRS};

/// Lowest bit of the package number in the x2APIC id, with `lps` processors in each package.
pub(crate) fn package_shift(lps: u32) -> u32 {
    lps.next_power_of_two().ilog2().max(2)
}

/// CPUID with a topology of `lps` processors, two threads a core, in each package.
pub(crate) fn cpuid(lps: u32) -> BTreeMap<(u32, Option<u32>), [u32; 4]> {
    let rows = CPUID
        .iter()
        .map(|&(leaf, subleaf, value)| ((leaf, subleaf), value));
    let mut rows: BTreeMap<_, _> = rows.collect();
    let shift = package_shift(lps);
    let ids = 1 << shift;
    let mut row = |leaf, subleaf, word: usize, mask: u32, value: u32| {
        if let Some(row) = rows.get_mut(&(leaf, subleaf)) {
            row[word] = (row[word] & !mask) | (value & mask);
        }
    };
    // Largest number of ids in a package; threads that share the L3 cache, less 1.
    row(1, None, 1, 0x00FF_0000, ids << 16);
    row(4, Some(3), 0, 0x03FF_C000, (ids - 1) << 14);
    row(0x1F, Some(1), 0, 0x1F, shift);
    row(0x1F, Some(1), 1, 0xFFFF, lps);
    rows
}

pub(crate) fn msrs() -> BTreeMap<u32, u64> {
    MSRS.iter().copied().collect()
}
