//! All devices of a TD behind one [`Services`].

use std::io::Write;

use tdx_host::Services;
use tdx_host::tdvmcall::MsrFault;

use crate::apic::{LocalApic, reg};
use crate::msr::Msrs;
use crate::power::{self, Power};
use crate::rtc::{self, Rtc};
use crate::serial::{self, ConsoleInput, Uart};
use crate::{Interrupts, cpuid};

/// What a board is made of.
pub struct BoardConfig<'a> {
    pub vcpus: u32,
    /// The guest's TSC frequency.
    pub tsc_khz: u32,
    /// The guest's TSC now.
    pub now: Box<dyn Fn() -> u64 + 'a>,
    /// Where the serial port writes.
    pub console: Box<dyn Write + 'a>,
    pub input: ConsoleInput,
    pub interrupts: Box<dyn Interrupts + 'a>,
}

/// The machine around the vCPUs of a TD.
pub struct Board<'a> {
    tsc_khz: u32,
    now: Box<dyn Fn() -> u64 + 'a>,
    interrupts: Box<dyn Interrupts + 'a>,
    uart: Uart<Box<dyn Write + 'a>>,
    rtc: Rtc,
    apics: Vec<LocalApic>,
    msrs: Vec<Msrs>,
    power: Option<Power>,
    unknown_ports: u64,
}

impl<'a> Board<'a> {
    pub fn new(config: BoardConfig<'a>) -> Self {
        let BoardConfig {
            vcpus,
            tsc_khz,
            now,
            console,
            input,
            interrupts,
        } = config;
        Self {
            tsc_khz,
            now,
            interrupts,
            uart: Uart::new(console, input),
            rtc: Rtc::default(),
            apics: (0..vcpus).map(|id| LocalApic::new(id, tsc_khz)).collect(),
            msrs: (0..vcpus).map(Msrs::new).collect(),
            power: None,
            unknown_ports: 0,
        }
    }

    /// What the guest asked of the machine, if it did.
    pub fn power(&self) -> Option<Power> {
        self.power
    }

    /// When the next timer fires, in guest TSC ticks.
    pub fn next_deadline(&self) -> Option<u64> {
        self.apics.iter().filter_map(LocalApic::deadline).min()
    }

    /// Posts the interrupts of all timers that are due.
    pub fn fire_timers(&mut self) {
        let now = (self.now)();
        for apic in &mut self.apics {
            apic.fire(now, &mut *self.interrupts);
        }
    }

    /// Accesses to ports where nothing is.
    pub fn unknown_ports(&self) -> u64 {
        self.unknown_ports
    }

    fn apic(&mut self, vcpu: u32) -> Result<&mut LocalApic, MsrFault> {
        self.apics.get_mut(vcpu as usize).ok_or(MsrFault)
    }
}

impl Services for Board<'_> {
    fn cpuid(&mut self, _vcpu: u32, leaf: u32, _subleaf: u32) -> [u32; 4] {
        cpuid::leaf(leaf)
    }

    fn io_read(&mut self, _vcpu: u32, port: u16, _size: u8) -> u32 {
        match port {
            serial::BASE..=serial::LAST => self.uart.read(port - serial::BASE).into(),
            rtc::DATA => {
                let seconds = (self.now)() / (u64::from(self.tsc_khz) * 1000);
                self.rtc.read(seconds).into()
            }
            power::SLEEP_STATUS => 0,
            _ => {
                self.unknown_ports += 1;
                u32::MAX
            }
        }
    }

    fn io_write(&mut self, _vcpu: u32, port: u16, _size: u8, value: u32) {
        match port {
            serial::BASE..=serial::LAST => {
                self.uart.write(port - serial::BASE, value as u8);
            }
            rtc::INDEX => self.rtc.select(value),
            power::SLEEP_CONTROL | power::RESET => {
                self.power = self.power.or(power::write(port, value));
            }
            power::SLEEP_STATUS => {}
            _ => self.unknown_ports += 1,
        }
    }

    fn read_msr(&mut self, vcpu: u32, msr: u32) -> Result<u64, MsrFault> {
        match msr {
            reg::TSC_DEADLINE | 0x800..=0x8FF => {
                let now = (self.now)();
                self.apic(vcpu)?.read(msr, now)
            }
            _ => self.msrs.get(vcpu as usize).ok_or(MsrFault)?.read(msr),
        }
    }

    fn write_msr(&mut self, vcpu: u32, msr: u32, value: u64) -> Result<(), MsrFault> {
        match msr {
            reg::TSC_DEADLINE | 0x800..=0x8FF => {
                let now = (self.now)();
                let ipi = self.apic(vcpu)?.write(msr, value, now)?;
                if let Some(ipi) = ipi {
                    let to = (0..)
                        .zip(&self.apics)
                        .filter(|(_, apic)| apic.takes(ipi.to, vcpu));
                    for (target, _) in to {
                        match ipi.nmi {
                            true => self.interrupts.nmi(target),
                            false => self.interrupts.post(target, ipi.vector),
                        }
                    }
                }
                // A deadline in the past fires at once.
                self.fire_timers();
                Ok(())
            }
            _ => self
                .msrs
                .get_mut(vcpu as usize)
                .ok_or(MsrFault)?
                .write(msr, value),
        }
    }

    /// A timer that is due is an event to see before a long conversion goes on.
    fn event_pending(&mut self, _vcpu: u32) -> bool {
        let now = (self.now)();
        self.next_deadline().is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Rc<RefCell<Vec<(u32, u8)>>>);

    impl Interrupts for Log {
        fn post(&mut self, vcpu: u32, vector: u8) {
            self.0.borrow_mut().push((vcpu, vector));
        }
        fn nmi(&mut self, vcpu: u32) {
            self.0.borrow_mut().push((vcpu, 2));
        }
    }

    fn board<'a>(clock: &'a Cell<u64>, log: &Log) -> Board<'a> {
        Board::new(BoardConfig {
            vcpus: 3,
            tsc_khz: 1_000_000,
            now: Box::new(|| clock.get()),
            console: Box::new(std::io::sink()),
            input: ConsoleInput::default(),
            interrupts: Box::new(log.clone()),
        })
    }

    #[test]
    fn an_ipi_to_all_others_reaches_all_others() {
        let (clock, log) = (Cell::new(0), Log::default());
        let mut board = board(&clock, &log);
        board.write_msr(1, reg::ICR, 0xC_00FB).unwrap();
        board.write_msr(0, reg::ICR, 0x2_0000_0400).unwrap();
        assert_eq!(*log.0.borrow(), [(0, 0xFB), (2, 0xFB), (2, 2)]);
        assert_eq!(board.write_msr(7, reg::ICR, 0xC_00FB), Err(MsrFault));
    }

    #[test]
    fn the_nearest_timer_is_the_next_deadline() {
        let (clock, log) = (Cell::new(10), Log::default());
        let mut board = board(&clock, &log);
        for (vcpu, deadline) in [(0, 500), (2, 300)] {
            board.write_msr(vcpu, reg::SVR, 0x1FF).unwrap();
            board.write_msr(vcpu, reg::LVT_TIMER, 0x4_00EC).unwrap();
            board.write_msr(vcpu, reg::TSC_DEADLINE, deadline).unwrap();
        }
        assert_eq!(board.next_deadline(), Some(300));
        assert!(!board.event_pending(0));
        clock.set(400);
        assert!(board.event_pending(0));
        board.fire_timers();
        assert_eq!(*log.0.borrow(), [(2, 0xEC)]);
        board.write_msr(2, reg::TSC_DEADLINE, 1).unwrap();
        assert_eq!(
            log.0.borrow().len(),
            2,
            "a deadline in the past fires at once"
        );
    }

    #[test]
    fn a_guest_powers_off_once_and_for_all() {
        let (clock, log) = (Cell::new(0), Log::default());
        let mut board = board(&clock, &log);
        assert_eq!(board.power(), None);
        board.io_write(0, power::SLEEP_CONTROL, 1, 0x34);
        board.io_write(0, power::RESET, 1, 1);
        assert_eq!(board.power(), Some(Power::Off));
        assert_eq!(board.io_read(0, 0x80, 1), u32::MAX);
        assert_eq!(board.unknown_ports(), 1);
    }
}
