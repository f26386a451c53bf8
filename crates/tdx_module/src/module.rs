//! The module as a whole: its state, and the one entry for SEAMCALL.

use crate::call::Call;
use crate::event::{Event, EventSink};
use crate::kot::{Kot, WriteBack};
use crate::leaf;
use crate::lock::ShareEx;
use crate::lp::LpState;
use crate::machine::{LpId, Machine, PlatformInfo};
use crate::pamt::Pamt;
use crate::profile::Profile;
use crate::refusal::{Broken, Stop};
use crate::state::{AtomicSysState, SysState};
use crate::sys::{Global, SysInfo};
use alloc::boxed::Box;
use coco_regs::{GprFile, XmmFile};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use spin::{Mutex, Once};
use tdx_abi::{HostLeaf, LeafWord, OperandId, Status};
use x86_arch::{Gpr, Hkid};

/// The most packages a platform may have.
pub const MAX_PACKAGES: usize = 8;
/// The most key IDs the key-ownership table holds.
pub const MAX_HKIDS: usize = 2048;
/// The most TDMRs SYS.CONFIG takes.
pub const MAX_TDMRS: u64 = 64;

/// A software TDX module on a machine. Shared by all logical processors; every method takes `&self`.
///
/// `Module::new` is the state right after the module was loaded: TDH.SYS.INIT is the first useful call.
pub struct Module<M: Machine> {
    pub(crate) machine: M,
    pub(crate) profile: Profile,
    pub(crate) platform: PlatformInfo,
    sink: Option<Box<dyn EventSink>>,
    pub(crate) state: AtomicSysState,
    /// The global lock.
    pub(crate) global: ShareEx<Global>,
    pub(crate) sys: Once<SysInfo>,
    pub(crate) pamt: Once<Pamt>,
    pub(crate) kot: ShareEx<Kot>,
    pub(crate) write_back: [Mutex<WriteBack>; MAX_PACKAGES],
    pub(crate) num_init_lps: AtomicU32,
    /// Readable without the global lock; 0 before SYS.CONFIG.
    pub(crate) global_hkid: AtomicU32,
    /// Packages whose global key is programmed.
    pub(crate) pkg_config_bitmap: AtomicU32,
    pub(crate) lps: Box<[LpState]>,
    stopped: AtomicBool,
    pub(crate) single_step_defence: bool,
    #[cfg(debug_assertions)]
    audited_calls: AtomicU32,
    /// Held shared by calls in progress, so that an audit finds a moment without any.
    #[cfg(debug_assertions)]
    gate: spin::RwLock<()>,
    /// A deliberate bug, to show that the checks find it.
    #[cfg(test)]
    pub(crate) bug: Option<crate::bug::Bug>,
}

impl<M: Machine> Module<M> {
    /// A freshly loaded module.
    pub fn new(machine: M, profile: Profile) -> Self {
        let platform = machine.platform();
        Module {
            lps: (0..platform.lps).map(|_| LpState::default()).collect(),
            machine,
            profile,
            platform,
            sink: None,
            state: AtomicSysState::new(SysState::SysInitPending),
            global: ShareEx::new(Global::default()),
            sys: Once::new(),
            pamt: Once::new(),
            kot: ShareEx::new(Kot::new(MAX_HKIDS)),
            write_back: [const {
                Mutex::new(WriteBack {
                    noted: alloc::vec::Vec::new(),
                    resume_at: None,
                })
            }; MAX_PACKAGES],
            num_init_lps: AtomicU32::new(0),
            global_hkid: AtomicU32::new(0),
            pkg_config_bitmap: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            single_step_defence: false,
            #[cfg(debug_assertions)]
            audited_calls: AtomicU32::new(0),
            #[cfg(debug_assertions)]
            gate: spin::RwLock::new(()),
            #[cfg(test)]
            bug: None,
        }
    }
    /// The same module, telling its events to `sink`.
    pub fn with_sink(mut self, sink: Box<dyn EventSink>) -> Self {
        self.sink = Some(sink);
        self
    }
    /// The same module with its defence against single-stepping (vp-enter.md 8.1): an event that comes within 32 bytes
    /// and 4096 ticks of an entry is seen 1 to 32 instructions later. Off unless asked for, so that events are seen
    /// where a deterministic machine puts them. The machine must implement [`Machine::post`].
    pub fn with_single_step_defence(mut self) -> Self {
        self.single_step_defence = true;
        self
    }
    pub fn machine(&self) -> &M {
        &self.machine
    }
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
    /// The module met an impossible state and stopped for good.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
    pub fn sys_state(&self) -> SysState {
        self.state.get()
    }

    /// SEAMCALL on processor `lp`: RAX holds leaf and version, and takes the completion status; the other registers
    /// are inputs and outputs of the leaf. `xmms` matters to TDH.VP.ENTER only.
    ///
    /// `Err` means that the module met an impossible state and stopped for good, as the real one does with UD2: this
    /// and every later call says so, and the registers mean nothing.
    ///
    /// A processor makes one call at a time; calls of different processors may run at once.
    pub fn seamcall(&self, lp: LpId, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), Broken> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Broken("the module was stopped before"));
        }
        let lp_state = self
            .lps
            .get(lp.0 as usize)
            .ok_or(Broken("no such logical processor"))?;
        lp_state.busy.store(true, Ordering::Release);
        let raw = LeafWord(gprs[Gpr::Rax]);
        #[cfg(debug_assertions)]
        let in_progress = self.gate.read();
        #[cfg(debug_assertions)]
        let operands = [Gpr::Rcx, Gpr::Rdx, Gpr::R8].map(|reg| gprs[reg]);
        let result = match self.find(raw) {
            Ok(run) => run(&mut Call {
                module: self,
                lp,
                lp_state,
                gprs,
                xmms,
                leaf: raw,
            }),
            Err(status) => Err(Stop::from(status)),
        };
        lp_state.busy.store(false, Ordering::Release);
        let status = match result {
            Ok(done) => done.status,
            Err(Stop::Refused(refusal)) => refusal.status(),
            Err(Stop::Broken(broken)) => {
                self.stopped.store(true, Ordering::Release);
                self.emit(Event::Shutdown { lp, why: broken.0 });
                return Err(broken);
            }
        };
        gprs[Gpr::Rax] = status.raw();
        #[cfg(debug_assertions)]
        {
            let [rcx, rdx, r8] = operands;
            let operands = [rcx, rdx, r8, gprs[Gpr::Rcx]];
            // Looking at a page takes its lock for a moment, which the audit of everything on another processor must not
            // meet.
            let of_call = operands.into_iter().find_map(|raw| self.audit_page(raw));
            drop(in_progress);
            assert_eq!(of_call, None, "after {}", HostLeaf(raw.number()));
            self.audit_after(raw, operands);
        }
        self.emit(Event::Seamcall {
            lp,
            leaf: HostLeaf(raw.number()),
            status,
        });
        Ok(())
    }

    /// Debug builds: the pages the call named as the machine has them, and now and then everything.
    #[cfg(debug_assertions)]
    fn audit_after(&self, leaf: LeafWord, operands: [u64; 4]) {
        const WHOLE_EVERY: u32 = 1000;
        let calls = self.audited_calls.fetch_add(1, Ordering::Relaxed);
        // The rest only while no call is in progress; a vCPU that runs is one.
        let Some(_alone) = self.gate.try_write() else {
            return;
        };
        let on_machine = operands
            .into_iter()
            .find_map(|raw| self.audit_page_on_machine(raw));
        assert_eq!(on_machine, None, "after {}", HostLeaf(leaf.number()));
        if calls % WHOLE_EVERY == WHOLE_EVERY - 1 {
            let found = self.audit();
            assert!(
                found.is_empty(),
                "after {}: {found:?}",
                HostLeaf(leaf.number())
            );
        }
    }

    pub(crate) fn emit(&self, event: Event) {
        if let Some(sink) = &self.sink {
            sink.event(event);
        }
    }

    /// The dispatcher's checks, in order (spec: host-platform.md 2).
    fn find(&self, raw: LeafWord) -> Result<leaf::Run<M>, Status> {
        const RESERVED: u64 = !0x00FF_FFFF;
        let invalid = Status::OPERAND_INVALID.with_operand(OperandId::RAX);
        let number = HostLeaf(raw.number());
        if raw.0 & RESERVED != 0 {
            return Err(invalid);
        }
        let found = leaf::find::<M>(number);
        let versioned = found
            .as_ref()
            .is_some_and(|(row, _)| row.has_versions(&self.profile));
        if raw.version() > 0 && !versioned {
            return Err(invalid);
        }
        let state = self.state.get();
        if state == SysState::SysShutdown && number != HostLeaf::SYS_LP_SHUTDOWN {
            return Err(Status::SYS_SHUTDOWN);
        }
        let before_ready = found.as_ref().is_some_and(|(row, _)| row.before_ready);
        if state != SysState::SysReady && !before_ready {
            return Err(Status::SYS_NOT_READY);
        }
        found.map(|(_, run)| run).ok_or(invalid)
    }

    /// What SYS.INIT found out. Leaves that run after it may rely on it.
    pub(crate) fn sys(&self) -> Result<&SysInfo, Broken> {
        self.sys.get().ok_or(Broken("no SYS.INIT before this leaf"))
    }
    /// The key ID of the module's own pages (TDRs).
    pub(crate) fn global_hkid(&self) -> Result<Hkid, Broken> {
        match self.global_hkid.load(Ordering::Acquire) {
            0 => Err(Broken("no SYS.CONFIG before this leaf")),
            hkid => Ok(Hkid(hkid as u16)),
        }
    }
    /// The PAMT, which exists since SYS.CONFIG.
    pub(crate) fn pamt(&self) -> Result<&Pamt, Broken> {
        self.pamt
            .get()
            .ok_or(Broken("no SYS.CONFIG before this leaf"))
    }
}
