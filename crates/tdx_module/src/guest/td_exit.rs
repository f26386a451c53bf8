//! What leaves a TD, and what the VMM sees of it (vp-enter.md 6).

use crate::guest::Guest;
use crate::machine::Machine;
use crate::state::{LastTdExit, VcpuState};
use crate::td::config_flags;
use coco_regs::{GprFile, XmmFile};
use tdx_abi::Status;
use x86_arch::vmx::Vcpu;
use x86_arch::{ExitReason, Gpr, VmExit};

/// Extended exit qualifications (vp-enter.md 6.3).
pub mod extended {
    pub const ACCEPT: u64 = 1;
    pub const GPA_DETAILS: u64 = 2;
    pub const XSTATE_LOAD: u64 = 4;
    pub const ATTR_WR: u64 = 5;
    pub const PENDING_EPT_VIOLATION: u64 = 6;
}

/// The VM-index bits of RCX.
const VM_INDEX: u64 = 3 << 32;

/// A TD exit that the guest did not ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncExit {
    pub status: Status,
    /// The 32-bit exit reason, which joins RAX; `None` for statuses that carry their own details.
    pub reason: Option<u32>,
    pub qualification: u64,
    /// RDX.
    pub extended: u64,
    /// R8.
    pub gpa: u64,
    /// R9.
    pub interruption: u64,
}

/// What ends a TD entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TdExit {
    /// TDG.VP.VMCALL.
    Tdvmcall,
    Async(AsyncExit),
}

impl AsyncExit {
    /// An exit that the VMM may answer by entering again.
    pub fn success(exit: &VmExit) -> AsyncExit {
        Self::with_status(Status::SUCCESS, exit)
    }
    pub fn with_status(status: Status, exit: &VmExit) -> AsyncExit {
        AsyncExit {
            status,
            reason: Some(exit.reason),
            qualification: exit.qualification,
            extended: 0,
            gpa: 0,
            interruption: 0,
        }
    }
    pub fn with_interruption(self, exit: &VmExit) -> AsyncExit {
        AsyncExit {
            interruption: exit.interruption_info as u64,
            ..self
        }
    }
    /// An EPT violation that the module found itself.
    pub fn ept_violation(gpa: u64, qualification: u64, extended: u64) -> AsyncExit {
        AsyncExit {
            status: Status::SUCCESS,
            reason: Some(ExitReason::EPT_VIOLATION.0 as u32),
            qualification,
            extended,
            gpa: gpa & !0xFFF,
            interruption: 0,
        }
    }
    /// Whether the TD's memory and state must not be touched any more.
    pub fn is_non_accessible(&self) -> bool {
        self.status == Status::NON_RECOVERABLE_TD_NON_ACCESSIBLE
    }
    /// Trap-like exits are past their instruction.
    pub fn is_trap(&self) -> bool {
        matches!(
            self.status,
            Status::HOST_PRIORITY_BUSY_TIMEOUT | Status::CROSS_TD_TRAP
        )
    }
}

impl<M: Machine> Guest<'_, M> {
    /// Whether the VMM's RBP stays as it was on an exit that the guest did not ask for (vp-enter.md 6.2).
    pub fn keeps_rbp(&self) -> bool {
        let wanted = self.td.config.config_flags & config_flags::NO_RBP_MOD != 0;
        wanted && self.module.profile().keeps_rbp
    }

    /// Bit 26 of RAX, once.
    fn take_bus_lock(&mut self) -> u64 {
        match core::mem::take(&mut self.local.bus_lock_preempted) {
            true => VmExit::BUS_LOCK as u64,
            false => 0,
        }
    }

    /// State and bookkeeping of an exit (vp-enter.md 6.4), and RAX.
    pub fn leave(&mut self, exit: &TdExit, gprs: &mut GprFile, xmms: &mut XmmFile) -> Status {
        match exit {
            TdExit::Tdvmcall => self.leave_by_tdvmcall(gprs, xmms),
            TdExit::Async(exit) => self.leave_async(exit, gprs, xmms),
        }
    }

    fn leave_by_tdvmcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Status {
        let bus_lock = self.take_bus_lock();
        let mask = self.data.vcpu.regs.gpr[Gpr::Rcx.index()];
        show_selected(&self.data.vcpu, mask, self.no_rbp_mod(), gprs, xmms);
        gprs[Gpr::Rcx] = mask & 0xFFFF_FFFF | (self.data.curr_vm as u64) << 32;
        self.data.last_td_exit = LastTdExit::Tdvmcall;
        self.vp.set_state(&self.right, VcpuState::Ready);
        Status(ExitReason::TDCALL.0 as u64 | bus_lock)
    }

    fn leave_async(&mut self, exit: &AsyncExit, gprs: &mut GprFile, xmms: &mut XmmFile) -> Status {
        let mut rax = exit.status.raw();
        match exit.reason {
            Some(reason) => rax |= reason as u64 | self.take_bus_lock(),
            None => self.local.bus_lock_preempted = false,
        }
        let rbp = gprs[Gpr::Rbp];
        let rsp = gprs[Gpr::Rsp];
        *gprs = GprFile::default();
        *xmms = XmmFile::default();
        gprs[Gpr::Rsp] = rsp;
        if self.keeps_rbp() {
            gprs[Gpr::Rbp] = rbp;
        }
        gprs[Gpr::Rcx] = exit.qualification & !VM_INDEX | (self.data.curr_vm as u64) << 32;
        gprs[Gpr::Rdx] = exit.extended;
        gprs[Gpr::R8] = exit.gpa;
        gprs[Gpr::R9] = exit.interruption;
        if exit.status.raw() & Status::FATAL != 0 {
            self.td.set_fatal(&self.right);
        } else if exit.status == Status::NON_RECOVERABLE_VCPU {
            self.vp.set_state(&self.right, VcpuState::Disabled);
        } else {
            self.vp.set_state(&self.right, VcpuState::Ready);
            self.data.last_td_exit = match exit.is_trap() {
                true => LastTdExit::AsyncTrap,
                false => LastTdExit::AsyncFault,
            };
        }
        Status(rax)
    }

    /// MSRs of the processor that hold a fixed value after an exit, whatever VMM and guest had there (vp-enter.md 5).
    pub fn scrub_host_msrs(&self) {
        const LEFT: [(u32, u64); 6] = [
            (0xC000_0081, 0),
            (0xC000_0082, 0),
            (0xC000_0084, 0x2_0200),
            (0xC000_0102, 0),
            (0xC000_0103, 0),
            (0x1B01, 0),
        ];
        for (msr, value) in LEFT {
            self.module.machine().write_msr(self.lp, msr, value);
        }
        if self.td.config.cpuid.xfd {
            for msr in [0x1C4, 0x1C5] {
                self.module.machine().write_msr(self.lp, msr, 0);
            }
        }
    }
}

/// The registers of a TDVMCALL: what the guest selected, and 0 for the rest.
fn show_selected(vcpu: &Vcpu, mask: u64, no_rbp_mod: bool, gprs: &mut GprFile, xmms: &mut XmmFile) {
    for reg in Gpr::ALL {
        let untouched = reg == Gpr::Rsp || (reg == Gpr::Rbp && no_rbp_mod);
        if matches!(reg, Gpr::Rax | Gpr::Rcx) || untouched {
            continue;
        }
        let selected = mask >> reg.index() & 1 != 0;
        gprs[reg] = if selected {
            vcpu.regs.gpr[reg.index()]
        } else {
            0
        };
    }
    for (n, xmm) in xmms.0.iter_mut().enumerate() {
        let selected = mask >> (16 + n) & 1 != 0;
        *xmm = if selected { vcpu.regs.fpu.ymm[n][0] } else { 0 };
    }
}
