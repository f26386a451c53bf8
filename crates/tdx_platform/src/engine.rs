//! Guests that the CPU engine runs: one engine for each processor, on the machine's memory and clock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tdx_machine::{Machine, Page};
use tdx_module::{CachedTranslation, LpId};
use x86_arch::vmx::Vcpu;
use x86_arch::{
    Access, EptFault, ExitReason, Gpa, Hkid, Hpa, KeyedHpa, RamPage, SecondLevel,
    SecondLevelMapping, VmExit,
};
use x86_engine::{
    Cached, Engine, EngineKind, MachineCheck, PendingEvents, Platform, Statistics, Stop,
};

use crate::machine::PlatformMachine;

/// The longest stay in a guest, in ticks, when no timer is armed; the engine goes on right after it.
const LONGEST: u64 = 1 << 24;

/// The same on the host's clock, where a guest that only spins gives its thread's time away in between.
const REALTIME: u64 = 1 << 16;
/// After so many stays that were mostly spent waiting (PAUSE) in a row, the stays become short, and the thread sleeps
/// between them instead of yielding: longer each time, but an interrupt wakes it.
const SPINS: u32 = 16;
const PEEK: u64 = 1 << 12;
const NAP: Duration = Duration::from_micros(50);
/// How often a nap is doubled.
const DEEPEST: u32 = 5;

/// One processor's engine, and the state of memory that its cached pages belong to.
struct Processor {
    engine: Engine<Page>,
    revoked: u64,
    /// Why the #VE was raised that the guest had not asked about when it took a triple fault.
    unread_ve: Option<ExitReason>,
}

/// The engines of a platform, by processor.
pub struct Engines {
    processors: Vec<Mutex<Processor>>,
    /// Instructions completed on all processors.
    retired: AtomicU64,
    difference: Mutex<Option<String>>,
}

impl Engines {
    pub(crate) fn new(kind: EngineKind, lps: usize) -> Engines {
        let processor = || Processor {
            engine: Engine::with(kind),
            revoked: 0,
            unread_ve: None,
        };
        Engines {
            processors: (0..lps).map(|_| Mutex::new(processor())).collect(),
            retired: AtomicU64::new(0),
            difference: Mutex::default(),
        }
    }

    pub(crate) fn refused(&self) -> Option<String> {
        let first = self.processors.first()?;
        let processor = first.lock().unwrap_or_else(PoisonError::into_inner);
        processor.engine.refused().map(str::to_owned)
    }

    pub(crate) fn difference(&self) -> Option<String> {
        let difference = self.difference.lock();
        difference.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn processor(&self, lp: LpId) -> MutexGuard<'_, Processor> {
        self.processors[lp.0 as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn invalidate(&self, lp: LpId, vpids: &[u16]) {
        self.processor(lp).engine.invalidate(vpids);
    }

    /// Instructions that guests completed on all processors; of one that is in a guest, before it went in.
    pub fn retired(&self) -> u64 {
        self.retired.load(Relaxed)
    }

    /// What was translated on all processors; `None` where nothing is translated.
    pub fn translated(&self) -> Option<Statistics> {
        let all = self.processors.iter();
        let all = all.map(|p| p.lock().unwrap_or_else(PoisonError::into_inner));
        all.filter_map(|processor| processor.engine.statistics())
            .reduce(Statistics::beside)
    }

    /// What the processor's engine holds, for the module's audit; nothing while it runs.
    pub(crate) fn cached(&self, hardware: &Machine, lp: LpId) -> Vec<CachedTranslation> {
        let Ok(processor) = self.processors[lp.0 as usize].try_lock() else {
            return Vec::new();
        };
        if processor.revoked != hardware.memory.revoked() {
            // Dropped before anything runs again.
            return Vec::new();
        }
        let of_page = |page: &Page| {
            let hpa = page.hpa();
            Some(KeyedHpa::new(hpa, hardware.memory.key_id(hpa)?))
        };
        let cached = processor.engine.cached();
        let cached = cached.filter_map(|(vpid, cached)| {
            let (gpa, page) = match cached {
                Cached::Linear(page) => (None, of_page(page)?),
                Cached::Code(page) => (None, page),
                Cached::GuestPhysical(gpa, page) => (Some(gpa), page),
            };
            Some(CachedTranslation { vpid, gpa, page })
        });
        cached.collect()
    }

    /// The exit reason of a #VE whose delivery a triple fault ended, on any processor.
    ///
    /// A kernel without TDX guest support dies so: at its first #VE, for which it has no handler. No host sees this.
    pub fn unread_ve(&self) -> Option<ExitReason> {
        (0..self.processors.len() as u32).find_map(|lp| self.processor(LpId(lp)).unread_ve)
    }

    /// Runs the vCPU until a VM exit.
    pub(crate) fn run(
        &self,
        machine: &PlatformMachine,
        lp: LpId,
        vcpu: &mut Vcpu,
        second_level: &dyn SecondLevel,
    ) {
        let mut processor = self.processor(lp);
        let processor = &mut *processor;
        let hardware = &*machine.hardware;
        let longest = match hardware.is_virtual_time() {
            true => LONGEST,
            false => REALTIME,
        };
        let mut spins = 0;
        loop {
            let revoked = hardware.memory.revoked();
            if processor.revoked != revoked {
                // A page that the engine holds changed its key: nothing cached may be used any more.
                processor.engine.invalidate_all();
                processor.revoked = revoked;
            }
            let longest = if spins < SPINS { longest } else { PEEK };
            let budget = hardware
                .ticks_to_timer(lp.0)
                .unwrap_or(longest)
                .clamp(1, longest);
            let start = hardware.time();
            let mut bridge = Bridge {
                machine,
                hardware,
                lp,
                second_level,
                start,
                passed: 0,
            };
            let ran = processor.engine.run(vcpu, &mut bridge, budget);
            let passed = bridge.passed;
            hardware.advance(ran.ticks.saturating_sub(passed));
            self.retired.fetch_add(ran.retired, Relaxed);
            match ran.stop {
                Stop::Exit => {
                    let ve = &vcpu.ve_info;
                    if vcpu.exit.basic_reason() == ExitReason::TRIPLE_FAULT && ve.valid != 0 {
                        processor.unread_ve = Some(ExitReason(ve.exit_reason as u16));
                    }
                    acknowledge(hardware, lp, vcpu);
                    return;
                }
                Stop::Budget if hardware.is_virtual_time() => {}
                Stop::Budget => {
                    let waited = ran.ticks.saturating_sub(ran.retired);
                    spins = if waited > ran.ticks / 2 { spins + 1 } else { 0 };
                    match spins {
                        0 => {}
                        1..SPINS => std::thread::yield_now(),
                        _ => hardware.wait(lp.0, NAP * (1 << (spins - SPINS).min(DEEPEST))),
                    }
                }
                // HLT exits in a TD; should a guest sleep all the same, its time passes until an event comes.
                Stop::Halted => hardware.advance(budget),
                Stop::Difference => {
                    // The guest ends here; who runs it asks for the difference first.
                    let found = processor.engine.difference().map(str::to_owned);
                    let mut first = self
                        .difference
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    *first = first.take().or(found);
                    vcpu.exit = VmExit::new(ExitReason::TRIPLE_FAULT);
                    return;
                }
            }
        }
    }
}

/// An event that made the vCPU exit no longer waits.
fn acknowledge(hardware: &Machine, lp: LpId, vcpu: &Vcpu) {
    /// Interruption information: vector and type of an NMI.
    const NMI: u32 = 0x202;
    match vcpu.exit.basic_reason() {
        ExitReason::EXCEPTION_OR_NMI if vcpu.exit.interruption_info & 0x7FF == NMI => {
            hardware.set_nmi(lp.0, false);
        }
        ExitReason::SMI_OTHER_EVENT => hardware.set_smi(lp.0, false),
        ExitReason::INIT_EVENT => hardware.set_init(lp.0, false),
        _ => {}
    }
}

/// The machine as the engine asks for it.
struct Bridge<'a> {
    machine: &'a PlatformMachine,
    hardware: &'a Machine,
    lp: LpId,
    second_level: &'a dyn SecondLevel,
    /// The time when the run began.
    start: u64,
    /// Ticks of this run that the machine's clock has been moved by already.
    passed: u64,
}

impl Bridge<'_> {
    /// A physical address as the bus carries it: the key ID above the address.
    fn keyed(&self, raw: u64) -> KeyedHpa {
        let bits = self.hardware.config().keyid_bits();
        let shift = 52 - bits;
        let hkid = (raw >> shift) & ((1 << bits) - 1);
        KeyedHpa::new(Hpa::new(raw & ((1 << shift) - 1)), Hkid(hkid as u16))
    }
}

impl Platform for Bridge<'_> {
    type Page = Page;

    fn translate(&mut self, gpa: Gpa, access: Access) -> Result<SecondLevelMapping, EptFault> {
        self.second_level.translate(gpa, access)
    }
    fn page(&mut self, page: KeyedHpa) -> Option<Page> {
        match self.machine.shared_memory(page, 4096) {
            Some(_) => None,
            None => self.hardware.memory.page(page),
        }
    }
    fn read(&mut self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck> {
        self.machine.load(from, to).map_err(|e| MachineCheck(e.0))
    }
    fn write(&mut self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.machine.store(to, from).map_err(|e| MachineCheck(e.0))
    }
    fn tsc(&mut self, ticks: u64) -> u64 {
        // The clock of the machine follows, so that devices and the guest see one time.
        let behind = ticks.saturating_sub(self.passed);
        self.hardware.advance(behind);
        self.passed += behind;
        match self.hardware.is_virtual_time() {
            true => self.start + self.passed,
            false => self.hardware.time(),
        }
    }
    fn random(&mut self) -> Option<u64> {
        self.hardware.random(self.lp.0)
    }
    fn pending_events(&mut self) -> PendingEvents {
        let pending = self.hardware.pending(self.lp.0);
        PendingEvents {
            interrupt: pending.interrupt,
            nmi: pending.nmi,
            smi: pending.smi,
            init: pending.init,
        }
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        // Asked only while an interrupt is pending, and nobody else takes it; a spurious one would be 255.
        self.hardware
            .acknowledge_interrupt(self.lp.0)
            .unwrap_or(0xFF)
    }
    fn take_posted_interrupts(&mut self, descriptor: u64) -> [u64; 4] {
        let at = self.keyed(descriptor);
        if let Some(keeper) = self.machine.shared_memory(at, 64) {
            let mut words = [[0; 8]; 5];
            keeper.read(at.hpa, words.as_flattened_mut());
            let [pir @ .., control] = words.map(u64::from_le_bytes);
            let taken = [0, 0, 0, 0, control & !1].map(u64::to_le_bytes);
            keeper.write(at.hpa, taken.as_flattened());
            return pir;
        }
        let Some(page) = self
            .hardware
            .memory
            .page(KeyedHpa::new(at.hpa.page(), at.hkid))
        else {
            return [0; 4];
        };
        let offset = at.hpa.page_offset();
        // ON first: a poster that sets a request bit afterwards sets it again and notifies.
        let swap = |offset: usize, keep: u64| {
            let mut old = page.load_u64(offset);
            while let Err(now) = page.compare_exchange(offset, 8, old, old & keep) {
                old = now;
            }
            old
        };
        swap(offset + 32, !1);
        [0, 8, 16, 24].map(|word| swap(offset + word, 0))
    }
    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        Some(self.hardware.read_msr(self.lp.0, msr))
    }
    fn write_msr(&mut self, msr: u32, value: u64) -> bool {
        self.hardware.write_msr(self.lp.0, msr, value);
        true
    }
}
