//! The part of a vCPU's x2APIC that the VMM emulates: what is not in the virtual-APIC page.
//!
//! TPR, PPR, EOI, ISR, TMR, IRR and self-IPI are the processor's (virtual-interrupt delivery); the rest arrives
//! as a TDVMCALL for the x2APIC MSRs (SDM volume 3, 12.12.1.2) and for the TSC deadline.

use tdx_host::tdvmcall::MsrFault;

use crate::virtio::msix::Msi;

pub const TSC_DEADLINE: u32 = 0x6E0;
const ID: u32 = 0x802;
const VERSION: u32 = 0x803;
const LDR: u32 = 0x80D;
const SPURIOUS: u32 = 0x80F;
const ESR: u32 = 0x828;
const LVT_CMCI: u32 = 0x82F;
pub const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_FIRST: u32 = 0x832;
const LVT_LAST: u32 = 0x837;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83E;

/// Whether the MSR is one of those above.
pub fn is_apic_msr(msr: u32) -> bool {
    matches!(msr, TSC_DEADLINE | 0x800..=0x83F)
}

/// LVT entries: masked after reset.
const MASKED: u32 = 1 << 16;

/// The timer's mode, bits 18:17 of its LVT entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    OneShot,
    Periodic,
    Deadline,
}

/// One vCPU's registers. Times are in ticks of the guest's TSC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apic {
    id: u32,
    spurious: u32,
    lvt_cmci: u32,
    lvt: [u32; 6],
    divide: u32,
    initial_count: u32,
    /// When the count was set, in TSC ticks.
    started: u64,
    /// When the timer fires next.
    expiry: Option<u64>,
    /// TSC ticks of one tick of the bus clock, as a fraction.
    tsc_per_bus: (u64, u64),
}

impl Apic {
    /// A reset APIC. The bus clock is the 25 MHz crystal that CPUID 0x15 names.
    pub fn new(id: u32, tsc_khz: u64) -> Apic {
        Apic {
            id,
            spurious: 0xFF,
            lvt_cmci: MASKED,
            lvt: [MASKED; 6],
            divide: 0,
            initial_count: 0,
            started: 0,
            expiry: None,
            tsc_per_bus: (tsc_khz.max(1), 25_000),
        }
    }

    pub fn read(&self, msr: u32, now: u64) -> Result<u64, MsrFault> {
        Ok(match msr {
            ID => self.id.into(),
            // Version 0x14, seven LVT entries, no EOI-broadcast suppression.
            VERSION => 0x14 | 6 << 16,
            LDR => logical_id(self.id).into(),
            SPURIOUS => self.spurious.into(),
            ESR => 0,
            LVT_CMCI => self.lvt_cmci.into(),
            ICR => 0,
            LVT_FIRST..=LVT_LAST => self.lvt[(msr - LVT_FIRST) as usize].into(),
            INITIAL_COUNT => self.initial_count.into(),
            CURRENT_COUNT => self.current_count(now).into(),
            DIVIDE => self.divide.into(),
            TSC_DEADLINE if self.mode() == Mode::Deadline => self.expiry.unwrap_or(0),
            TSC_DEADLINE => 0,
            _ => return Err(MsrFault),
        })
    }

    /// A write to anything but ICR, which is not one APIC's affair.
    pub fn write(&mut self, msr: u32, value: u64, now: u64) -> Result<(), MsrFault> {
        let word = u32::try_from(value);
        match msr {
            SPURIOUS => self.spurious = word.map_err(|_| MsrFault)? & 0x1FF,
            ESR if value == 0 => {}
            LVT_CMCI => self.lvt_cmci = word.map_err(|_| MsrFault)?,
            LVT_FIRST..=LVT_LAST => {
                let before = self.mode();
                self.lvt[(msr - LVT_FIRST) as usize] = word.map_err(|_| MsrFault)?;
                if self.mode() != before {
                    (self.initial_count, self.expiry) = (0, None);
                }
            }
            INITIAL_COUNT => {
                self.initial_count = word.map_err(|_| MsrFault)?;
                self.start(now);
            }
            DIVIDE => self.divide = word.map_err(|_| MsrFault)? & 0xB,
            TSC_DEADLINE if self.mode() == Mode::Deadline => {
                self.expiry = (value != 0).then_some(value);
            }
            // Outside deadline mode the MSR reads 0 and writes are ignored (SDM 12.5.4.1).
            TSC_DEADLINE => {}
            _ => return Err(MsrFault),
        }
        Ok(())
    }

    /// When the timer fires next, in TSC ticks.
    pub fn expiry(&self) -> Option<u64> {
        self.expiry
    }

    /// Lets the timer fire if it is due: the vector to deliver, if its entry is not masked.
    pub fn fire(&mut self, now: u64) -> Option<u8> {
        let due = self.expiry.filter(|at| *at <= now)?;
        self.expiry = match self.mode() {
            Mode::Periodic => {
                // Several periods may have passed; like hardware, they are one interrupt.
                let period = self.period().max(1);
                self.started = due + (now - due) / period * period;
                Some(self.started + period)
            }
            Mode::OneShot | Mode::Deadline => None,
        };
        let entry = self.lvt[(LVT_TIMER - LVT_FIRST) as usize];
        let enabled = self.spurious & 0x100 != 0 && entry & MASKED == 0;
        // Vectors below 16 are illegal.
        (enabled && entry & 0xFF >= 16).then_some(entry as u8)
    }

    fn mode(&self) -> Mode {
        match self.lvt[(LVT_TIMER - LVT_FIRST) as usize] >> 17 & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            _ => Mode::Deadline,
        }
    }

    fn start(&mut self, now: u64) {
        self.started = now;
        self.expiry = match self.mode() {
            Mode::Deadline => None,
            _ if self.initial_count == 0 => None,
            _ => Some(now + self.period()),
        };
    }

    /// TSC ticks of one run of the count.
    fn period(&self) -> u64 {
        self.tsc_ticks(self.initial_count.into())
    }

    fn tsc_ticks(&self, counts: u64) -> u64 {
        let (tsc, bus) = self.tsc_per_bus;
        (u128::from(counts) * u128::from(self.divisor()) * u128::from(tsc) / u128::from(bus)) as u64
    }

    /// Bits 3, 1 and 0 of the divide register: 2, 4, 8 … 128, then 1.
    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    fn current_count(&self, now: u64) -> u32 {
        if self.expiry.is_none() || self.mode() == Mode::Deadline {
            return 0;
        }
        let (tsc, bus) = self.tsc_per_bus;
        let ticks = u128::from(now.saturating_sub(self.started)) * u128::from(bus);
        let passed = ticks / (u128::from(tsc) * u128::from(self.divisor()));
        self.initial_count
            .saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX))
    }
}

/// The x2APIC's logical id: cluster in the upper half, one bit in the lower (SDM 12.12.10.2).
fn logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

/// An interprocessor interrupt or a message from the I/O APIC, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 6 start-up, 7 ExtINT.
    pub delivery: u8,
    pub vector: u8,
    pub target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// An x2APIC id; all ones are everybody.
    Physical(u32),
    Logical(u32),
    Itself,
    All,
    Others,
}

impl Target {
    /// An address of 8 bits, as I/O APIC entries and messages have it.
    pub fn of_8_bits(destination: u8, logical: bool) -> Target {
        match (logical, destination) {
            (false, 0xFF) => Target::All,
            (false, id) => Target::Physical(id.into()),
            (true, id) => Target::Logical(id.into()),
        }
    }
}

impl Message {
    /// A message-signalled interrupt (SDM volume 3, 12.11); a store elsewhere is none.
    pub fn from_msi(message: Msi) -> Option<Message> {
        let logical = message.address & 1 << 2 != 0;
        let ours = message.address >> 20 == 0xFEE;
        ours.then(|| Message {
            delivery: (message.data >> 8 & 7) as u8,
            vector: message.data as u8,
            target: Target::of_8_bits((message.address >> 12) as u8, logical),
        })
    }

    pub fn from_icr(value: u64) -> Message {
        let id = (value >> 32) as u32;
        Message {
            delivery: (value >> 8 & 7) as u8,
            vector: value as u8,
            target: match value >> 18 & 3 {
                1 => Target::Itself,
                2 => Target::All,
                3 => Target::Others,
                _ if value & 1 << 11 != 0 => Target::Logical(id),
                _ => Target::Physical(id),
            },
        }
    }

    /// Whether vCPU `index` (whose APIC id it is) receives what `from` sent.
    pub fn reaches(&self, index: u32, from: u32) -> bool {
        match self.target {
            Target::Physical(id) => id == u32::MAX || id == index,
            Target::Logical(u32::MAX) | Target::All => true,
            Target::Logical(id) => {
                let own = logical_id(index);
                id >> 16 == own >> 16 && id & own & 0xFFFF != 0
            }
            Target::Itself => index == from,
            Target::Others => index != from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u64 = 2_500_000;

    fn enabled() -> Apic {
        let mut apic = Apic::new(3, KHZ);
        apic.write(SPURIOUS, 0x1FF, 0).expect("SVR is writable");
        apic
    }

    #[test]
    fn a_deadline_fires_once_and_not_before_its_time() {
        let mut apic = enabled();
        apic.write(LVT_TIMER, 2 << 17 | 0xEC, 0)
            .expect("LVT is writable");
        apic.write(TSC_DEADLINE, 1000, 10)
            .expect("the deadline is writable");
        assert_eq!(apic.read(TSC_DEADLINE, 10), Ok(1000));
        assert_eq!(apic.fire(999), None);
        assert_eq!(apic.fire(1000), Some(0xEC));
        assert_eq!(apic.fire(2000), None);
        assert_eq!(apic.read(TSC_DEADLINE, 2000), Ok(0));
    }

    #[test]
    fn a_count_runs_at_the_divided_crystal_clock() {
        let mut apic = enabled();
        apic.write(LVT_TIMER, 0x30, 0).expect("LVT is writable");
        apic.write(DIVIDE, 0xB, 0).expect("divide by 1");
        apic.write(INITIAL_COUNT, 1000, 0).expect("count");
        // 2.5 GHz over 25 MHz: 100 TSC ticks each.
        assert_eq!(apic.expiry(), Some(100_000));
        assert_eq!(apic.read(CURRENT_COUNT, 50_000), Ok(500));
        assert_eq!(apic.fire(100_000), Some(0x30));
        assert_eq!(apic.read(CURRENT_COUNT, 100_000), Ok(0));
    }

    #[test]
    fn a_periodic_timer_goes_on_in_step() {
        let mut apic = enabled();
        apic.write(LVT_TIMER, 1 << 17 | 0x40, 0)
            .expect("LVT is writable");
        apic.write(INITIAL_COUNT, 10, 0)
            .expect("count, divided by 2");
        assert_eq!(apic.expiry(), Some(2000));
        assert_eq!(apic.fire(5000), Some(0x40));
        assert_eq!(apic.expiry(), Some(6000));
    }

    #[test]
    fn a_masked_or_disabled_timer_is_silent() {
        let mut apic = Apic::new(0, KHZ);
        apic.write(LVT_TIMER, 2 << 17 | 0xEC, 0)
            .expect("LVT is writable");
        apic.write(TSC_DEADLINE, 5, 0)
            .expect("the deadline is writable");
        assert_eq!(apic.fire(10), None, "the APIC is not enabled by SVR");
        let mut apic = enabled();
        apic.write(LVT_TIMER, 2 << 17 | u64::from(MASKED) | 0xEC, 0)
            .expect("LVT is writable");
        apic.write(TSC_DEADLINE, 5, 0)
            .expect("the deadline is writable");
        assert_eq!(apic.fire(10), None);
    }

    #[test]
    fn messages_reach_whom_they_name() {
        let icr = |value: u64, index, from| Message::from_icr(value).reaches(index, from);
        assert!(icr(3 << 32 | 0xFB, 3, 0) && !icr(3 << 32 | 0xFB, 2, 0));
        assert!(icr(0xFFFF_FFFF_0000_00FB, 5, 0));
        // Logical: cluster 1, members 0 and 2, are ids 16 and 18.
        let logical = 0x0001_0005u64 << 32 | 1 << 11 | 0xFB;
        assert!(icr(logical, 16, 0) && icr(logical, 18, 0) && !icr(logical, 17, 0));
        assert!(!icr(logical, 0, 0));
        assert!(icr(3 << 18, 1, 0) && !icr(3 << 18, 0, 0));
        assert!(icr(1 << 18, 0, 0) && !icr(1 << 18, 1, 0));
    }
}
