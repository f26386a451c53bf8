//! The devices that a TD reaches by TDVMCALL: a serial port, the VMM's half of the local APICs, a clock, power.
//!
//! [`Board`] is the whole of it as [`tdx_host::Services`]. Time is the guest's TSC, which the caller supplies, so that
//! the same guest sees the same times in every run. Interrupts leave through [`Interrupts`]: the caller posts them.
//!
//! Not here: PCI, virtio, an I/O APIC (the serial port has no interrupt line; drivers poll it).
#![forbid(unsafe_code)]

mod apic;
mod board;
mod cpuid;
mod msr;
mod power;
mod rtc;
mod serial;

pub use apic::LocalApic;
pub use board::{Board, BoardConfig};
pub use power::Power;
pub use serial::ConsoleInput;

/// Where a device's interrupts go.
pub trait Interrupts {
    /// Posts a vector to a vCPU.
    fn post(&mut self, vcpu: u32, vector: u8);
    /// Asks for an NMI on a vCPU.
    fn nmi(&mut self, vcpu: u32);
}
