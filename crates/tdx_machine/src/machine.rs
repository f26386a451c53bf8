//! The machine: logical processors, memory, time, and what the firmware says of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use x86_arch::Hkid;

use crate::memory::Memory;

/// What a machine is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The package of each logical processor; packages count from 0 without gaps.
    pub lps: Vec<LpConfig>,
    /// Bytes of RAM of each package, from physical address 0 upwards, in whole pages.
    pub ram: Vec<u64>,
    /// Convertible memory ranges, ascending.
    pub cmrs: Vec<Range<u64>>,
    /// The range that the TDX module owns.
    pub seamrr: Range<u64>,
    /// Key IDs, shared ones included.
    pub key_ids: u16,
    /// First and last private key ID.
    pub private_key_ids: (u16, u16),
    /// Parts of a whole-cache write-back.
    pub cache_wb_sub_blocks: u32,
    /// Native CPUID by leaf and sub-leaf; `None`: any sub-leaf. Leaves not listed read 0.
    pub cpuid: BTreeMap<(u32, Option<u32>), [u32; 4]>,
    /// Native MSRs that do not read 0.
    pub msrs: BTreeMap<u32, u64>,
    /// Frequency of the TSC, for time by the host's clock.
    pub tsc_hz: u64,
    /// Seed of everything random.
    pub seed: u64,
    pub clock: Clock,
}

impl Config {
    /// Width of the key-ID field at the top of a physical address (IA32_TME_ACTIVATE 35:32).
    pub fn keyid_bits(&self) -> u32 {
        self.key_ids.max(1).next_power_of_two().ilog2()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LpConfig {
    pub package: u32,
    pub x2apic_id: u32,
}

/// What moves the TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// Work done: one tick for each instruction that somebody counts with [`Machine::advance`], and one for each
    /// look at it. The same run gives the same times.
    Virtual,
    /// The host's clock.
    Host,
}

/// Events that wait for a processor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pending {
    pub interrupt: bool,
    pub nmi: bool,
    pub smi: bool,
    pub init: bool,
}

/// PCONFIG could not program a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// The key generator had no entropy.
    Entropy,
}

struct Lp {
    package: u32,
    x2apic_id: u32,
    /// Those that do not read 0.
    msrs: Mutex<BTreeMap<u32, u64>>,
    pending: AtomicU8,
    /// External-interrupt vectors that wait, one bit each.
    vectors: [AtomicU64; 4],
    /// When the processor's own timer fires; all ones: never.
    timer: AtomicU64,
    random: AtomicU64,
    /// The thread that [`Machine::wait`]s for an event.
    sleeper: Mutex<Option<Thread>>,
    sleeps: AtomicBool,
}

pub struct Machine {
    config: Config,
    pub memory: Memory,
    lps: Vec<Lp>,
    ticks: AtomicU64,
    started: Instant,
    /// RDRAND, RDSEED and PCONFIG fail as long as this is not 0.
    entropy_failures: AtomicU64,
}

const NMI: u8 = 1;
const SMI: u8 = 2;
const INIT: u8 = 4;
/// The vector of a processor's own timer, which the host programmed (Linux's choice).
pub const TIMER_VECTOR: u8 = 0xEC;
/// The TSC as an MSR.
const IA32_TSC: u32 = 0x10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SplitMix64: the next state's output.
fn mix(state: u64) -> u64 {
    let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Machine {
    /// A machine just switched on.
    ///
    /// # Panics
    /// When a processor lies in a package without an entry in `ram`.
    pub fn new(config: Config) -> Machine {
        let packages = config.ram.len() as u32;
        assert!(
            config.lps.iter().all(|lp| lp.package < packages),
            "a package without RAM entry"
        );
        let mut end = 0;
        let homes = config.ram.iter().map(|size| {
            end += size;
            end
        });
        let (first, last) = config.private_key_ids;
        let lps = config.lps.iter().enumerate().map(|(i, lp)| Lp {
            package: lp.package,
            x2apic_id: lp.x2apic_id,
            msrs: Mutex::new(config.msrs.clone()),
            pending: AtomicU8::new(0),
            vectors: [const { AtomicU64::new(0) }; 4],
            timer: AtomicU64::new(u64::MAX),
            random: AtomicU64::new(mix(config.seed ^ (i as u64).wrapping_mul(GOLDEN))),
            sleeper: Mutex::default(),
            sleeps: AtomicBool::new(false),
        });
        Machine {
            memory: Memory::new(homes.collect(), config.key_ids, first..=last),
            lps: lps.collect(),
            ticks: AtomicU64::new(0),
            started: Instant::now(),
            entropy_failures: AtomicU64::new(0),
            config,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
    pub fn package(&self, lp: u32) -> u32 {
        self.lp(lp).package
    }

    /// Native CPUID; leaves 1 and 0x1F carry the processor's APIC id.
    pub fn cpuid(&self, lp: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
        let rows = &self.config.cpuid;
        let row = rows
            .get(&(leaf, Some(subleaf)))
            .or_else(|| rows.get(&(leaf, None)));
        let [eax, mut ebx, ecx, mut edx] = row.copied().unwrap_or_default();
        let apic_id = self.lp(lp).x2apic_id;
        match leaf {
            1 => ebx = ebx & 0x00FF_FFFF | apic_id << 24,
            0xB | 0x1F => edx = apic_id,
            _ => {}
        }
        [eax, ebx, ecx, edx]
    }

    pub fn read_msr(&self, lp: u32, msr: u32) -> u64 {
        if msr == IA32_TSC {
            return self.tsc();
        }
        lock(&self.lp(lp).msrs).get(&msr).copied().unwrap_or(0)
    }
    pub fn write_msr(&self, lp: u32, msr: u32, value: u64) {
        lock(&self.lp(lp).msrs).insert(msr, value);
    }

    /// The time-stamp counter, the same on every processor.
    pub fn tsc(&self) -> u64 {
        match self.config.clock {
            Clock::Virtual => self.ticks.fetch_add(1, SeqCst),
            Clock::Host => self.time(),
        }
    }
    /// The time, without the tick that a look at the TSC costs.
    pub fn time(&self) -> u64 {
        match self.config.clock {
            Clock::Virtual => self.ticks.load(SeqCst),
            Clock::Host => {
                let ticks = self.started.elapsed().as_nanos() * u128::from(self.config.tsc_hz);
                (ticks / 1_000_000_000) as u64
            }
        }
    }
    /// Whether time passes by work done alone.
    pub fn is_virtual_time(&self) -> bool {
        matches!(self.config.clock, Clock::Virtual)
    }
    /// Moves virtual time by work done, or by a wait that is skipped. The host's clock moves by itself.
    pub fn advance(&self, ticks: u64) {
        if self.is_virtual_time() {
            self.ticks.fetch_add(ticks, SeqCst);
        }
    }

    /// RDRAND or RDSEED. Every processor has its own sequence, so that the order of calls does not matter.
    pub fn random(&self, lp: u32) -> Option<u64> {
        let state = &self.lp(lp).random;
        self.entropy()
            .then(|| mix(state.fetch_add(GOLDEN, SeqCst).wrapping_add(GOLDEN)))
    }
    /// The next `count` requests for randomness fail.
    pub fn fail_entropy(&self, count: u64) {
        self.entropy_failures.store(count, SeqCst);
    }
    fn entropy(&self) -> bool {
        self.entropy_failures
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
            .is_err()
    }

    /// Programs a fresh key for `hkid` in the processor's package (PCONFIG).
    pub fn program_random_key(&self, lp: u32, hkid: Hkid) -> Result<(), KeyError> {
        if !self.entropy() {
            return Err(KeyError::Entropy);
        }
        self.memory.program_key(self.package(lp), hkid);
        Ok(())
    }
    /// Writes back part `index` of the caches of the processor's package.
    pub fn write_back_sub_block(&self, lp: u32, index: u32) {
        self.memory
            .write_back(self.package(lp), index, self.config.cache_wb_sub_blocks);
    }

    pub fn pending(&self, lp: u32) -> Pending {
        let lp = self.lp(lp);
        let bits = lp.pending.load(SeqCst);
        Pending {
            interrupt: lp.vectors.iter().any(|word| word.load(SeqCst) != 0)
                || self.timer_is_due(lp),
            nmi: bits & NMI != 0,
            smi: bits & SMI != 0,
            init: bits & INIT != 0,
        }
    }
    /// Lets the calling thread, which is the processor's, sleep until an event waits for the processor, or so long.
    pub fn wait(&self, lp: u32, longest: Duration) {
        let mine = self.lp(lp);
        let left = self.ticks_to_timer(lp).map(|ticks| {
            let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(self.config.tsc_hz.max(1));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        *lock(&mine.sleeper) = Some(std::thread::current());
        mine.sleeps.store(true, SeqCst);
        // Whoever makes an event wait after this look finds the thread asleep.
        if self.pending(lp) == Pending::default() {
            std::thread::park_timeout(left.map_or(longest, |left| left.min(longest)));
        }
        mine.sleeps.store(false, SeqCst);
    }
    fn wake(&self, lp: &Lp) {
        if lp.sleeps.load(SeqCst)
            && let Some(thread) = &*lock(&lp.sleeper)
        {
            thread.unpark();
        }
    }
    /// An external interrupt for the processor.
    pub fn interrupt(&self, lp: u32, vector: u8) {
        let lp = self.lp(lp);
        lp.vectors[vector as usize / 64].fetch_or(1 << (vector % 64), SeqCst);
        self.wake(lp);
    }
    /// Takes back an interrupt that the processor has not taken yet.
    pub fn retract_interrupt(&self, lp: u32, vector: u8) {
        self.lp(lp).vectors[vector as usize / 64].fetch_and(!(1 << (vector % 64)), SeqCst);
    }
    /// Programs the processor's timer: from this TSC value on, [`TIMER_VECTOR`] waits for it, once.
    pub fn arm_timer(&self, lp: u32, tsc: u64) {
        self.lp(lp).timer.store(tsc, SeqCst);
    }
    /// TSC ticks until the processor's timer fires, for who lets it work that long; `None` when it is not armed.
    pub fn ticks_to_timer(&self, lp: u32) -> Option<u64> {
        let at = self.lp(lp).timer.load(SeqCst);
        (at != u64::MAX).then(|| at.saturating_sub(self.time()))
    }
    fn timer_is_due(&self, lp: &Lp) -> bool {
        let at = lp.timer.load(SeqCst);
        at != u64::MAX && at <= self.time()
    }
    /// Takes the highest external-interrupt vector that waits.
    pub fn acknowledge_interrupt(&self, lp: u32) -> Option<u8> {
        if self.timer_is_due(self.lp(lp)) {
            self.lp(lp).timer.store(u64::MAX, SeqCst);
            return Some(TIMER_VECTOR);
        }
        for (i, word) in self.lp(lp).vectors.iter().enumerate().rev() {
            let bits = word.load(SeqCst);
            if bits != 0 {
                let bit = bits.ilog2();
                word.fetch_and(!(1 << bit), SeqCst);
                return Some((i as u32 * 64 + bit) as u8);
            }
        }
        None
    }
    pub fn set_nmi(&self, lp: u32, waits: bool) {
        self.set_pending(lp, NMI, waits);
    }
    pub fn set_smi(&self, lp: u32, waits: bool) {
        self.set_pending(lp, SMI, waits);
    }
    pub fn set_init(&self, lp: u32, waits: bool) {
        self.set_pending(lp, INIT, waits);
    }
    fn set_pending(&self, lp: u32, bit: u8, waits: bool) {
        let lp = self.lp(lp);
        if waits {
            lp.pending.fetch_or(bit, SeqCst);
            self.wake(lp);
        } else {
            lp.pending.fetch_and(!bit, SeqCst);
        }
    }

    fn lp(&self, lp: u32) -> &Lp {
        &self.lps[lp as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_interrupts_its_processor_once_when_its_time_has_come() {
        let machine = Machine::new(Config {
            lps: vec![
                LpConfig {
                    package: 0,
                    x2apic_id: 0
                };
                2
            ],
            ram: vec![0x20_0000],
            cmrs: Vec::new(),
            seamrr: 0..0,
            key_ids: 2,
            private_key_ids: (1, 1),
            cache_wb_sub_blocks: 1,
            cpuid: BTreeMap::new(),
            msrs: BTreeMap::new(),
            tsc_hz: 1,
            seed: 0,
            clock: Clock::Virtual,
        });
        assert_eq!(machine.ticks_to_timer(1), None);
        machine.arm_timer(1, 100);
        machine.advance(99);
        assert_eq!(machine.ticks_to_timer(1), Some(1));
        assert!(!machine.pending(1).interrupt);
        machine.advance(1);
        assert!(machine.pending(1).interrupt && !machine.pending(0).interrupt);
        assert_eq!(machine.acknowledge_interrupt(0), None);
        assert_eq!(machine.acknowledge_interrupt(1), Some(TIMER_VECTOR));
        assert_eq!(machine.acknowledge_interrupt(1), None);
    }
}
