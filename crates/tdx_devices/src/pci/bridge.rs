//! The two functions of a Q35 chipset that firmware and kernels look for: the host bridge (MCH, device 0) and the
//! LPC bridge (ICH9, device 0x1F).
//!
//! Firmware finds the chipset by the host bridge's device id, programs PCIEXBAR there and the ACPI block's I/O
//! address in the LPC bridge (Intel 3 Series Express Chipset datasheet, 5.1; ICH9 datasheet, 13.1).

use super::config::{ConfigSpace, Identity};

/// PCIEXBAR in the host bridge: bit 0 enables, bits 2:1 are the size (256, 128, 64 MiB), then the address.
const PCIEXBAR: usize = 0x60;
/// PMBASE, ACPI_CNTL and the interrupt routing registers in the LPC bridge.
const PMBASE: usize = 0x40;
const ACPI_CNTL: usize = 0x44;
const PIRQ_A_TO_D: usize = 0x60;
const PIRQ_E_TO_H: usize = 0x68;
const RCBA: usize = 0xF0;
/// PCICMD.
const COMMAND: usize = 0x04;
/// PIRQn_ROUT after reset: not routed.
const NOT_ROUTED: u8 = 0x80;

const INTEL: u16 = 0x8086;
/// As QEMU's machines of this chipset have them.
const SUBSYSTEM_VENDOR: u16 = 0x1AF4;
const SUBSYSTEM: u16 = 0x1100;

/// The host bridge. Its PCIEXBAR comes up off, as after reset.
pub fn host_bridge() -> ConfigSpace {
    let mut space = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x29C0,
        revision: 0,
        class: 0x06_0000,
        subsystem_vendor: SUBSYSTEM_VENDOR,
        subsystem: SUBSYSTEM,
    });
    // The address has 36 bits in the datasheet; software that writes more of them reads them back.
    space.allow(PCIEXBAR, &0x0000_FFFF_F000_0007_u64.to_le_bytes());
    space
}

/// Where the memory-mapped configuration space lies and how long it is, if it is on.
pub fn ecam(bridge: &ConfigSpace) -> Option<(u64, u64)> {
    let low = bridge.read(PCIEXBAR, 4);
    let word = u64::from(low) | u64::from(bridge.read(PCIEXBAR + 4, 4)) << 32;
    let size = match low >> 1 & 3 {
        0 => 256 << 20,
        1 => 128 << 20,
        2 => 64 << 20,
        _ => return None,
    };
    (low & 1 != 0).then_some((word & !0xFFF_FFFF, size))
}

/// The LPC bridge: registers that firmware writes and reads back.
pub fn lpc_bridge() -> ConfigSpace {
    let mut space = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x2918,
        revision: 2,
        class: 0x06_0100,
        subsystem_vendor: SUBSYSTEM_VENDOR,
        subsystem: SUBSYSTEM,
    });
    // Decodes I/O and memory and is a bus master, always: firmware starts the serial port behind it only if it
    // decodes I/O.
    space.set(COMMAND, &[0b111]);
    space.allow(COMMAND, &[0, 0]);
    // Bit 0 says that it is an I/O address.
    space.set(PMBASE, &[1]);
    space.allow(PMBASE, &[0x80, 0xFF]);
    space.allow(ACPI_CNTL, &[0x87]);
    for pirq in [PIRQ_A_TO_D, PIRQ_E_TO_H] {
        space.set(pirq, &[NOT_ROUTED; 4]);
        space.allow(pirq, &[0x8F; 4]);
    }
    space.allow(RCBA, &0xFFFF_C001_u32.to_le_bytes());
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_mapped_window_follows_pciexbar() {
        let mut bridge = host_bridge();
        assert_eq!(bridge.read(0, 4), 0x29C0_8086);
        assert_eq!(ecam(&bridge), None);
        bridge.write(PCIEXBAR + 4, 4, 0);
        bridge.write(PCIEXBAR, 4, 0xB000_0001);
        assert_eq!(ecam(&bridge), Some((0xB000_0000, 256 << 20)));
        bridge.write(PCIEXBAR, 4, 0xB000_0000 | 2 << 1 | 1);
        assert_eq!(ecam(&bridge), Some((0xB000_0000, 64 << 20)));
        bridge.write(PCIEXBAR, 4, 0xB000_0000 | 3 << 1 | 1);
        assert_eq!(ecam(&bridge), None);
    }

    #[test]
    fn the_lpc_bridge_decodes_io_whatever_is_written() {
        let mut bridge = lpc_bridge();
        bridge.write(COMMAND, 2, 0);
        assert_eq!(bridge.read(COMMAND, 2), 7);
    }

    #[test]
    fn firmware_reads_back_the_acpi_block_that_it_placed() {
        let mut bridge = lpc_bridge();
        bridge.write(PMBASE, 4, 0x600);
        assert_eq!(bridge.read(PMBASE, 4), 0x601);
        bridge.write(ACPI_CNTL, 1, 0x80);
        assert_eq!(bridge.read(ACPI_CNTL, 1), 0x80);
    }
}
