//! All devices of one TD together: what answers its TDVMCALLs.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use tdx_host::tdvmcall::{MsrFault, Services};
use x86_arch::Gpa;

use crate::apic::{self, Apic, Message};
use crate::cmos::{self, Cmos};
use crate::dma::SharedMemory;
use crate::firmware::FirmwareDevices;
use crate::ioapic::IoApic;
use crate::memory_map::{COM1, COM1_IRQ, IOAPIC, PCI_IRQS};
use crate::pci::{CONFIG_ADDRESS, CONFIG_DATA_END, PciBus};
use crate::pit::{self, Pit};
use crate::power::{self, Power};
use crate::serial::SerialPort;
use crate::{Interrupt, cpuid, msr, virtio};

/// The guest's TSC now.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a board is made of.
pub struct BoardConfig {
    pub vcpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Frequency of the guest's TSC.
    pub tsc_khz: u64,
    pub clock: Clock,
    /// Where the serial console's bytes go.
    pub console: Box<dyn Write + Send>,
    /// What firmware of a PC finds besides.
    pub firmware: Option<FirmwareDevices>,
    /// What is on the PCI bus, at most [`crate::PCI_SLOTS`] devices.
    pub devices: Vec<Box<dyn virtio::Device>>,
}

impl fmt::Debug for BoardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardConfig")
            .field("vcpus", &self.vcpus)
            .finish_non_exhaustive()
    }
}

/// The devices. Interrupts that they raise queue up until the run loop takes them.
pub struct Board {
    clock: Clock,
    tsc_khz: u64,
    apics: Vec<Apic>,
    ioapic: IoApic,
    serial: SerialPort,
    cmos: Cmos,
    pit: Pit,
    pci: PciBus,
    firmware: Option<FirmwareDevices>,
    power: Option<Power>,
    interrupts: VecDeque<Interrupt>,
    /// A timer was set since its owner last looked after them.
    timer_set: bool,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("apics", &self.apics)
            .field("ioapic", &self.ioapic)
            .field("power", &self.power)
            .finish_non_exhaustive()
    }
}

impl Board {
    pub fn new(config: BoardConfig) -> Board {
        Board {
            clock: config.clock,
            tsc_khz: config.tsc_khz,
            apics: (0..config.vcpus)
                .map(|id| Apic::new(id, config.tsc_khz))
                .collect(),
            ioapic: IoApic::default(),
            serial: SerialPort::new(config.console),
            cmos: Cmos::of_guest(config.memory),
            pit: Pit::new(config.tsc_khz),
            pci: PciBus::new(config.devices),
            firmware: config.firmware,
            power: None,
            interrupts: VecDeque::new(),
            timer_set: false,
        }
    }

    /// What the guest asked of the platform, if it did.
    pub fn power(&self) -> Option<Power> {
        self.power
    }

    /// The next interrupt that a device wants delivered.
    pub fn next_interrupt(&mut self) -> Option<Interrupt> {
        self.interrupts.pop_front()
    }

    /// When the earliest timer fires, in TSC ticks.
    pub fn next_deadline(&self) -> Option<u64> {
        self.apics.iter().filter_map(Apic::expiry).min()
    }

    /// When this vCPU's own timer fires next, in TSC ticks.
    pub fn deadline_of(&self, vcpu: u32) -> Option<u64> {
        self.apics.get(vcpu as usize).and_then(Apic::expiry)
    }

    /// Lets the devices do what they want guest memory for.
    pub fn serve_dma(&mut self, memory: &dyn SharedMemory) {
        if let Some(firmware) = &mut self.firmware {
            firmware.serve(memory);
        }
        if self.pci.wants_service() {
            self.pci.serve(memory);
            self.pci_interrupts();
        }
    }

    /// Lets every timer fire that is due by now.
    pub fn run_timers(&mut self) {
        self.timer_set = false;
        let now = (self.clock)();
        for (vcpu, apic) in (0..).zip(&mut self.apics) {
            if let Some(vector) = apic.fire(now) {
                self.interrupts
                    .push_back(Interrupt::Vector { vcpu, vector });
            }
        }
    }

    /// The PCI devices that their drivers brought to a stop: device number, kind and why.
    pub fn faults(&self) -> impl Iterator<Item = (u8, &'static str, virtio::Fault)> {
        self.pci.faults()
    }

    /// Bytes typed at the console: the virtio one once the guest has a driver for it. Gives how many were taken.
    pub fn type_bytes(&mut self, bytes: &[u8]) -> usize {
        if let Some(console) = self.pci.console() {
            return console.receive(bytes);
        }
        let taken = self.serial.receive(bytes);
        self.serial_interrupt();
        taken
    }

    /// Whether the guest waits for bytes typed at the console, and has taken all there were.
    pub fn listens(&self) -> bool {
        self.pci.listens().unwrap_or_else(|| self.serial.listens())
    }

    fn serial_interrupt(&mut self) {
        if self.serial.take_edge()
            && let Some(message) = self.ioapic.raise(COM1_IRQ)
        {
            self.send(message, 0);
        }
    }

    /// Sends what the devices on the bus want sent now.
    fn pci_interrupts(&mut self) {
        while let Some(message) = self.pci.next_message() {
            if let Some(message) = Message::from_msi(message) {
                self.send(message, 0);
            }
        }
        let inputs = PCI_IRQS.fold(0, |inputs, irq| inputs | 1 << irq);
        let levels = self.pci.asserted();
        for message in self.ioapic.drive(inputs, levels) {
            self.send(message, 0);
        }
    }

    fn send(&mut self, message: Message, from: u32) {
        let reached = (0..self.apics.len() as u32).filter(|index| message.reaches(*index, from));
        match message.delivery {
            // Fixed; lowest priority goes to the first that it reaches. Vectors below 16 are illegal.
            0 if message.vector >= 16 => {
                self.interrupts
                    .extend(reached.map(|vcpu| Interrupt::Vector {
                        vcpu,
                        vector: message.vector,
                    }))
            }
            1 if message.vector >= 16 => {
                self.interrupts
                    .extend(reached.take(1).map(|vcpu| Interrupt::Vector {
                        vcpu,
                        vector: message.vector,
                    }))
            }
            4 => self
                .interrupts
                .extend(reached.map(|vcpu| Interrupt::Nmi { vcpu })),
            // SMI, INIT and start-up mean nothing to a TD's vCPU.
            _ => {}
        }
    }
}

impl Services for Board {
    fn cpuid(&mut self, vcpu: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
        match leaf {
            0xB | 0x1F => cpuid::topology(subleaf, vcpu, self.apics.len() as u32),
            _ => cpuid::hypervisor(leaf),
        }
    }

    fn io_read(&mut self, _vcpu: u32, port: u16, size: u8) -> u32 {
        let now = (self.clock)();
        let firmware = self.firmware.as_mut();
        if let Some(value) = firmware.and_then(|devices| devices.read(port, size, now)) {
            return value;
        }
        match port {
            COM1..=0x3FF if size == 1 => {
                let value = self.serial.read((port - COM1) as u8);
                self.serial_interrupt();
                value.into()
            }
            cmos::DATA if size == 1 => {
                let seconds = now / (self.tsc_khz.max(1) * 1000);
                self.cmos.read(seconds).into()
            }
            pit::COUNTER | pit::CONTROL | pit::GATE if size == 1 => {
                let value = self.pit.read(port, now);
                value.map_or(u32::MAX, u32::from)
            }
            power::SLEEP_CONTROL..=power::RESET => 0,
            CONFIG_ADDRESS..=CONFIG_DATA_END => self.pci.io_read(port, size).unwrap_or(u32::MAX),
            _ => u32::MAX,
        }
    }

    fn io_write(&mut self, _vcpu: u32, port: u16, size: u8, value: u32) {
        if let Some(devices) = &mut self.firmware
            && devices.write(port, size, value)
        {
            self.power = self.power.or(devices.power());
            return;
        }
        match port {
            COM1..=0x3FF if size == 1 => {
                self.serial.write((port - COM1) as u8, value as u8);
                self.serial_interrupt();
            }
            cmos::INDEX if size == 1 => self.cmos.select(value as u8),
            cmos::DATA if size == 1 => self.cmos.write(value as u8),
            pit::COUNTER | pit::CONTROL | pit::GATE if size == 1 => {
                let now = (self.clock)();
                self.pit.write(port, value as u8, now);
            }
            CONFIG_ADDRESS..=CONFIG_DATA_END => {
                self.pci.io_write(port, size, value);
                self.pci_interrupts();
            }
            _ => self.power = self.power.or(power::request(port, value as u8)),
        }
    }

    fn read_msr(&mut self, vcpu: u32, msr: u32) -> Result<u64, MsrFault> {
        match self.apics.get(vcpu as usize) {
            Some(apic) if apic::is_apic_msr(msr) => apic.read(msr, (self.clock)()),
            _ => msr::read(msr, vcpu == 0),
        }
    }

    fn write_msr(&mut self, vcpu: u32, msr: u32, value: u64) -> Result<(), MsrFault> {
        match self.apics.get_mut(vcpu as usize) {
            Some(_) if msr == apic::ICR => {
                self.send(Message::from_icr(value), vcpu);
                Ok(())
            }
            Some(apic) if apic::is_apic_msr(msr) => {
                let before = apic.expiry();
                apic.write(msr, value, (self.clock)())?;
                // Who lets the vCPU run until the next deadline has to know a new one.
                self.timer_set |= apic.expiry().is_some() && apic.expiry() != before;
                Ok(())
            }
            _ => msr::write(msr),
        }
    }

    fn mmio_read(&mut self, _vcpu: u32, gpa: Gpa, size: u8) -> u64 {
        match gpa.raw().checked_sub(IOAPIC) {
            Some(offset @ 0..0x1000) if size == 4 => self.ioapic.read(offset).into(),
            _ => {
                let value = self.pci.mmio_read(gpa.raw(), size);
                self.pci_interrupts();
                value.unwrap_or(u64::MAX)
            }
        }
    }

    fn mmio_write(&mut self, _vcpu: u32, gpa: Gpa, size: u8, value: u64) {
        if let Some(offset @ 0..0x1000) = gpa.raw().checked_sub(IOAPIC)
            && size == 4
        {
            for message in self.ioapic.write(offset, value as u32) {
                self.send(message, 0);
            }
        } else {
            self.pci.mmio_write(gpa.raw(), size, value);
            self.pci_interrupts();
        }
    }

    fn wants_owner(&mut self) -> bool {
        let firmware = self.firmware.as_ref();
        self.power.is_some()
            || self.timer_set
            || !self.interrupts.is_empty()
            || self.pci.wants_service()
            || firmware.is_some_and(FirmwareDevices::transfer_waits)
    }

    fn event_pending(&mut self, _vcpu: u32) -> bool {
        !self.interrupts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn board(vcpus: u32) -> (Board, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(0));
        let tsc = Arc::clone(&now);
        let board = Board::new(BoardConfig {
            vcpus,
            memory: 1 << 30,
            tsc_khz: 2_500_000,
            clock: Arc::new(move || tsc.load(Ordering::Relaxed)),
            console: Box::new(std::io::sink()),
            firmware: None,
            devices: Vec::new(),
        });
        (board, now)
    }

    #[test]
    fn an_ipi_goes_to_the_vcpus_it_names() {
        let (mut board, _) = board(3);
        board
            .write_msr(0, apic::ICR, 3 << 18 | 0xFB)
            .expect("ICR is writable");
        let sent: Vec<_> = std::iter::from_fn(|| board.next_interrupt()).collect();
        assert_eq!(
            sent,
            [1, 2].map(|vcpu| Interrupt::Vector { vcpu, vector: 0xFB })
        );
        board
            .write_msr(0, apic::ICR, 2 << 32 | 4 << 8)
            .expect("ICR is writable");
        assert_eq!(board.next_interrupt(), Some(Interrupt::Nmi { vcpu: 2 }));
        board
            .write_msr(0, apic::ICR, 2 << 32 | 5 << 8)
            .expect("INIT is dropped");
        assert_eq!(board.next_interrupt(), None);
    }

    #[test]
    fn a_timer_is_due_when_the_clock_says_so() {
        let (mut board, now) = board(2);
        board.write_msr(1, 0x80F, 0x1FF).expect("SVR is writable");
        board
            .write_msr(1, 0x832, 2 << 17 | 0xEC)
            .expect("LVT is writable");
        board
            .write_msr(1, apic::TSC_DEADLINE, 500)
            .expect("the deadline is writable");
        assert_eq!(board.next_deadline(), Some(500));
        assert!(board.wants_owner(), "the deadline is news");
        board.run_timers();
        assert!(!board.wants_owner());
        assert_eq!(board.next_interrupt(), None);
        now.store(500, Ordering::Relaxed);
        board.run_timers();
        assert_eq!(
            board.next_interrupt(),
            Some(Interrupt::Vector {
                vcpu: 1,
                vector: 0xEC
            })
        );
        assert_eq!(board.next_deadline(), None);
    }

    #[test]
    fn typing_raises_the_serial_interrupt_through_the_io_apic() {
        let (mut board, _) = board(1);
        board.io_write(0, COM1 + 1, 1, 1);
        let gpa = Gpa::new(IOAPIC);
        board.mmio_write(0, gpa, 4, 0x10 + 2 * u64::from(COM1_IRQ));
        board.mmio_write(0, Gpa::new(IOAPIC + 0x10), 4, 0x24);
        assert_eq!(board.type_bytes(b"!"), 1);
        assert_eq!(
            board.next_interrupt(),
            Some(Interrupt::Vector {
                vcpu: 0,
                vector: 0x24
            })
        );
        assert_eq!(board.io_read(0, COM1, 1), u32::from(b'!'));
    }

    #[test]
    fn the_clock_follows_the_tsc() {
        let (mut board, now) = board(1);
        let mut read = |index| {
            board.io_write(0, cmos::INDEX, 1, index);
            board.io_read(0, cmos::DATA, 1)
        };
        // 2026-01-01 00:00:00, no update in progress.
        assert_eq!([9, 8, 7, 4, 2, 0].map(&mut read), [0x26, 1, 1, 0, 0, 0]);
        assert_eq!(read(0xA) & 0x80, 0);
        now.store(59 * 2_500_000_000, Ordering::Relaxed);
        assert_eq!([2, 0].map(read), [0, 0x59]);
    }

    #[test]
    fn an_empty_bus_reads_all_ones_and_power_off_is_remembered() {
        let (mut board, _) = board(1);
        assert_eq!(board.io_read(0, 0x40, 1), u32::MAX);
        assert_eq!(board.mmio_read(0, Gpa::new(0xFED0_0000), 4), u64::MAX);
        assert_eq!(board.power(), None);
        board.io_write(0, power::SLEEP_CONTROL, 1, 0x34);
        assert_eq!(board.power(), Some(Power::Off));
    }
}
