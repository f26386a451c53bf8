//! The ACPI power-management timer (ACPI 6.5, 4.8.3.3): counts at 3.579545 MHz, 24 bits.

/// I/O port, 32 bits wide: PMBASE of the chipset, as EDK II places it, and 8.
pub const PORT: u16 = 0x608;
/// Hz.
const FREQUENCY: u128 = 3_579_545;

/// The count when the guest's TSC is at `tsc`.
pub fn count(tsc: u64, tsc_khz: u64) -> u32 {
    let ticks = u128::from(tsc) * FREQUENCY / (u128::from(tsc_khz.max(1)) * 1000);
    (ticks & 0xFF_FFFF) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_at_its_frequency_and_wraps_at_24_bits() {
        let khz = 1_000_000;
        assert_eq!(count(1_000_000_000, khz), 3_579_545);
        let wrap = (1u64 << 24) * 1_000_000_000 / 3_579_545;
        assert_eq!(count(wrap, khz), (1 << 24) - 1);
        assert_eq!(count(wrap + 1000, khz), 3);
        assert!(count(u64::MAX, 1) < 1 << 24);
    }
}
