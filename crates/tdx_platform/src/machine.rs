//! The simulated machine as the module's [`Machine`], with the guests that run on its processors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tdx_module::{
    CachedTranslation, CpuidValue, HostEvent, KeyError, LpId, Machine, MachineCheck, PackageId,
    PendingEvents, PlatformInfo,
};
use x86_arch::vmx::Vcpu;
use x86_arch::{ExitReason, Hkid, Hpa, KeyedHpa, PAGE_SIZE, SecondLevel, VmExit};

use crate::attach::{Attachments, Observer, SharedMemory};
use crate::guest::Guests;
use crate::tlb::Tlb;

/// What the module runs on.
pub struct PlatformMachine {
    pub(crate) hardware: Arc<tdx_machine::Machine>,
    pub(crate) guests: Guests,
    /// Cached translations, by processor.
    tlbs: Vec<Mutex<Tlb>>,
    attachments: Attachments,
    /// Processors that keep the translations they are told to drop, and what they were told meanwhile.
    pub(crate) deaf: Mutex<BTreeMap<LpId, Vec<u16>>>,
}

impl PlatformMachine {
    pub(crate) fn new(
        hardware: Arc<tdx_machine::Machine>,
        guests: Guests,
        attachments: Attachments,
    ) -> PlatformMachine {
        let tlbs = hardware
            .config()
            .lps
            .iter()
            .map(|_| Mutex::default())
            .collect();
        PlatformMachine {
            hardware,
            guests,
            tlbs,
            deaf: Mutex::default(),
            attachments,
        }
    }

    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.attachments.observer.as_deref()
    }

    /// Who keeps the bytes of this access, if it is not the machine.
    pub(crate) fn shared_memory(&self, at: KeyedHpa, len: usize) -> Option<&dyn SharedMemory> {
        let keeper = self.attachments.shared_memory.as_deref()?;
        let config = self.hardware.config();
        let size: u64 = config.ram.iter().sum();
        let end = at.hpa.checked_add(len as u64);
        (at.hkid.0 < config.private_key_ids.0 && end.is_some_and(|end| end.raw() <= size))
            .then_some(keeper)
    }

    pub(crate) fn load(
        &self,
        from: KeyedHpa,
        to: &mut [u8],
    ) -> Result<(), tdx_machine::MachineCheck> {
        match self.shared_memory(from, to.len()) {
            Some(keeper) => {
                keeper.read(from.hpa, to);
                Ok(())
            }
            None => self.hardware.memory.read(from, to),
        }
    }
    pub(crate) fn store(&self, to: KeyedHpa, from: &[u8]) -> Result<(), tdx_machine::MachineCheck> {
        match self.shared_memory(to, from.len()) {
            Some(keeper) => {
                keeper.write(to.hpa, from);
                Ok(())
            }
            None => self.hardware.memory.write(to, from),
        }
    }
    pub(crate) fn store_direct(&self, to: KeyedHpa, from: &[u8]) {
        match self.shared_memory(to, from.len()) {
            Some(keeper) => keeper.write(to.hpa, from),
            None => self.hardware.memory.write_direct(to, from),
        }
    }

    /// Zeros over a page by direct stores.
    pub(crate) fn clear_directly(&self, page: KeyedHpa) {
        match self.shared_memory(page, PAGE_SIZE as usize) {
            Some(keeper) => keeper.write(page.hpa, &[0; PAGE_SIZE as usize]),
            None => self.hardware.memory.clear_page(page),
        }
    }

    pub(crate) fn tlb(&self, lp: LpId) -> std::sync::MutexGuard<'_, Tlb> {
        self.tlbs[lp.0 as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The exit that an event waiting for the processor causes before the guest's next instruction.
    pub(crate) fn event_exit(&self, lp: LpId) -> Option<VmExit> {
        let hardware = &self.hardware;
        let pending = hardware.pending(lp.0);
        if pending.smi {
            hardware.set_smi(lp.0, false);
            return Some(VmExit::new(ExitReason::SMI_OTHER_EVENT));
        }
        if pending.init {
            hardware.set_init(lp.0, false);
            return Some(VmExit::new(ExitReason::INIT_EVENT));
        }
        if pending.nmi {
            hardware.set_nmi(lp.0, false);
            let interruption_info = VALID | NMI;
            return Some(VmExit {
                interruption_info,
                ..VmExit::new(ExitReason::EXCEPTION_OR_NMI)
            });
        }
        let vector = pending
            .interrupt
            .then(|| hardware.acknowledge_interrupt(lp.0))
            .flatten()?;
        let interruption_info = VALID | u32::from(vector);
        Some(VmExit {
            interruption_info,
            ..VmExit::new(ExitReason::INTERRUPT)
        })
    }
}

/// Interruption information: bit 31 valid, type and vector of an NMI.
const VALID: u32 = 1 << 31;
const NMI: u32 = 0x202;

impl Machine for PlatformMachine {
    fn platform(&self) -> PlatformInfo {
        let config = self.hardware.config();
        PlatformInfo {
            lps: config.lps.len() as u32,
            packages: config.ram.len() as u32,
            cmrs: config.cmrs.clone(),
            seamrr: config.seamrr.clone(),
            cache_wb_sub_blocks: config.cache_wb_sub_blocks,
        }
    }
    fn package(&self, lp: LpId) -> PackageId {
        PackageId(self.hardware.package(lp.0))
    }
    fn read(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck> {
        self.load(from, to).map_err(|e| MachineCheck(e.0))?;
        if let Some(observer) = self.observer() {
            observer.module_read(from, to);
        }
        Ok(())
    }
    fn write(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.store(to, from).map_err(|e| MachineCheck(e.0))?;
        self.hardware.memory.note_seam_write(to, from.len());
        Ok(())
    }
    fn write_outside(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.store(to, from).map_err(|e| MachineCheck(e.0))
    }
    fn write_direct(&self, to: KeyedHpa, from: &[u8]) {
        self.store_direct(to, from);
        self.hardware.memory.note_seam_write(to, from.len());
    }
    fn clear_page(&self, page: KeyedHpa) {
        self.clear_directly(page);
        self.hardware
            .memory
            .note_seam_write(page, PAGE_SIZE as usize);
    }
    fn copy_page(&self, from: KeyedHpa, to: KeyedHpa) -> Result<(), MachineCheck> {
        let kept_elsewhere = |at: KeyedHpa| self.shared_memory(at, PAGE_SIZE as usize).is_some();
        // An observer is told what the module read.
        if self.observer().is_some() || kept_elsewhere(from) || kept_elsewhere(to) {
            let mut bytes = [0; PAGE_SIZE as usize];
            Machine::read(self, from, &mut bytes)?;
            self.write_direct(to, &bytes);
            return Ok(());
        }
        let copied = self.hardware.memory.copy_page(from, to);
        copied.map_err(|e| MachineCheck(e.0))?;
        self.hardware.memory.note_seam_write(to, PAGE_SIZE as usize);
        Ok(())
    }
    fn flush_page(&self, page: KeyedHpa) {
        self.hardware.memory.flush_page(page);
    }
    fn write_back_sub_block(&self, lp: LpId, index: u32) {
        self.hardware.write_back_sub_block(lp.0, index);
    }
    fn program_random_key(&self, lp: LpId, hkid: Hkid) -> Result<(), KeyError> {
        let done = self.hardware.program_random_key(lp.0, hkid);
        done.map_err(|tdx_machine::KeyError::Entropy| KeyError::Entropy)
    }
    fn cpuid(&self, lp: LpId, leaf: u32, subleaf: u32) -> CpuidValue {
        let [eax, ebx, ecx, edx] = self.hardware.cpuid(lp.0, leaf, subleaf);
        CpuidValue { eax, ebx, ecx, edx }
    }
    fn read_msr(&self, lp: LpId, msr: u32) -> u64 {
        self.hardware.read_msr(lp.0, msr)
    }
    fn write_msr(&self, lp: LpId, msr: u32, value: u64) {
        self.hardware.write_msr(lp.0, msr, value);
    }
    fn tsc(&self, _lp: LpId) -> u64 {
        self.hardware.tsc()
    }
    fn random(&self, lp: LpId) -> Option<u64> {
        self.hardware.random(lp.0)
    }
    fn pending_events(&self, lp: LpId) -> PendingEvents {
        let pending = self.hardware.pending(lp.0);
        let events = PendingEvents {
            interrupt: pending.interrupt,
            nmi: pending.nmi,
            smi: pending.smi,
        };
        if let Some(observer) = self.observer() {
            observer.pending_events(lp.0, events);
        }
        events
    }
    fn post(&self, lp: LpId, event: HostEvent) {
        match event {
            HostEvent::Interrupt(vector) => self.hardware.interrupt(lp.0, vector),
            HostEvent::Nmi => self.hardware.set_nmi(lp.0, true),
            HostEvent::Init => self.hardware.set_init(lp.0, true),
        }
    }
    fn invalidate_translations(&self, lp: LpId, vpids: &[u16]) {
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(missed) = deaf.get_mut(&lp) {
            missed.extend_from_slice(vpids);
            return;
        }
        drop(deaf);
        self.tlb(lp).invalidate(vpids);
        self.guests.invalidate(lp, vpids);
    }
    fn cached_translations(&self, lp: LpId) -> Vec<CachedTranslation> {
        match &self.guests {
            Guests::Engine(engines) => engines.cached(&self.hardware, lp),
            Guests::Scripted(_) | Guests::Stepped(_) => self.tlb(lp).entries().collect(),
        }
    }
    fn exposed(&self, range: Range<u64>) -> Option<Hpa> {
        self.hardware.memory.exposed_seam_data(range)
    }
    fn run(&self, lp: LpId, vcpu: &mut Vcpu, second_level: &dyn SecondLevel) {
        if let Some(observer) = self.observer() {
            observer.entering(lp.0, vcpu);
        }
        self.guests.run(self, lp, vcpu, second_level);
        if let Some(observer) = self.observer() {
            observer.exited(lp.0, vcpu);
        }
    }
}
