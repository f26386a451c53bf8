//! The VMM's half of a local APIC in x2APIC mode: what the processor does not virtualise itself (SDM 11.12, 11.5.4).
//!
//! TPR, PPR, EOI, ISR, IRR and self-IPI are the processor's; IPIs, the timer and the local vector table come here as
//! TDVMCALLs. The timer counts at the 25 MHz crystal that CPUID 0x15 reports, or compares with the guest's TSC.

use tdx_host::tdvmcall::MsrFault;

use crate::Interrupts;

/// MSR numbers (SDM table 11-6).
pub(crate) mod reg {
    pub(crate) const TSC_DEADLINE: u32 = 0x6E0;
    pub(crate) const ID: u32 = 0x802;
    pub(crate) const VERSION: u32 = 0x803;
    pub(crate) const LDR: u32 = 0x80D;
    pub(crate) const SVR: u32 = 0x80F;
    pub(crate) const ESR: u32 = 0x828;
    pub(crate) const ICR: u32 = 0x830;
    pub(crate) const LVT_TIMER: u32 = 0x832;
    pub(crate) const LVT_THERMAL: u32 = 0x833;
    pub(crate) const LVT_ERROR: u32 = 0x837;
    pub(crate) const INITIAL_COUNT: u32 = 0x838;
    pub(crate) const CURRENT_COUNT: u32 = 0x839;
    pub(crate) const DIVIDE: u32 = 0x83E;
}

/// An integrated APIC with six local vectors.
const VERSION: u64 = 0x0005_0014;
const LVT_MASKED: u64 = 1 << 16;
/// Bits that a local vector keeps.
const LVT_BITS: u64 = 0x7_F7FF;
const SVR_ENABLED: u64 = 1 << 8;

/// How the timer runs: LVT timer bits 18:17.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

/// One vCPU's local APIC as far as its VMM sees it.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    svr: u64,
    icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u64; 6],
    initial_count: u32,
    divide: u64,
    /// When the timer fires next, in guest TSC ticks.
    deadline: Option<u64>,
    tsc_per_tick: u64,
}

/// An inter-processor interrupt as ICR describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ipi {
    pub vector: u8,
    pub nmi: bool,
    pub to: Destination,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    Physical(u32),
    /// Cluster in 31:16, members in 15:0.
    Logical(u32),
    Myself,
    Everyone,
    Others,
}

impl LocalApic {
    /// The APIC with this ID; `tsc_khz` is the guest's TSC frequency.
    pub fn new(id: u32, tsc_khz: u32) -> Self {
        Self {
            id,
            svr: 0xFF,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            initial_count: 0,
            divide: 0,
            deadline: None,
            tsc_per_tick: u64::from(tsc_khz / 25_000).max(1),
        }
    }

    /// When the timer fires next, in guest TSC ticks.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    pub(crate) fn read(&self, msr: u32, now: u64) -> Result<u64, MsrFault> {
        Ok(match msr {
            reg::TSC_DEADLINE => match self.mode() {
                Mode::TscDeadline => self.deadline.unwrap_or(0),
                _ => 0,
            },
            reg::ID => self.id.into(),
            reg::VERSION => VERSION,
            reg::LDR => u64::from(logical_id(self.id)),
            reg::SVR => self.svr,
            reg::ESR => 0,
            reg::ICR => self.icr,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[(msr - reg::LVT_TIMER) as usize],
            reg::INITIAL_COUNT => self.initial_count.into(),
            reg::CURRENT_COUNT => self.current_count(now),
            reg::DIVIDE => self.divide,
            _ => return Err(MsrFault),
        })
    }

    /// An IPI comes back to be delivered.
    pub(crate) fn write(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Option<Ipi>, MsrFault> {
        match msr {
            reg::TSC_DEADLINE => {
                if self.mode() == Mode::TscDeadline {
                    self.deadline = (value != 0).then_some(value);
                }
            }
            reg::SVR => self.svr = value & 0x1FF,
            // Writing 0 latches the errors, of which there are none.
            reg::ESR if value == 0 => {}
            reg::ICR => {
                self.icr = value & 0xFFFF_FFFF_000C_CFFF;
                return Ok(self.ipi());
            }
            reg::LVT_TIMER => {
                let before = self.mode();
                self.lvt[0] = value & LVT_BITS;
                if self.mode() != before {
                    self.deadline = None;
                    self.initial_count = 0;
                }
            }
            reg::LVT_THERMAL..=reg::LVT_ERROR => {
                self.lvt[(msr - reg::LVT_TIMER) as usize] = value & LVT_BITS;
            }
            reg::INITIAL_COUNT => {
                if self.mode() != Mode::TscDeadline {
                    self.initial_count = value as u32;
                    self.deadline = (self.initial_count != 0).then(|| now + self.period());
                }
            }
            reg::DIVIDE => self.divide = value & 0b1011,
            _ => return Err(MsrFault),
        }
        Ok(None)
    }

    /// Posts the timer's interrupt if it is due; a periodic timer starts again.
    pub(crate) fn fire(&mut self, now: u64, interrupts: &mut dyn Interrupts) {
        let Some(deadline) = self.deadline.filter(|&deadline| deadline <= now) else {
            return;
        };
        self.deadline = match self.mode() {
            Mode::Periodic => {
                let period = self.period();
                let missed = (now - deadline) / period;
                Some(deadline + (missed + 1) * period)
            }
            Mode::OneShot | Mode::TscDeadline => None,
        };
        if self.lvt[0] & LVT_MASKED == 0 && self.svr & SVR_ENABLED != 0 {
            interrupts.post(self.id, self.lvt[0] as u8);
        }
    }

    pub(crate) fn takes(&self, to: Destination, from: u32) -> bool {
        match to {
            Destination::Physical(u32::MAX) | Destination::Everyone => true,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(ids) => {
                let own = logical_id(self.id);
                ids >> 16 == own >> 16 && ids & own & 0xFFFF != 0
            }
            Destination::Myself => from == self.id,
            Destination::Others => from != self.id,
        }
    }

    fn ipi(&self) -> Option<Ipi> {
        let nmi = match self.icr >> 8 & 7 {
            // Fixed and lowest priority; in a TD all processors have the same.
            0 | 1 => false,
            4 => true,
            // INIT, SIPI and SMI mean nothing in a TD.
            _ => return None,
        };
        let id = (self.icr >> 32) as u32;
        let to = match self.icr >> 18 & 3 {
            1 => Destination::Myself,
            2 => Destination::Everyone,
            3 => Destination::Others,
            _ if self.icr & 1 << 11 != 0 => Destination::Logical(id),
            _ => Destination::Physical(id),
        };
        Some(Ipi {
            vector: self.icr as u8,
            nmi,
            to,
        })
    }

    fn mode(&self) -> Mode {
        match self.lvt[0] >> 17 & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            _ => Mode::TscDeadline,
        }
    }

    /// Guest TSC ticks of one count of the timer.
    fn ticks_per_count(&self) -> u64 {
        // Bits 3, 1, 0: 0 divides by 2, 6 by 128, 7 by 1.
        let code = self.divide & 3 | self.divide >> 1 & 4;
        self.tsc_per_tick << ((code + 1) % 8)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial_count) * self.ticks_per_count()
    }

    fn current_count(&self, now: u64) -> u64 {
        match (self.mode(), self.deadline) {
            (Mode::TscDeadline, _) | (_, None) => 0,
            (_, Some(deadline)) => deadline.saturating_sub(now) / self.ticks_per_count(),
        }
    }
}

/// Cluster in 31:16, position in 15:0 (SDM 11.12.10.2).
fn logical_id(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Posted(Vec<(u32, u8)>);

    impl Interrupts for Posted {
        fn post(&mut self, vcpu: u32, vector: u8) {
            self.0.push((vcpu, vector));
        }
        fn nmi(&mut self, _vcpu: u32) {}
    }

    fn enabled(id: u32) -> LocalApic {
        let mut apic = LocalApic::new(id, 1_000_000);
        apic.write(reg::SVR, 0x1FF, 0).unwrap();
        apic
    }

    #[test]
    fn the_deadline_timer_fires_once_at_its_time() {
        let (mut apic, mut posted) = (enabled(2), Posted::default());
        apic.write(reg::TSC_DEADLINE, 500, 0).unwrap();
        assert_eq!(apic.deadline(), None, "not in deadline mode yet");
        apic.write(reg::LVT_TIMER, 0x4_00EC, 0).unwrap();
        apic.write(reg::TSC_DEADLINE, 500, 0).unwrap();
        assert_eq!(apic.read(reg::TSC_DEADLINE, 1), Ok(500));
        apic.fire(499, &mut posted);
        assert!(posted.0.is_empty());
        apic.fire(500, &mut posted);
        apic.fire(501, &mut posted);
        assert_eq!(posted.0, [(2, 0xEC)]);
        assert_eq!(apic.read(reg::TSC_DEADLINE, 501), Ok(0));
    }

    #[test]
    fn the_periodic_timer_counts_crystal_ticks_and_skips_what_was_missed() {
        let (mut apic, mut posted) = (enabled(0), Posted::default());
        apic.write(reg::LVT_TIMER, 0x2_0030, 0).unwrap();
        apic.write(reg::DIVIDE, 0b1011, 0).unwrap();
        apic.write(reg::INITIAL_COUNT, 10, 0).unwrap();
        // 1 GHz over 25 MHz: 40 TSC ticks a count.
        assert_eq!(apic.deadline(), Some(400));
        assert_eq!(apic.read(reg::CURRENT_COUNT, 200), Ok(5));
        apic.fire(1300, &mut posted);
        assert_eq!(posted.0.len(), 1);
        assert_eq!(apic.deadline(), Some(1600));
        apic.write(reg::DIVIDE, 0, 0).unwrap();
        assert_eq!(apic.ticks_per_count(), 80);
        apic.write(reg::DIVIDE, 0b1010, 0).unwrap();
        assert_eq!(apic.ticks_per_count(), 40 * 128);
    }

    #[test]
    fn a_masked_timer_or_a_disabled_apic_posts_nothing() {
        let mut posted = Posted::default();
        let mut masked = enabled(0);
        masked.write(reg::LVT_TIMER, 0x1_0030, 0).unwrap();
        masked.write(reg::INITIAL_COUNT, 1, 0).unwrap();
        masked.fire(1000, &mut posted);
        let mut off = LocalApic::new(0, 1_000_000);
        off.write(reg::LVT_TIMER, 0x30, 0).unwrap();
        off.write(reg::INITIAL_COUNT, 1, 0).unwrap();
        off.fire(1000, &mut posted);
        assert!(posted.0.is_empty());
    }

    #[test]
    fn ipis_find_their_destinations() {
        let mut apic = enabled(1);
        let mut ask = |icr| apic.write(reg::ICR, icr, 0).unwrap();
        let ipi = |to| {
            Some(Ipi {
                vector: 0xFD,
                nmi: false,
                to,
            })
        };
        assert_eq!(ask(0x3_0000_00FD), ipi(Destination::Physical(3)));
        assert_eq!(
            ask(0x0001_0002_0000_08FD),
            ipi(Destination::Logical(0x1_0002))
        );
        assert_eq!(ask(0xC_00FD), ipi(Destination::Others));
        assert_eq!(ask(0x4_00FD), ipi(Destination::Myself));
        assert!(ask(0x400).is_some_and(|ipi| ipi.nmi));
        assert_eq!(ask(0x500), None, "INIT is dropped");
        let other = enabled(17);
        assert!(other.takes(Destination::Logical(0x1_0002), 1));
        assert!(!other.takes(Destination::Logical(0x2), 1));
        assert!(other.takes(Destination::Physical(u32::MAX), 1));
        assert!(other.takes(Destination::Others, 1) && !other.takes(Destination::Others, 17));
    }
}
