//! TDCALL: the dispatcher, and one file for each leaf or family (guest-leaves.md).

mod mem_page_accept;
mod mem_page_attr;
mod metadata;
mod mr_report;
mod mr_rtmr_extend;
mod partitioning;
mod vp_vmcall;
mod vp_words;

use super::{AsyncExit, Guest, Next, TdExit, inject};
use crate::event::Event;
use crate::lock::Contended;
use crate::machine::Machine;
use crate::refusal::Broken;
use tdx_abi::{GuestLeaf, LeafWord, OperandId, Status};
use x86_arch::{ExitReason, Gpr, VmExit};

/// Why a leaf does not simply succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Diversion {
    /// It completes with this status.
    Complete(Status),
    /// A host event is pending: the TDCALL runs again later.
    Interrupted,
    /// The TD exits; the TDCALL runs again later.
    Exit(AsyncExit),
    /// The operand's page raises a #VE at the TDCALL.
    Ve {
        qualification: u64,
        gpa: u64,
    },
    /// TDG.VP.VMCALL.
    Tdvmcall,
    Broken(Broken),
}

impl From<Status> for Diversion {
    fn from(status: Status) -> Self {
        Diversion::Complete(status)
    }
}
impl From<Broken> for Diversion {
    fn from(broken: Broken) -> Self {
        Diversion::Broken(broken)
    }
}

/// What a leaf returns.
pub type LeafEnd = Result<Status, Diversion>;

/// OPERAND_INVALID for a register.
pub fn invalid(operand: OperandId) -> Diversion {
    Diversion::Complete(Status::OPERAND_INVALID.with_operand(operand))
}

/// A lost lock, as the guest side tells it apart.
pub fn busy(operand: OperandId) -> impl Fn(Contended) -> Diversion {
    move |why| {
        let status = match why {
            Contended::Busy => Status::OPERAND_BUSY,
            Contended::HostPriority => Status::OPERAND_BUSY_HOST_PRIORITY,
        };
        Diversion::Complete(status.with_operand(operand))
    }
}

impl<M: Machine> Guest<'_, M> {
    /// A TDCALL exit of L1.
    pub(super) fn tdcall(&mut self) -> Result<Next, Broken> {
        if !self.is_64_bit() {
            inject::gp(&mut self.data.vcpu);
            return Ok(Next::Resume);
        }
        let word = LeafWord(self.get(Gpr::Rax));
        let end = self.run_leaf(word);
        match end {
            Ok(status) | Err(Diversion::Complete(status)) => Ok(self.complete(word, status)),
            Err(Diversion::Interrupted) => Ok(Next::Resume),
            Err(Diversion::Exit(exit)) => Ok(exit.into()),
            Err(Diversion::Tdvmcall) => Ok(Next::Exit(TdExit::Tdvmcall)),
            Err(Diversion::Ve { qualification, gpa }) => {
                self.data.hp_lock_busy_since = None;
                let reason = ExitReason::EPT_VIOLATION.0 as u32;
                inject::ve_for(&mut self.data.vcpu, reason, qualification, 0, gpa);
                Ok(Next::Resume)
            }
            Err(Diversion::Broken(broken)) => Err(broken),
        }
    }

    fn run_leaf(&mut self, word: LeafWord) -> LeafEnd {
        const RESERVED: u64 = !0x00FF_FFFF;
        let leaf = GuestLeaf(word.number());
        if word.0 & RESERVED != 0 || (word.version() != 0 && leaf != GuestLeaf::VM_RD) {
            return Err(invalid(OperandId::RAX));
        }
        match leaf {
            GuestLeaf::VP_VMCALL => self.vp_vmcall(),
            GuestLeaf::VP_INFO => self.vp_info(),
            GuestLeaf::MR_RTMR_EXTEND => self.mr_rtmr_extend(),
            GuestLeaf::VP_VEINFO_GET => self.vp_veinfo_get(),
            GuestLeaf::MR_REPORT => self.mr_report(),
            GuestLeaf::VP_CPUIDVE_SET => self.vp_cpuidve_set(),
            GuestLeaf::MEM_PAGE_ACCEPT => self.mem_page_accept(),
            GuestLeaf::VM_RD => self.vm_rd(word.version()),
            GuestLeaf::VM_WR => self.vm_wr(),
            GuestLeaf::VP_RD => self.vp_rd(),
            GuestLeaf::VP_WR => self.vp_wr(),
            GuestLeaf::SYS_RD => self.sys_rd(),
            GuestLeaf::SYS_RDALL => self.sys_rdall(),
            GuestLeaf::SERVTD_RD => self.servtd_rd(),
            GuestLeaf::SERVTD_WR => self.servtd_wr(),
            GuestLeaf::MR_VERIFYREPORT => self.mr_verifyreport(),
            GuestLeaf::MEM_PAGE_ATTR_RD => self.mem_page_attr_rd(),
            GuestLeaf::MEM_PAGE_ATTR_WR => self.mem_page_attr_wr(),
            GuestLeaf::VP_ENTER => self.vp_enter(),
            GuestLeaf::VP_INVEPT => self.vp_invept(),
            GuestLeaf::VP_INVVPID => self.vp_invvpid(),
            _ => Err(invalid(OperandId::RAX)),
        }
    }

    /// RAX takes the status and RIP moves on; a host that is kept waiting too long is told (vp-enter.md 8.4).
    fn complete(&mut self, word: LeafWord, status: Status) -> Next {
        let host_waits = status.code() == Status::OPERAND_BUSY_HOST_PRIORITY;
        let shown = match host_waits {
            true => Status::OPERAND_BUSY.with_details(status.details()),
            false => status,
        };
        self.set(Gpr::Rax, shown.raw());
        self.module.emit(Event::Tdcall {
            lp: self.lp,
            tdvpr: self.vp.tdvpr,
            leaf: GuestLeaf(word.number()),
            status: shown,
        });
        if !host_waits {
            self.data.hp_lock_busy_since = None;
        } else if self.host_waited_too_long() {
            return Next::from(AsyncExit {
                status: Status::HOST_PRIORITY_BUSY_TIMEOUT,
                reason: None,
                ..AsyncExit::success(&VmExit::default())
            });
        }
        self.instruction_done();
        Next::Resume
    }

    fn host_waited_too_long(&mut self) -> bool {
        let now = self.data.last_exit_tsc;
        let timeout = self
            .td
            .hp_lock_timeout
            .load(core::sync::atomic::Ordering::Acquire);
        let since = *self.data.hp_lock_busy_since.get_or_insert(now);
        now != since && now.wrapping_sub(since) >= timeout
    }

    /// Whether an event is pending that stops an interruptible leaf (guest-leaves.md 1.3).
    pub(super) fn event_pending(&self) -> bool {
        let pending = self.module.machine().pending_events(self.lp);
        pending.interrupt || pending.nmi || pending.smi
    }
}
