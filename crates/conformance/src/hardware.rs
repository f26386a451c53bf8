//! The recording machine as far as a module sees it, vCPUs apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tdx_module::{CpuidValue, KeyError, PendingEvents, PlatformInfo};

use crate::header::{CpuidRow, MsrValues, PhysRange, Platform};
use crate::memory::FlatMemory;

/// How far the TSC moves by each read: what LAST_EXIT_TSC shows in the recordings.
const TSC_STEP: u64 = 100_000;
const ANY_SUBLEAF: u32 = u32::MAX;
const IA32_TSC: u32 = 0x10;

/// What a reset may change of the platform until the next one.
#[derive(Default)]
pub(crate) struct Changes<'a> {
    pub(crate) msr: Option<&'a MsrValues>,
    pub(crate) cpuid: Option<&'a [CpuidRow]>,
    pub(crate) cmrs: Option<&'a [PhysRange]>,
}

pub(crate) struct Hardware {
    platform: Platform,
    cmrs: Vec<PhysRange>,
    cpuid: HashMap<(u32, u32), [u32; 4]>,
    msr: BTreeMap<u32, u64>,
    memory: Mutex<FlatMemory>,
    /// MSRs that differ from `msr`, by processor and address.
    lp_msr: Mutex<HashMap<(u32, u32), u64>>,
    pending: Mutex<HashMap<u32, u8>>,
    tsc: AtomicU64,
    random: AtomicU64,
    entropy_failures: AtomicU64,
    pconfig_result: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Hardware {
    /// A machine just switched on.
    pub(crate) fn new(platform: &Platform, changes: &Changes<'_>) -> Hardware {
        let rows = platform
            .cpuid
            .iter()
            .chain(changes.cpuid.unwrap_or_default());
        let no_changes = MsrValues::new();
        let msrs = platform
            .msr
            .iter()
            .chain(changes.msr.unwrap_or(&no_changes));
        Hardware {
            cmrs: changes.cmrs.unwrap_or(&platform.cmrs).to_vec(),
            cpuid: rows
                .map(|row| ((row.leaf, row.subleaf), row.value))
                .collect(),
            msr: msrs.map(|(address, value)| (address.0, value.0)).collect(),
            platform: platform.clone(),
            memory: Mutex::new(match platform.memory_end {
                Some(end) => FlatMemory::ending_at(end.0),
                None => FlatMemory::default(),
            }),
            lp_msr: Mutex::default(),
            pending: Mutex::default(),
            tsc: AtomicU64::new(0),
            random: AtomicU64::new(0),
            entropy_failures: AtomicU64::new(0),
            pconfig_result: AtomicU64::new(0),
        }
    }

    pub(crate) fn info(&self) -> PlatformInfo {
        let range = |r: &PhysRange| r.base.0..r.base.0 + r.size.0;
        PlatformInfo {
            lps: self.platform.lps,
            packages: self.platform.packages,
            cmrs: self.cmrs.iter().map(range).collect(),
            seamrr: range(&self.platform.seamrr),
            cache_wb_sub_blocks: self.platform.cache_wb_sub_blocks,
        }
    }

    pub(crate) fn xsave_size_follows_xcr0(&self) -> bool {
        self.platform.xsave_size_follows_xcr0
    }

    pub(crate) fn package(&self, lp: u32) -> u32 {
        self.platform.lp_package[lp as usize]
    }

    /// Physical-address bits that do not carry the key ID.
    fn flat(&self, pa: u64) -> u64 {
        pa & ((1 << (self.platform.phys_addr_bits - self.platform.keyid_bits)) - 1)
    }
    pub(crate) fn read(&self, pa: u64, to: &mut [u8]) {
        lock(&self.memory).read(self.flat(pa), to);
    }
    pub(crate) fn write(&self, pa: u64, from: &[u8]) {
        lock(&self.memory).write(self.flat(pa), from);
    }
    pub(crate) fn fill(&self, pa: u64, size: u64, byte: u8) {
        lock(&self.memory).fill(self.flat(pa), size, byte);
    }

    pub(crate) fn cpuid(&self, lp: u32, leaf: u32, subleaf: u32) -> CpuidValue {
        let rows = &self.cpuid;
        let row = rows
            .get(&(leaf, subleaf))
            .or_else(|| rows.get(&(leaf, ANY_SUBLEAF)));
        let [eax, mut ebx, ecx, mut edx] = row.copied().unwrap_or_default();
        let apic_id = self.platform.lp_x2apic[lp as usize];
        match leaf {
            1 => ebx = ebx & 0x00FF_FFFF | apic_id << 24,
            0x1F => edx = apic_id,
            _ => {}
        }
        CpuidValue { eax, ebx, ecx, edx }
    }

    pub(crate) fn read_msr(&self, lp: u32, msr: u32) -> u64 {
        if msr == IA32_TSC {
            return self.tsc();
        }
        let own = lock(&self.lp_msr).get(&(lp, msr)).copied();
        own.or_else(|| self.msr.get(&msr).copied()).unwrap_or(0)
    }
    pub(crate) fn write_msr(&self, lp: u32, msr: u32, value: u64) {
        lock(&self.lp_msr).insert((lp, msr), value);
    }

    pub(crate) fn tsc(&self) -> u64 {
        self.tsc.fetch_add(TSC_STEP, Ordering::Relaxed)
    }
    pub(crate) fn set_tsc(&self, value: u64) {
        self.tsc.store(value, Ordering::Relaxed);
    }

    /// The next random number; its value is never compared, so the generator only has to be fixed.
    pub(crate) fn random(&self) -> Option<u64> {
        let failures = &self.entropy_failures;
        let left =
            failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if left.is_ok() {
            return None;
        }
        let state = self
            .random
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(mixed ^ mixed >> 31)
    }
    pub(crate) fn fail_entropy(&self, count: u64) {
        self.entropy_failures.store(count, Ordering::Relaxed);
    }

    pub(crate) fn program_key(&self) -> Result<(), KeyError> {
        match self.pconfig_result.load(Ordering::Relaxed) as u32 {
            0 => Ok(()),
            2 => Err(KeyError::Entropy),
            5 => Err(KeyError::DeviceBusy),
            code => Err(KeyError::Other(code)),
        }
    }
    pub(crate) fn set_pconfig_result(&self, code: u32) {
        self.pconfig_result.store(code.into(), Ordering::Relaxed);
    }

    pub(crate) fn pending(&self, lp: u32) -> PendingEvents {
        let bits = lock(&self.pending).get(&lp).copied().unwrap_or(0);
        PendingEvents {
            interrupt: bits & 1 != 0,
            nmi: bits & 2 != 0,
            smi: bits & 4 != 0,
        }
    }
    pub(crate) fn set_pending(&self, lp: u32, bits: u8) {
        lock(&self.pending).insert(lp, bits);
    }
}
