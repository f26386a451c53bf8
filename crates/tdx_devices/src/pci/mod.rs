//! PCI bus 0: which functions there are, and the two ways to their configuration space: ports 0xCF8 and 0xCFC
//! (PCI Local Bus 3.0, 3.2.2.3.2) and memory (ECAM, PCI Express Base 5.0, 7.2.2).

mod bridge;
mod config;

use std::collections::BTreeMap;

pub use config::{ConfigSpace, Identity};

use crate::dma::SharedMemory;
use crate::memory_map::PCI_IRQS;
use crate::virtio::msix::Msi;
use crate::virtio::{self, Fault, Transport};

/// The address port, 32 bits wide, and the four data ports.
pub const CONFIG_ADDRESS: u16 = 0xCF8;
pub const CONFIG_DATA: u16 = 0xCFC;
pub const CONFIG_DATA_END: u16 = CONFIG_DATA + 3;
const ENABLE: u32 = 1 << 31;

/// Device and function number, as bits 15:8 of the address port.
const HOST_BRIDGE: u8 = 0;
const LPC_BRIDGE: u8 = 0x1F << 3;
/// Devices that find a place between the two bridges.
pub const SLOTS: usize = 30;

/// Bus 0, the only one.
#[derive(Debug)]
pub struct PciBus {
    address: u32,
    host_bridge: ConfigSpace,
    lpc_bridge: ConfigSpace,
    /// By device and function number.
    devices: BTreeMap<u8, Transport>,
}

/// The I/O APIC's input of a device's INTA: the pins of devices share the inputs in turn.
pub fn irq_of(device: u8) -> u8 {
    PCI_IRQS.start + device % PCI_IRQS.len() as u8
}

impl PciBus {
    /// A bus with its chipset, and devices from device number 1 on.
    pub fn new(devices: Vec<Box<dyn virtio::Device>>) -> PciBus {
        PciBus {
            address: 0,
            host_bridge: bridge::host_bridge(),
            lpc_bridge: bridge::lpc_bridge(),
            devices: (1..=SLOTS as u8)
                .map(|device| device << 3)
                .zip(devices.into_iter().map(Transport::new))
                .collect(),
        }
    }

    /// A read of one of the ports, `None` for any other.
    pub fn io_read(&mut self, port: u16, size: u8) -> Option<u32> {
        match port {
            CONFIG_ADDRESS if size == 4 => Some(self.address),
            CONFIG_DATA..=CONFIG_DATA_END => {
                let (function, offset) = self.selected(port)?;
                Some(self.config_read(function, offset, size))
            }
            _ => None,
        }
    }

    pub fn io_write(&mut self, port: u16, size: u8, value: u32) {
        match port {
            CONFIG_ADDRESS if size == 4 => self.address = value,
            CONFIG_DATA..=CONFIG_DATA_END => {
                if let Some((function, offset)) = self.selected(port) {
                    self.config_write(function, offset, size, value);
                }
            }
            _ => {}
        }
    }

    /// A load, if the address is a device's or in the memory-mapped configuration space.
    pub fn mmio_read(&mut self, gpa: u64, size: u8) -> Option<u64> {
        if let Some((device, offset)) = self.device_at(gpa) {
            return Some(device.load(offset, size));
        }
        let (bus, function, offset) = self.ecam(gpa)?;
        let mut half = |offset| match bus {
            0 => self.config_read(function, offset, size.min(4)),
            _ => absent(size.min(4)),
        };
        let low = half(offset);
        let high = if size == 8 { half(offset + 4) } else { 0 };
        Some(u64::from(low) | u64::from(high) << 32)
    }

    /// A store; an address that is none of this bus's takes it and forgets it.
    pub fn mmio_write(&mut self, gpa: u64, size: u8, value: u64) {
        if let Some((device, offset)) = self.device_at(gpa) {
            device.store(offset, size, value);
        } else if let Some((0, function, offset)) = self.ecam(gpa) {
            self.config_write(function, offset, size.min(4), value as u32);
            if size == 8 {
                self.config_write(function, offset + 4, 4, (value >> 32) as u32);
            }
        }
    }

    /// The console whose driver runs, if there is one.
    pub fn console(&mut self) -> Option<&mut Transport> {
        self.devices
            .values_mut()
            .find(|device| device.is_live_console())
    }

    /// Whether the guest has taken all bytes that were typed at such a console.
    pub fn listens(&self) -> Option<bool> {
        self.devices.values().find_map(Transport::listens)
    }

    /// Whether a device waits for [`PciBus::serve`].
    pub fn wants_service(&self) -> bool {
        self.devices.values().any(Transport::wants_service)
    }

    /// Lets the devices serve their drivers' requests.
    pub fn serve(&mut self, memory: &dyn SharedMemory) {
        for device in self.devices.values_mut() {
            device.serve(memory);
        }
    }

    /// The next message-signalled interrupt.
    pub fn next_message(&mut self) -> Option<Msi> {
        self.devices.values_mut().find_map(Transport::next_message)
    }

    /// The I/O APIC's inputs that devices assert now, as bits.
    pub fn asserted(&mut self) -> u32 {
        let asserting = self.devices.iter_mut().filter_map(|(function, device)| {
            let irq = irq_of(function >> 3);
            device.intx().then_some(1 << irq)
        });
        asserting.fold(0, |all, irq: u32| all | irq)
    }

    /// The devices that their drivers brought to a stop: number, kind and why.
    pub fn faults(&self) -> impl Iterator<Item = (u8, &'static str, Fault)> {
        self.devices
            .iter()
            .filter_map(|(function, device)| Some((function >> 3, device.name(), device.fault()?)))
    }

    /// Function and register that the address port names, for an access to a data port.
    fn selected(&self, port: u16) -> Option<(u8, usize)> {
        let on_bus_0 = self.address & 0x00FF_0000 == 0;
        let offset = usize::from(self.address as u8 & 0xFC) + usize::from(port - CONFIG_DATA);
        (self.address & ENABLE != 0 && on_bus_0).then_some(((self.address >> 8) as u8, offset))
    }

    fn device_at(&mut self, gpa: u64) -> Option<(&mut Transport, u64)> {
        self.devices.values_mut().find_map(|device| {
            let offset = device.offset_of(gpa)?;
            Some((device, offset))
        })
    }

    /// Bus, function and register of an address in the memory-mapped space.
    fn ecam(&self, gpa: u64) -> Option<(u8, u8, usize)> {
        let (base, size) = bridge::ecam(&self.host_bridge)?;
        let offset = gpa.checked_sub(base).filter(|offset| *offset < size)?;
        Some((
            (offset >> 20) as u8,
            (offset >> 12) as u8,
            (offset & 0xFFF) as usize,
        ))
    }

    fn config_read(&mut self, function: u8, offset: usize, size: u8) -> u32 {
        match function {
            HOST_BRIDGE => self.host_bridge.read(offset, size),
            LPC_BRIDGE => self.lpc_bridge.read(offset, size),
            _ => match self.devices.get_mut(&function) {
                Some(device) => device.config_read(offset, size),
                None => absent(size),
            },
        }
    }

    fn config_write(&mut self, function: u8, offset: usize, size: u8, value: u32) {
        match function {
            HOST_BRIDGE => self.host_bridge.write(offset, size, value),
            LPC_BRIDGE => self.lpc_bridge.write(offset, size, value),
            _ => {
                if let Some(device) = self.devices.get_mut(&function) {
                    device.config_write(offset, size, value);
                }
            }
        }
    }
}

/// What a read of 1, 2 or 4 bytes gives that no function answers.
fn absent(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(bus: &mut PciBus, function: u8, register: u8) {
        let address = ENABLE | u32::from(function) << 8 | u32::from(register);
        bus.io_write(CONFIG_ADDRESS, 4, address);
    }

    #[test]
    fn the_chipset_is_found_through_the_ports() {
        let mut bus = PciBus::new(Vec::new());
        assert_eq!(bus.io_read(CONFIG_DATA, 4), None, "nothing is selected");
        select(&mut bus, HOST_BRIDGE, 0);
        assert_eq!(bus.io_read(CONFIG_ADDRESS, 4), Some(ENABLE));
        assert_eq!(bus.io_read(CONFIG_ADDRESS, 1), None);
        assert_eq!(bus.io_read(CONFIG_DATA, 4), Some(0x29C0_8086));
        assert_eq!(bus.io_read(CONFIG_DATA + 2, 2), Some(0x29C0));
        assert_eq!(bus.io_read(CONFIG_DATA + 3, 1), Some(0x29));
        select(&mut bus, LPC_BRIDGE, 8);
        assert_eq!(bus.io_read(CONFIG_DATA, 4), Some(0x0601_0002));
        select(&mut bus, 1 << 3, 0);
        assert_eq!(bus.io_read(CONFIG_DATA, 4), Some(u32::MAX));
        bus.io_write(CONFIG_ADDRESS, 4, ENABLE | 1 << 16);
        assert_eq!(bus.io_read(CONFIG_DATA, 4), None, "bus 1 does not exist");
    }

    #[test]
    fn memory_shows_the_same_registers_where_pciexbar_says() {
        const BASE: u64 = 0xE000_0000;
        let mut bus = PciBus::new(Vec::new());
        select(&mut bus, HOST_BRIDGE, 0x60);
        bus.io_write(CONFIG_DATA, 4, BASE as u32 | 1);
        assert_eq!(bus.mmio_read(BASE, 4), Some(0x29C0_8086));
        let lpc = BASE + (u64::from(LPC_BRIDGE) << 12);
        bus.mmio_write(lpc + 0x40, 4, 0xB080);
        select(&mut bus, LPC_BRIDGE, 0x40);
        assert_eq!(bus.io_read(CONFIG_DATA, 4), Some(0xB081));
        assert_eq!(bus.mmio_read(lpc + 0x40, 8), Some(0xB081));
        // Bus 1, an absent function, the extended space of a conventional function, and beyond the window.
        assert_eq!(bus.mmio_read(BASE + (1 << 20), 2), Some(0xFFFF));
        assert_eq!(bus.mmio_read(BASE + (8 << 12), 1), Some(0xFF));
        assert_eq!(bus.mmio_read(BASE + 0x100, 4), Some(0xFFFF_FFFF));
        assert_eq!(bus.mmio_read(BASE + 0x1000_0000, 4), None);
        assert_eq!(bus.mmio_read(BASE - 4, 4), None);
        // Firmware moves the window.
        bus.mmio_write(BASE + 0x60, 8, 0xB000_0001);
        assert_eq!(bus.mmio_read(BASE, 4), None);
        assert_eq!(bus.mmio_read(0xB000_0000, 4), Some(0x29C0_8086));
    }
}
