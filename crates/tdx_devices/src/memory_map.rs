//! Where things lie in the guest's physical address space.

use std::ops::Range;

/// RAM ends here at the latest below 4 GiB; the rest of it goes on at 4 GiB.
pub const LOW_RAM_END: u64 = 0x8000_0000;
const FOUR_GIB: u64 = 1 << 32;

pub const IOAPIC: u64 = 0xFEC0_0000;
/// Where devices' memory BARs may go: below 4 GiB around the space that firmware gives to memory-mapped PCI
/// configuration, and far above RAM.
pub const PCI_LOW: [Range<u32>; 2] = [0x8000_0000..0xE000_0000, 0xF000_0000..0xFEC0_0000];
pub const PCI_HIGH: Range<u64> = 0x200_0000_0000..0x400_0000_0000;
/// Inputs of the I/O APIC for the interrupt pins of PCI devices.
pub const PCI_IRQS: Range<u8> = 16..24;
pub const COM1: u16 = 0x3F8;
pub const COM1_IRQ: u8 = 4;

/// The ranges of RAM of a guest with `size` bytes, ascending. The legacy hole of a PC is RAM too: kernels look for
/// ROMs there, and private memory that is no RAM would end the TD.
pub fn ram(size: u64) -> Vec<Range<u64>> {
    let low = size.min(LOW_RAM_END);
    let high = FOUR_GIB..FOUR_GIB + (size - low);
    [0..low, high]
        .into_iter()
        .filter(|range| !range.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_out_the_hole_below_4_gib() {
        assert_eq!(ram(1 << 30).len(), 1);
        let high = FOUR_GIB..FOUR_GIB + (1 << 30);
        assert_eq!(ram(3 << 30), [0..LOW_RAM_END, high]);
    }
}
