//! A TDX platform in software: `tdx_module` on the processors and memory of `tdx_machine`, with guests to run.
//!
//! Read this file for the whole: a [`Platform`] is made of a [`PlatformConfig`] and of [`Guests`]; its processors
//! are [`PlatformLp`]s, which execute SEAMCALL, and its memory is a [`PlatformMemory`]. Host software needs no more.
#![forbid(unsafe_code)]

mod attach;
mod disturb;
mod engine;
mod guest;
mod lp;
mod machine;
mod processor;
mod script;
mod tlb;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

pub use attach::{Attachments, Observer, SharedMemory};
pub use disturb::StaleTranslation;
pub use engine::Engines;
pub use guest::Guests;
pub use lp::{PlatformLp, PlatformMemory};
pub use machine::PlatformMachine;
pub use script::{Event, ScriptCpu};
use tdx_call::Direct;
pub use tdx_machine::{Clock, Config as MachineConfig, LpConfig};
use tdx_module::{LpId, Module};
pub use tdx_module::{PlatformInfo, Profile};
pub use x86_engine::{EngineKind, Statistics};

const MIB: u64 = 1 << 20;

/// What a platform is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct PlatformConfig {
    pub machine: MachineConfig,
    pub profile: Profile,
}

/// Where there is no RAM for software: the module's range and SMRAM (MSR 0x1F2) lie here.
const GAP: std::ops::Range<u64> = 0x8000_0000..0x1_0000_0000;

impl PlatformConfig {
    /// A platform of `packages` packages with `lps` processors and `ram` bytes each: RAM from address 0 with a gap
    /// between 2 and 4 GiB for the module's own range, all of it convertible from 1 MiB on, 64 key IDs of which 32
    /// are private, and the newest module.
    ///
    /// # Panics
    /// When there is no processor or less than 2 MiB of RAM, or `ram` is no multiple of 2 MiB.
    pub fn new(packages: u32, lps: u32, ram: u64) -> PlatformConfig {
        assert!(packages > 0 && lps > 0 && ram >= 2 * MIB && ram.is_multiple_of(2 * MIB));
        // A package's memory ends where the next one's begins; what lies above the gap is moved by its size.
        let end = |package: u32| {
            let end = ram * u64::from(package);
            if end > GAP.start {
                end + (GAP.end - GAP.start)
            } else {
                end
            }
        };
        let top = end(packages);
        let ranges = [MIB..top.min(GAP.start), GAP.end..top];
        // Packages are told apart by x2APIC id bits above those of the processors in one.
        let shift = processor::package_shift(lps);
        let id = |package, lp| LpConfig {
            package,
            x2apic_id: (package << shift) | lp,
        };
        let ids = (0..packages).flat_map(|package| (0..lps).map(move |lp| id(package, lp)));
        PlatformConfig {
            machine: MachineConfig {
                lps: ids.collect(),
                ram: (0..packages)
                    .map(|package| end(package + 1) - end(package))
                    .collect(),
                cmrs: ranges
                    .into_iter()
                    .filter(|range| !range.is_empty())
                    .collect(),
                seamrr: GAP.start..GAP.start + 32 * MIB,
                key_ids: 64,
                private_key_ids: (32, 63),
                cache_wb_sub_blocks: 4,
                cpuid: processor::cpuid(lps),
                msrs: processor::msrs(),
                tsc_hz: 2_100_000_000,
                seed: 0,
                clock: Clock::Virtual,
            },
            profile: (*Profile::ALL[Profile::ALL.len() - 1]).clone(),
        }
    }
}

/// A module on its machine.
///
/// Debug builds check its consistency once more when it goes ([`Module::audit`]).
pub struct Platform {
    module: Module<PlatformMachine>,
    taken: Vec<AtomicBool>,
    /// What a lost TLB flush left usable.
    stale: Mutex<Vec<StaleTranslation>>,
}

#[cfg(debug_assertions)]
impl Drop for Platform {
    fn drop(&mut self) {
        // A module that stopped for good may have stopped half-way, and a test that fails says why itself.
        if !self.module.is_stopped() && !std::thread::panicking() {
            assert_eq!(self.module.audit(), [], "at the end");
        }
    }
}

impl Platform {
    /// A machine just switched on, with the module loaded.
    pub fn new(config: PlatformConfig, guests: Guests) -> Arc<Platform> {
        Platform::attached(config, guests, Attachments::default())
    }

    /// The same, with somebody attached.
    pub fn attached(
        config: PlatformConfig,
        guests: Guests,
        attachments: Attachments,
    ) -> Arc<Platform> {
        let taken = config
            .machine
            .lps
            .iter()
            .map(|_| AtomicBool::new(false))
            .collect();
        let hardware = Arc::new(tdx_machine::Machine::new(config.machine));
        let machine = PlatformMachine::new(hardware, guests, attachments);
        Arc::new(Platform {
            module: Module::new(machine, config.profile),
            taken,
            stale: Mutex::default(),
        })
    }

    /// The processor `lp`; `None` when it does not exist or somebody has it already.
    pub fn lp(self: &Arc<Self>, lp: u32) -> Option<Direct<PlatformLp>> {
        let taken = self.taken.get(lp as usize)?;
        (!taken.swap(true, SeqCst)).then(|| Direct(PlatformLp::new(self.clone(), LpId(lp))))
    }
    /// Every processor that nobody has yet.
    pub fn lps(self: &Arc<Self>) -> Vec<Direct<PlatformLp>> {
        (0..self.taken.len() as u32)
            .filter_map(|lp| self.lp(lp))
            .collect()
    }
    /// Memory as the host reaches it.
    pub fn memory(self: &Arc<Self>) -> PlatformMemory {
        PlatformMemory::new(self.clone())
    }

    /// The machine itself: interrupts, time, memory under any key.
    pub fn hardware(&self) -> &Arc<tdx_machine::Machine> {
        &self.module.machine().hardware
    }
    /// Instructions that guests completed on the CPU engine so far.
    pub fn retired(&self) -> u64 {
        self.module.machine().guests.retired()
    }
    /// What the CPU engines translated; `None` where nothing is translated.
    pub fn translated(&self) -> Option<Statistics> {
        self.module.machine().guests.translated()
    }
    /// Why the interpreter runs guests although another engine was asked for.
    pub fn refused(&self) -> Option<String> {
        self.module.machine().guests.refused()
    }
    /// The first difference that the lockstep engine found between translated code and the interpreter. The vCPU it
    /// was found on took a triple fault.
    pub fn difference(&self) -> Option<String> {
        self.module.machine().guests.difference()
    }
    /// Why the #VE was raised whose delivery ended in a triple fault, if one did.
    pub fn unread_ve(&self) -> Option<x86_arch::ExitReason> {
        self.module.machine().guests.unread_ve()
    }
    /// Whether a TDREPORT was made on this machine: what SEAMVERIFYREPORT tells software on real hardware, where the
    /// MAC key never leaves the processor. The hashes in the report are their reader's to check.
    pub fn verifies(&self, report: &[u8; 1024]) -> bool {
        let Some(mac_struct) = report.first_chunk() else {
            return false;
        };
        let verdict = tdx_module::report::verify(self.module.machine(), mac_struct);
        verdict == tdx_module::report::Verdict::Good
    }
    pub fn module(&self) -> &Module<PlatformMachine> {
        &self.module
    }
    /// What the firmware tells host software: CMRs, processors.
    pub fn info(&self) -> PlatformInfo {
        tdx_module::Machine::platform(self.module.machine())
    }
}
