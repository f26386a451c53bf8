//! The devices of a TD, as the VMM serves them: through TDVMCALLs only, never through the TD's private memory.
//!
//! [`Board`] is the whole set; it implements `tdx_host::Services`. [`direct_boot`] lays out a Linux kernel for the
//! direct-boot firmware. What a Linux guest needs of its platform is in spec: linux.md 5.
#![forbid(unsafe_code)]

mod acpi;
mod acpi_loader;
mod apic;
mod board;
mod cmos;
mod cpuid;
pub mod direct_boot;
mod direct_boot_fuzz;
mod dma;
pub mod firmware;
mod fuzz;
mod fw_cfg;
mod fw_cfg_dma;
mod interrupt;
mod ioapic;
pub mod memory_map;
mod msr;
mod pci;
mod pit;
mod pm_timer;
mod power;
mod serial;
pub mod virtio;

pub use board::{Board, BoardConfig, Clock};
pub use direct_boot_fuzz::{fuzz_boot_files, small_bzimage};
pub use dma::{NotShared, SharedMemory};
pub use fuzz::fuzz_guest;
pub use fw_cfg_dma::fuzz_dma;
pub use interrupt::Interrupt;
pub use pci::SLOTS as PCI_SLOTS;
pub use power::Power;
