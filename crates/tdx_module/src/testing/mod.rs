//! A flat machine and a small world on it, for the crate's own tests.
//!
//! Memory is flat: key IDs do not encrypt. The CPUID is what the module's table demands, and no more.

#[cfg(test)]
pub(crate) mod explore;
mod play;
#[cfg(test)]
mod sparse;

pub use play::play;

use crate::cpuid::ROWS as CPUID_ROWS;
use crate::machine::*;
use crate::{Module, Profile};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use coco_regs::{GprFile, XmmFile};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::Mutex;
use tdx_abi::{HostLeaf, LeafWord, Status};
use x86_arch::vmx::Vcpu;
use x86_arch::{
    Access, EptFault, ExitReason, Gpa, Gpr, Hkid, Hpa, KeyedHpa, SecondLevel, SecondLevelMapping,
    VmExit,
};

pub const GLOBAL_HKID: u64 = 32;
/// Where TDMR memory starts.
pub const TDMR: u64 = 1 << 32;

/// A guest that several processors run at once.
pub type Guest = dyn Fn(&mut Vcpu, &dyn SecondLevel) + Send + Sync;

/// A processor's own hold of the guest.
#[derive(Default)]
#[repr(align(128))]
struct SharedGuest(Mutex<Option<Arc<Guest>>>);

/// The machine.
pub struct FlatMachine {
    lps: u32,
    pages: Mutex<BTreeMap<u64, [u8; 4096]>>,
    msrs: Mutex<BTreeMap<(u32, u32), u64>>,
    random: AtomicU64,
    pub no_entropy: AtomicBool,
    pub key_error: Mutex<Option<KeyError>>,
    pub nmi: AtomicBool,
    pub tsc: AtomicU64,
    /// TLB flushes, to be seen by tests.
    pub flushes: AtomicU32,
    /// What several vCPUs at once do until an external interrupt stops them, or another exit that they fill in; comes
    /// before `guest`.
    shared_guests: Vec<SharedGuest>,
    /// The TSC stands still, so that processors do not meet there.
    pub tsc_stands: AtomicBool,
    /// Pages that the module wrote with a shared key ID, and nobody since.
    exposed: Mutex<BTreeSet<u64>>,
    /// What each processor translated and did not drop.
    tlbs: Vec<Mutex<BTreeMap<(u16, Gpa), KeyedHpa>>>,
    msrs_changed: AtomicBool,
    /// Events that the module made pending again.
    pub posted: Mutex<Vec<HostEvent>>,
    /// What a vCPU does when it runs; without one it shuts down.
    pub guest: Mutex<Option<Script>>,
}

/// A guest: does something with its vCPU and leaves the words of a VM exit in it.
pub type Script = alloc::boxed::Box<dyn FnMut(&mut Vcpu, &dyn SecondLevel) + Send>;

const MSRS: [(u32, u64); 30] = [
    (0x87, 0x20_0000_001F),
    (0x98, 4),
    (0x99, 4),
    (0xBC, 1),
    (0xBD, 1),
    (0xCF, 0x20),
    (0xFE, 0xFD0A),
    (0x10A, 0x1A0_FD6B),
    (0x1A0, 0x4_0801),
    (0x1F2, 0x9000_0006),
    (0x1F3, 0xFE00_0C00),
    (0x345, 0xA000),
    (0x480, 0xD8_0400_0000_0011),
    (0x485, 0x7004_C1E7),
    (0x486, 0x8000_0021),
    (0x487, 0xFFFF_FFFF),
    (0x488, 0x2000),
    (0x489, 0x3FF_7FFF),
    (0x48B, 0xFFFF_FFFF_0000_0000),
    (0x48C, 0xF01_06F3_41C1),
    (0x48D, 0xFF_0000_0016),
    (0x48E, 0xFFFB_FFFE_0400_6172),
    (0x48F, 0xFFFF_FFFF_0003_6DFB),
    (0x490, 0xFF_FFFF_0000_11FB),
    (0x492, 0xEF),
    (0x981, 0x3F6_0000_0005),
    (0x982, 0x5_0056_0000_0003),
    (0x14CF, 0x20),
    (0xC000_0080, 0xD01),
    (0xC000_0084, 0x2_0200),
];

impl FlatMachine {
    pub fn new(lps: u32) -> FlatMachine {
        FlatMachine {
            lps,
            pages: Mutex::default(),
            msrs: Mutex::default(),
            random: AtomicU64::new(1),
            no_entropy: AtomicBool::new(false),
            key_error: Mutex::default(),
            nmi: AtomicBool::new(false),
            tsc: AtomicU64::new(0),
            flushes: AtomicU32::new(0),
            shared_guests: (0..lps).map(|_| SharedGuest::default()).collect(),
            tsc_stands: AtomicBool::new(false),
            exposed: Mutex::default(),
            tlbs: (0..lps).map(|_| Mutex::default()).collect(),
            msrs_changed: AtomicBool::new(false),
            posted: Mutex::default(),
            guest: Mutex::new(None),
        }
    }
    /// Every processor's vCPUs run this from now on.
    pub fn share_guest(&self, guest: Arc<Guest>) {
        for own in &self.shared_guests {
            *own.0.lock() = Some(guest.clone());
        }
    }
    pub fn set_msr(&self, lp: u32, msr: u32, value: u64) {
        self.msrs_changed.store(true, Ordering::Release);
        self.msrs.lock().insert((lp, msr), value);
    }
    /// Writes as the host.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let pages = at >> 12..(at + bytes.len() as u64).div_ceil(4096);
        self.exposed.lock().retain(|page| !pages.contains(page));
        self.put(at, bytes);
    }
    /// Writes as the module.
    fn put_with(&self, to: KeyedHpa, bytes: &[u8]) {
        let at = to.hpa.raw();
        let pages = at >> 12..(at + bytes.len() as u64).div_ceil(4096);
        let mut exposed = self.exposed.lock();
        match u64::from(to.hkid.0) < GLOBAL_HKID {
            true => exposed.extend(pages),
            false => exposed.retain(|page| !pages.contains(page)),
        }
        drop(exposed);
        self.put(at, bytes);
    }
    fn put(&self, at: u64, bytes: &[u8]) {
        let mut pages = self.pages.lock();
        let mut address = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (address & 0xFFF) as usize;
            let (part, after) = rest.split_at(rest.len().min(4096 - offset));
            let page = pages.entry(address >> 12).or_insert([0; 4096]);
            page[offset..offset + part.len()].copy_from_slice(part);
            address += part.len() as u64;
            rest = after;
        }
    }
}

impl Machine for FlatMachine {
    fn platform(&self) -> PlatformInfo {
        PlatformInfo {
            lps: self.lps,
            packages: 1,
            cmrs: vec![0x10_0000..0x8000_0000, TDMR..TDMR + (4 << 30)],
            seamrr: 0x8000_0000..0x8200_0000,
            cache_wb_sub_blocks: 4,
        }
    }
    fn package(&self, _: LpId) -> PackageId {
        PackageId(0)
    }
    fn read(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck> {
        let pages = self.pages.lock();
        let mut address = from.hpa.raw();
        let mut rest = to;
        while !rest.is_empty() {
            let offset = (address & 0xFFF) as usize;
            let (part, after) = rest.split_at_mut(rest.len().min(4096 - offset));
            match pages.get(&(address >> 12)) {
                Some(page) => part.copy_from_slice(&page[offset..offset + part.len()]),
                None => part.fill(0),
            }
            address += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
    fn write(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.put_with(to, from);
        Ok(())
    }
    fn write_outside(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.poke(to.hpa.raw(), from);
        Ok(())
    }
    fn write_direct(&self, to: KeyedHpa, from: &[u8]) {
        self.put_with(to, from);
    }
    fn flush_page(&self, _: KeyedHpa) {}
    fn write_back_sub_block(&self, _: LpId, _: u32) {}
    fn program_random_key(&self, _: LpId, _: Hkid) -> Result<(), KeyError> {
        match *self.key_error.lock() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
    fn cpuid(&self, lp: LpId, leaf: u32, subleaf: u32) -> CpuidValue {
        let row = CPUID_ROWS
            .iter()
            .find(|row| row.leaf == leaf && row.subleaf.is_none_or(|s| s == subleaf));
        let mut v = row.map_or([0; 4], |row| row.verify_value);
        match (leaf, subleaf) {
            (0, _) => v[0] = 0x20,
            (1, _) => v[0] = 0x806F8,
            (4, 3) => v[0] = 0x163 | 1 << 14,
            (7, 0) => v[2] = 1 << 16,
            (0xA, _) => (v[0], v[3]) = (0x0730_0805, 0x8604),
            (0xD, 0) => v = [0x602E7, 0x2B00, 0x2B00, 0],
            (0xD, 1) => v = [0x1F, 0x2B00, 0x1F900, 0],
            (0x15, _) => v = [2, 0xA8, 25_000_000, 0],
            (0x1F, 0) => v = [0, 1, 0x100, lp.0],
            (0x1F, 1) => v = [1, 2, 0x201, lp.0],
            (0x1F, n) => v = [0, 0, n, lp.0],
            (0x8000_0000, _) => v[0] = 0x8000_0008,
            (0x8000_0008, _) => v[0] = 0x3934,
            _ => {}
        }
        if let Some(row) = row {
            v = core::array::from_fn(|r| v[r] & !row.verify_mask[r] | row.verify_value[r]);
        }
        let [eax, ebx, ecx, edx] = v;
        CpuidValue { eax, ebx, ecx, edx }
    }
    fn read_msr(&self, lp: LpId, msr: u32) -> u64 {
        if self.msrs_changed.load(Ordering::Acquire)
            && let Some(value) = self.msrs.lock().get(&(lp.0, msr))
        {
            return *value;
        }
        let known = MSRS.iter().find(|(address, _)| *address == msr);
        known.map_or(0, |(_, value)| *value)
    }
    fn write_msr(&self, lp: LpId, msr: u32, value: u64) {
        self.set_msr(lp.0, msr, value);
    }
    fn tsc(&self, _: LpId) -> u64 {
        match self.tsc_stands.load(Ordering::Relaxed) {
            true => self.tsc.load(Ordering::Relaxed),
            false => self.tsc.fetch_add(100, Ordering::Relaxed),
        }
    }
    fn random(&self, _: LpId) -> Option<u64> {
        let next = self
            .random
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        (!self.no_entropy.load(Ordering::Relaxed)).then_some(next)
    }
    fn pending_events(&self, _: LpId) -> PendingEvents {
        PendingEvents {
            nmi: self.nmi.load(Ordering::Relaxed),
            ..PendingEvents::default()
        }
    }
    fn post(&self, _: LpId, event: HostEvent) {
        self.posted.lock().push(event);
    }
    fn invalidate_translations(&self, lp: LpId, vpids: &[u16]) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let mut tlb = self.tlbs[lp.0 as usize].lock();
        tlb.retain(|(vpid, _), _| !vpids.contains(vpid));
    }
    fn cached_translations(&self, lp: LpId) -> Vec<CachedTranslation> {
        let tlb = self.tlbs[lp.0 as usize].lock();
        let cached = |(&(vpid, gpa), &page): (&(u16, Gpa), &KeyedHpa)| CachedTranslation {
            vpid,
            gpa: Some(gpa),
            page,
        };
        tlb.iter().map(cached).collect()
    }
    fn exposed(&self, range: Range<u64>) -> Option<Hpa> {
        let pages = range.start >> 12..range.end.div_ceil(4096);
        let first = self.exposed.lock().range(pages).next().copied();
        first.map(|page| Hpa::new(page << 12))
    }
    fn run(&self, lp: LpId, vcpu: &mut Vcpu, memory: &dyn SecondLevel) {
        vcpu.entry_event.info &= !(1 << 31);
        let memory = &Caching {
            tlb: &self.tlbs[lp.0 as usize],
            vpid: vcpu.controls.vpid,
            memory,
        };
        if let Some(guest) = &*self.shared_guests[lp.0 as usize].0.lock() {
            vcpu.exit = VmExit {
                interruption_info: 0x8000_0020,
                ..VmExit::new(ExitReason::INTERRUPT)
            };
            guest(vcpu, memory);
            return;
        }
        match &mut *self.guest.lock() {
            Some(guest) => guest(vcpu, memory),
            None => vcpu.exit = VmExit::new(ExitReason::TRIPLE_FAULT),
        }
    }
}

/// A second level through a processor's cache.
struct Caching<'a> {
    tlb: &'a Mutex<BTreeMap<(u16, Gpa), KeyedHpa>>,
    vpid: u16,
    memory: &'a dyn SecondLevel,
}

impl SecondLevel for Caching<'_> {
    /// What is cached is only noted: tests that look for stale translations ask the audit.
    fn translate(&self, gpa: Gpa, access: Access) -> Result<SecondLevelMapping, EptFault> {
        let mapping = self.memory.translate(gpa, access)?;
        let key = (self.vpid, gpa.page());
        self.tlb.lock().insert(key, mapping.page);
        Ok(mapping)
    }
}

/// A module on the flat machine.
pub struct World {
    pub module: Module<FlatMachine>,
    /// The next page of TDMR memory that nobody uses.
    next_page: u64,
}

/// A TD of a [`World`], with what it is made of.
#[derive(Clone, Copy, Debug)]
pub struct TestTd {
    pub tdr: u64,
}

/// TD_PARAMS: attributes, then what every test TD has.
pub fn td_params(attributes: u64) -> [u8; 1024] {
    let mut params = [0; 1024];
    params[..8].copy_from_slice(&attributes.to_le_bytes());
    params[8] = 7; // XFAM: x87, SSE, AVX
    params[16] = 4; // vCPUs
    params[24] = 6 | 3 << 3; // write-back, 4 levels
    params[40] = 40; // 1 GHz
    params
}

impl World {
    /// A module that was just loaded.
    pub fn loaded(lps: u32) -> World {
        World {
            module: Module::new(FlatMachine::new(lps), Profile::V1_5_01),
            next_page: TDMR + 0x10_0000,
        }
    }
    /// A READY module with one TDMR of 1 GiB, whose PAMTs lie above it.
    pub fn ready(lps: u32) -> World {
        World::ready_with(lps, 1)
    }
    /// The same with a TDMR of this many GiB, 1 or 2.
    pub fn ready_with(lps: u32, gib: u64) -> World {
        let world = World::loaded(lps);
        world.ok(0, HostLeaf::SYS_INIT, &[(Gpr::Rcx, 0)]);
        for lp in 0..lps {
            world.ok(lp, HostLeaf::SYS_LP_INIT, &[]);
        }
        let pamt = TDMR + (gib << 30);
        let info = [
            TDMR,
            gib << 30,
            pamt,
            0x1000,
            pamt + 0x1000,
            gib * 0x2000,
            pamt + 0x10_0000,
            gib * 0x40_0000,
        ];
        for (i, word) in info.iter().enumerate() {
            world
                .module
                .machine
                .poke(0x20_1000 + 8 * i as u64, &word.to_le_bytes());
        }
        world
            .module
            .machine
            .poke(0x20_0000, &0x20_1000u64.to_le_bytes());
        let config = [(Gpr::Rcx, 0x20_0000), (Gpr::Rdx, 1), (Gpr::R8, GLOBAL_HKID)];
        world.ok(0, HostLeaf::SYS_CONFIG, &config);
        world.ok(0, HostLeaf::SYS_KEY_CONFIG, &[]);
        for _ in 0..256 * gib {
            world.ok(0, HostLeaf::SYS_TDMR_INIT, &[(Gpr::Rcx, TDMR)]);
        }
        world
    }
    pub fn machine(&self) -> &FlatMachine {
        &self.module.machine
    }
    /// The next unused page is this one.
    pub fn continue_at(&mut self, page: u64) {
        self.next_page = page;
    }
    /// A page of TDMR memory that nobody uses.
    pub fn page(&mut self) -> u64 {
        self.next_page += 0x1000;
        self.next_page - 0x1000
    }
    /// A range of TDMR memory of this size that nobody uses.
    pub fn range(&mut self, size: u64) -> u64 {
        let start = self.next_page.next_multiple_of(size);
        self.next_page = start + size;
        start
    }
    /// A SEAMCALL of a version with these registers; the others are recognisable junk.
    pub fn call_version(
        &self,
        lp: u32,
        leaf: HostLeaf,
        version: u8,
        regs: &[(Gpr, u64)],
    ) -> (Status, GprFile) {
        let mut file = GprFile(core::array::from_fn(|i| 0xA5A5_0000_5A5A_0000 | i as u64));
        for (reg, value) in regs {
            file[*reg] = *value;
        }
        file[Gpr::Rax] = LeafWord::new(leaf.0, version).0;
        let result = self
            .module
            .seamcall(LpId(lp), &mut file, &mut XmmFile::default());
        result.unwrap_or_else(|broken| panic!("{leaf}: {broken}"));
        (Status(file[Gpr::Rax]), file)
    }
    pub fn call(&self, lp: u32, leaf: HostLeaf, regs: &[(Gpr, u64)]) -> Status {
        self.call_version(lp, leaf, 0, regs).0
    }
    /// A call that must succeed.
    #[track_caller]
    pub fn ok(&self, lp: u32, leaf: HostLeaf, regs: &[(Gpr, u64)]) -> GprFile {
        let (status, file) = self.call_version(lp, leaf, 0, regs);
        assert_eq!(status, Status::SUCCESS, "{leaf} {:x?}", file.0);
        file
    }
    /// TD with keys and TDCS pages, not initialised.
    pub fn created_td(&mut self, hkid: u64, tdcs_pages: u32) -> TestTd {
        let tdr = self.page();
        self.ok(
            0,
            HostLeaf::MNG_CREATE,
            &[(Gpr::Rcx, tdr), (Gpr::Rdx, hkid)],
        );
        self.ok(0, HostLeaf::MNG_KEY_CONFIG, &[(Gpr::Rcx, tdr)]);
        for _ in 0..tdcs_pages {
            let page = self.page();
            self.ok(0, HostLeaf::MNG_ADDCX, &[(Gpr::Rcx, page), (Gpr::Rdx, tdr)]);
        }
        TestTd { tdr }
    }
    /// An initialised TD without memory.
    pub fn td_with(&mut self, hkid: u64, attributes: u64) -> TestTd {
        let td = self.created_td(hkid, 6);
        self.machine().poke(0x21_0000, &td_params(attributes));
        let init = [(Gpr::Rcx, td.tdr), (Gpr::Rdx, 0x21_0000)];
        self.ok(0, HostLeaf::MNG_INIT, &init);
        td
    }
    pub fn td(&mut self, hkid: u64) -> TestTd {
        self.td_with(hkid, 0)
    }
    /// Secure-EPT pages for a GPA down to the level whose entries are of `level` 0 or 1.
    pub fn sept_path(&mut self, td: TestTd, gpa: u64, level: u8) -> Vec<u64> {
        let mut pages = Vec::new();
        for parent in (level + 1..4).rev() {
            let page = self.page();
            let aligned = gpa & !((4096 << (9 * parent as u32)) - 1);
            let regs = [
                (Gpr::Rcx, aligned | parent as u64),
                (Gpr::Rdx, td.tdr),
                (Gpr::R8, page),
            ];
            if self.call(0, HostLeaf::MEM_SEPT_ADD, &regs) == Status::SUCCESS {
                pages.push(page);
            }
        }
        pages
    }
    /// A measured page.
    pub fn add_page(&mut self, td: TestTd, gpa: u64) -> u64 {
        let page = self.page();
        let regs = [
            (Gpr::Rcx, gpa),
            (Gpr::Rdx, td.tdr),
            (Gpr::R8, page),
            (Gpr::R9, 0x30_0000),
        ];
        self.ok(0, HostLeaf::MEM_PAGE_ADD, &regs);
        page
    }
    /// A pending page.
    pub fn aug_page(&mut self, td: TestTd, gpa: u64, level: u8) -> u64 {
        let page = self.range(4096 << (9 * level as u32));
        let regs = [
            (Gpr::Rcx, gpa | level as u64),
            (Gpr::Rdx, td.tdr),
            (Gpr::R8, page),
        ];
        self.ok(0, HostLeaf::MEM_PAGE_AUG, &regs);
        page
    }
    /// A vCPU on processor `lp`.
    pub fn vcpu(&mut self, td: TestTd, lp: u32) -> u64 {
        let tdvpr = self.vcpu_with_pages(td, lp);
        self.ok(lp, HostLeaf::VP_INIT, &[(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0)]);
        tdvpr
    }
    /// A vCPU that TDH.VP.INIT has not seen.
    pub fn vcpu_before_init(&mut self, td: TestTd) -> u64 {
        self.vcpu_with_pages(td, 0)
    }
    fn vcpu_with_pages(&mut self, td: TestTd, lp: u32) -> u64 {
        let tdvpr = self.page();
        self.ok(
            lp,
            HostLeaf::VP_CREATE,
            &[(Gpr::Rcx, tdvpr), (Gpr::Rdx, td.tdr)],
        );
        for _ in 0..5 {
            let page = self.page();
            self.ok(
                lp,
                HostLeaf::VP_ADDCX,
                &[(Gpr::Rcx, page), (Gpr::Rdx, tdvpr)],
            );
        }
        tdvpr
    }
    /// A TD that may run, with one vCPU on processor 0.
    pub fn runnable_td(&mut self, hkid: u64) -> (TestTd, u64) {
        self.runnable_td_with(hkid, 0, 0)
    }
    /// The same with these ATTRIBUTES and CONFIG_FLAGS.
    pub fn runnable_td_with(
        &mut self,
        hkid: u64,
        attributes: u64,
        config_flags: u64,
    ) -> (TestTd, u64) {
        let td = self.created_td(hkid, 6);
        let mut params = td_params(attributes);
        params[32..40].copy_from_slice(&config_flags.to_le_bytes());
        self.machine().poke(0x21_0000, &params);
        self.ok(
            0,
            HostLeaf::MNG_INIT,
            &[(Gpr::Rcx, td.tdr), (Gpr::Rdx, 0x21_0000)],
        );
        let tdvpr = self.vcpu(td, 0);
        self.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
        (td, tdvpr)
    }
}
