//! VM exits of L1, one by one (vp-enter.md 7, guest-virtualization.md 3).

use super::inject::{self, BLOCKED_BY_NMI};
use super::{AsyncExit, Guest, Next};
use crate::guest::cr::{self, CrOutcome};
use crate::machine::Machine;
use crate::refusal::Broken;
use crate::td::attributes;
use tdx_abi::Status;
use x86_arch::vmx::EntryEvent;
use x86_arch::{ExitReason, VmExit};

/// Bits of the exit reason that no production TD may show: 25:16, 28, 29, 30.
const RESERVED_REASON_BITS: u32 = 0x73FF_0000;
const EVENT_VALID: u32 = 1 << 31;
/// Vector, type and error-code bit of an event.
const EVENT_WORD: u32 = 0x8000_0FFF;
const TYPE_NMI: u32 = 2;
const TYPE_HARDWARE_EXCEPTION: u32 = 3;
const MACHINE_CHECK: u32 = 18;
const PAGE_FAULT: u32 = 14;
const NMI_WINDOW_EXITING: u32 = 1 << 22;
/// SMI exit qualification: a machine-check SMI.
const MSMI: u64 = 1;

const fn event_type(info: u32) -> u32 {
    info >> 8 & 7
}

impl<M: Machine> Guest<'_, M> {
    /// What every VM exit begins with, then the exit itself (vp-enter.md 7.1).
    pub(super) fn handle_exit(&mut self) -> Result<Next, Broken> {
        self.data.last_exit_tsc = self.module.machine().tsc(self.lp);
        self.data.nmi_unblocking_due_to_iret = false;
        let exit = self.data.vcpu.exit;
        self.data.launched |= exit.reason & VmExit::ENTRY_FAILURE == 0;
        if self.td.is_fatal() {
            self.stop_stepping();
            return Ok(self.non_accessible().into());
        }
        if exit.reason & VmExit::BUS_LOCK != 0 {
            self.local.bus_lock_preempted = true;
        }
        if !self.is_debug() && exit.reason & RESERVED_REASON_BITS != 0 {
            return Err(Broken("reserved bits in an exit reason"));
        }
        self.note_progress();
        if let Some(next) = self.single_step_filter(&exit) {
            return Ok(next);
        }
        if exit.idt_vectoring_info & EVENT_VALID != 0 && !self.requeue_event(&exit) {
            return match self.is_debug() {
                true => Ok(AsyncExit::success(&exit).into()),
                false => Err(Broken("an exit that cannot interrupt event delivery did")),
            };
        }
        if exit.reason & VmExit::ENTRY_FAILURE != 0 {
            return self.entry_failed(&exit);
        }
        let handled = self.by_reason(&exit)?;
        if handled != Next::Resume {
            return Ok(handled);
        }
        Ok(self.before_resume())
    }

    /// An event whose delivery was cut off is delivered at the next entry. `false` if the exit cannot do that.
    fn requeue_event(&mut self, exit: &VmExit) -> bool {
        let info = exit.idt_vectoring_info & EVENT_WORD;
        if event_type(info) == TYPE_NMI {
            self.data.vcpu.regs.interruptibility &= !BLOCKED_BY_NMI;
        }
        let allowed = matches!(
            exit.basic_reason(),
            ExitReason::TASK_SWITCH | ExitReason::EPT_VIOLATION | ExitReason::EPT_MISCONFIGURATION
        );
        if allowed {
            self.data.vcpu.entry_event = EntryEvent {
                info,
                error_code: exit.idt_vectoring_error,
                instruction_length: exit.instruction_length,
            };
        }
        allowed
    }

    fn entry_failed(&mut self, exit: &VmExit) -> Result<Next, Broken> {
        match exit.basic_reason() {
            ExitReason::FAILED_VMENTER_GS => Ok(self.fatal_or_debug(exit).into()),
            ExitReason::FAILED_VMENTER_MC => Ok(AsyncExit {
                interruption: 0,
                ..self.non_accessible()
            }
            .into()),
            _ => Err(Broken(
                "a VM entry failed in a way that only the module can cause",
            )),
        }
    }

    /// The TD is gone: its memory cannot be trusted.
    fn non_accessible(&self) -> AsyncExit {
        let exit = &self.data.vcpu.exit;
        AsyncExit::with_status(Status::NON_RECOVERABLE_TD_NON_ACCESSIBLE, exit)
            .with_interruption(exit)
    }
    /// What must not happen to a production TD kills it; the VMM of a DEBUG TD is told.
    fn fatal_or_debug(&self, exit: &VmExit) -> AsyncExit {
        let status = match self.is_debug() {
            true => Status::SUCCESS,
            false => Status::NON_RECOVERABLE_TD,
        };
        AsyncExit::with_status(status, exit)
    }

    fn by_reason(&mut self, exit: &VmExit) -> Result<Next, Broken> {
        let success = AsyncExit::success(exit);
        Ok(match exit.basic_reason() {
            ExitReason::EXCEPTION_OR_NMI => return self.exception(exit),
            ExitReason::INTERRUPT | ExitReason::C_STATE_SMI => {
                success.with_interruption(exit).into()
            }
            ExitReason::TRIPLE_FAULT => {
                AsyncExit::with_status(Status::NON_RECOVERABLE_VCPU, exit).into()
            }
            ExitReason::INIT_EVENT | ExitReason::TASK_SWITCH | ExitReason::BUS_LOCK => {
                success.into()
            }
            ExitReason::SMI_OTHER_EVENT if exit.qualification & MSMI != 0 => {
                self.non_accessible().into()
            }
            ExitReason::SMI_OTHER_EVENT => success.with_interruption(exit).into(),
            ExitReason::NMI_WINDOW => {
                self.nmi_window();
                Next::Resume
            }
            ExitReason::CPUID_INSTRUCTION => self.instruction(Self::cpuid),
            ExitReason::MSR_READ => self.instruction(Self::rdmsr),
            ExitReason::MSR_WRITE => self.instruction(Self::wrmsr),
            ExitReason::XSETBV_INSTRUCTION => self.instruction(Self::xsetbv),
            ExitReason::HLT_INSTRUCTION
            | ExitReason::INVD_INSTRUCTION
            | ExitReason::VMCALL_INSTRUCTION
            | ExitReason::IO_INSTRUCTION
            | ExitReason::MWAIT_INSTRUCTION
            | ExitReason::MONITOR_INSTRUCTION
            | ExitReason::WBINVD_INSTRUCTION
            | ExitReason::APIC_WRITE
            | ExitReason::PCONFIG => {
                inject::ve(&mut self.data.vcpu, exit.qualification, 0, 0);
                Next::Resume
            }
            ExitReason::GETSEC_INSTRUCTION
            | ExitReason::RSM_INSTRUCTION
            | ExitReason(19..=27)
            | ExitReason::INVLEPT
            | ExitReason::INVLVPID
            | ExitReason::VMFUNC_INSTRUCTION
            | ExitReason::ENCLS_INSTRUCTION
            | ExitReason::ENCLV_INSTRUCTION
            | ExitReason::ENQCMDS_PASID_TRANSLATION_FAILURE
            | ExitReason::SEAMCALL => {
                inject::ud(&mut self.data.vcpu);
                Next::Resume
            }
            ExitReason::ENQCMD_PASID_TRANSLATION_FAILURE => {
                inject::gp(&mut self.data.vcpu);
                Next::Resume
            }
            ExitReason::RDPMC_INSTRUCTION
                if self.td.config.attributes & attributes::PERFMON == 0 =>
            {
                inject::gp(&mut self.data.vcpu);
                Next::Resume
            }
            ExitReason::RDPMC_INSTRUCTION | ExitReason::EPT_PML_FULL => match self.is_debug() {
                true => success.into(),
                false => return Err(Broken("an exit that the controls do not allow")),
            },
            ExitReason::CR_ACCESS => self.control_register(exit),
            ExitReason::EPT_VIOLATION => self.ept_violation(exit),
            ExitReason::EPT_MISCONFIGURATION => return self.ept_misconfiguration(exit),
            ExitReason::NOTIFICATION => self.notification(exit),
            ExitReason::TDCALL => return self.tdcall(),
            _ => self.fatal_or_debug(exit).into(),
        })
    }

    /// An instruction that the module carries out: RIP moves on unless an event waits.
    fn instruction(&mut self, handler: fn(&mut Self)) -> Next {
        handler(self);
        if self.data.vcpu.entry_event.info & EVENT_VALID == 0 {
            self.instruction_done();
        }
        Next::Resume
    }
    /// The instruction was carried out; a virtual NMI that waited gets its window.
    pub(super) fn instruction_done(&mut self) {
        inject::advance_rip(&mut self.data.vcpu);
        self.arm_nmi_window();
    }
    pub(crate) fn arm_nmi_window(&mut self) {
        if self.data.pend_nmi != 0 && self.data.vcpu.ve_info.valid == 0 {
            self.data.vcpu.controls.primary |= NMI_WINDOW_EXITING;
        }
    }

    fn exception(&mut self, exit: &VmExit) -> Result<Next, Broken> {
        let info = exit.interruption_info;
        let success = AsyncExit::success(exit).with_interruption(exit);
        if event_type(info) == TYPE_NMI {
            return Ok(success.into());
        }
        if event_type(info) == TYPE_HARDWARE_EXCEPTION && info & 0xFF == MACHINE_CHECK {
            return Ok(self.non_accessible().into());
        }
        match self.is_debug() {
            true => Ok(success.into()),
            false => Err(Broken("an exception that the controls do not intercept")),
        }
    }

    fn nmi_window(&mut self) {
        if self.data.pend_nmi != 0 && self.data.vcpu.ve_info.valid == 0 {
            self.data.vcpu.entry_event = EntryEvent {
                info: inject::NMI,
                ..EntryEvent::default()
            };
            self.data.pend_nmi = 0;
        }
        self.data.vcpu.controls.primary &= !NMI_WINDOW_EXITING;
    }

    fn control_register(&mut self, exit: &VmExit) -> Next {
        let pks = self.td.config.attributes & attributes::PKS != 0;
        match cr::access(&mut self.data.vcpu, &self.sys.vmx, self.td.config.xfam, pks) {
            CrOutcome::Written => {
                self.instruction_done();
                Next::Resume
            }
            CrOutcome::Injected => Next::Resume,
            CrOutcome::Unexpected => self.fatal_or_debug(exit).into(),
        }
    }

    fn notification(&mut self, exit: &VmExit) -> Next {
        const CONTEXT_INVALID: u64 = 1 << 0;
        const NMI_UNBLOCKED: u64 = 1 << 12;
        if exit.qualification & NMI_UNBLOCKED != 0 {
            self.data.vcpu.regs.interruptibility |= BLOCKED_BY_NMI;
        }
        let status = match exit.qualification & CONTEXT_INVALID {
            0 => Status::SUCCESS,
            _ => Status::NON_RECOVERABLE_TD,
        };
        AsyncExit::with_status(status, exit).into()
    }

    fn xsetbv(&mut self) {
        let ecx = self.get(x86_arch::Gpr::Rcx) as u32;
        let value = self.get(x86_arch::Gpr::Rdx) << 32 | self.get(x86_arch::Gpr::Rax) & 0xFFFF_FFFF;
        let supported = self.sys.cpuid.xcr0_supported;
        if ecx != 0 || !self.td.config.xfam.allows_xcr0(value, supported) {
            return inject::gp(&mut self.data.vcpu);
        }
        self.data.vcpu.regs.xcr0 = value;
    }

    /// What may still stop the guest after its exit was handled: a bus lock, or an exception that the debugger of a
    /// DEBUG TD wants to see (vp-enter.md 8.5 and 10.2).
    fn before_resume(&mut self) -> Next {
        if self.local.bus_lock_preempted {
            return AsyncExit::success(&VmExit::new(ExitReason::BUS_LOCK)).into();
        }
        if self.is_debug() && self.debugger_wants(self.data.vcpu.entry_event.info) {
            let exit = AsyncExit::success(&VmExit::new(ExitReason::EXCEPTION_OR_NMI));
            return Next::from(AsyncExit {
                interruption: self.data.vcpu.entry_event.info as u64,
                ..exit
            });
        }
        Next::Resume
    }

    fn debugger_wants(&self, info: u32) -> bool {
        if info & EVENT_VALID == 0 || event_type(info) != TYPE_HARDWARE_EXCEPTION {
            return false;
        }
        let (controls, vector) = (&self.data.vcpu.controls, info & 0xFF);
        let listed = controls.exception_bitmap >> (vector & 31) & 1 != 0;
        if vector != PAGE_FAULT {
            return listed;
        }
        // The exit's error code is compared, not the one about to be delivered: as the module does it.
        let error = self.data.vcpu.exit.interruption_error;
        listed == (error & controls.pf_error_mask == controls.pf_error_match)
    }
}
