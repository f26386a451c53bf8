//! The defence against a VMM that lets a vCPU make no progress: faulting addresses are remembered and must be
//! mapped before it runs again (vp-enter.md 8.2). And, where it is on, the defence against one that interrupts a
//! vCPU at every instruction: the place of an event near the entry point is blurred (8.1).

use super::{AsyncExit, Guest, Next, inject};
use crate::machine::{HostEvent, Machine};
use crate::td::Td;
use crate::vp::VpData;
use core::mem::take;
use tdx_abi::Status;
use x86_arch::{ExitReason, Gpa, VmExit};

/// Violations at one place before the addresses are remembered.
const PATIENCE: u8 = 6;
/// Addresses in LAST_EPF_GPA_LIST.
const LIST: usize = 32;

/// How far from its entry a vCPU may be stepped, in bytes and TSC ticks.
const NEAR_BYTES: u64 = 32;
const NEAR_TICKS: u64 = 4096;
const LFSR_MASK: u32 = 0xB4BC_D35C;
const MONITOR_TRAP_FLAG: u32 = 1 << 27;
const MSMI: u64 = 1;
const IA32_APIC_BASE: u32 = 0x1B;
const APIC_ENABLED: u64 = 1 << 11;
/// Pending debug exceptions: an enabled breakpoint, BS, RTM.
const DEBUG_EVENTS: u64 = 1 << 12 | 1 << 14 | 1 << 16;

impl<M: Machine> Guest<'_, M> {
    /// The filter of vp-enter.md 8.1: what becomes of an exit that may be a step. `None`: it is handled as ever.
    pub(super) fn single_step_filter(&mut self, exit: &VmExit) -> Option<Next> {
        if !self.module.single_step_defence {
            return None;
        }
        let reason = exit.basic_reason();
        let nmi = reason == ExitReason::EXCEPTION_OR_NMI && exit.interruption_info & 0xFF == 2;
        let smi = reason == ExitReason::SMI_OTHER_EVENT && exit.qualification & MSMI == 0;
        let (trap, init) = (reason == ExitReason::MTF, reason == ExitReason::INIT_EVENT);
        if reason == ExitReason::INTERRUPT || trap || smi || nmi || init {
            if self.local.stepping.steps_left.is_none() {
                if !self.is_near_entry() {
                    return None;
                }
                if self.module.machine().read_msr(self.lp, IA32_APIC_BASE) & APIC_ENABLED == 0 {
                    let status = Status::NON_RECOVERABLE_TD_WRONG_APIC_MODE;
                    return Some(
                        AsyncExit::with_status(status, exit)
                            .with_interruption(exit)
                            .into(),
                    );
                }
                self.local.stepping.steps_left = Some((self.next_random() & 0x1F) + 1);
                self.data.vcpu.controls.primary |= MONITOR_TRAP_FLAG;
            }
            if let Some(left @ 1..) = self.local.stepping.steps_left {
                self.local.stepping.steps_left = Some(left - 1);
                self.hold(reason, exit.interruption_info, nmi);
                self.block_events_for_one_instruction();
                return Some(Next::Resume);
            }
        }
        if self.local.stepping.steps_left.is_some() {
            self.stop_stepping();
            if trap {
                // The held events end the next entry at once, and are far from it by this clock.
                self.local.stepping.last_entry_tsc = self.data.last_exit_tsc.wrapping_sub(1 << 40);
                return Some(Next::Resume);
            }
        }
        None
    }

    fn is_near_entry(&self) -> bool {
        let stepping = &self.local.stepping;
        let bytes = self
            .data
            .vcpu
            .regs
            .rip
            .abs_diff(stepping.guest_rip_on_tdentry);
        let ticks = self
            .data
            .last_exit_tsc
            .wrapping_sub(stepping.last_entry_tsc);
        bytes <= NEAR_BYTES && ticks <= NEAR_TICKS
    }
    fn next_random(&mut self) -> u32 {
        let lfsr = &mut self.local.lfsr;
        *lfsr = *lfsr >> 1 ^ if *lfsr & 1 != 0 { LFSR_MASK } else { 0 };
        *lfsr
    }
    fn hold(&mut self, reason: ExitReason, info: u32, nmi: bool) {
        let event = match reason {
            ExitReason::INTERRUPT => HostEvent::Interrupt(info as u8),
            ExitReason::INIT_EVENT => HostEvent::Init,
            _ if nmi => HostEvent::Nmi,
            _ => return,
        };
        self.local.stepping.held.push(event);
    }
    /// MOV-SS blocking, unless a debug exception must come or STI blocks already.
    fn block_events_for_one_instruction(&mut self) {
        let regs = &mut self.data.vcpu.regs;
        let breakpoint = (0..4).any(|n| {
            let enabled = regs.dr7 >> (2 * n) & 3 != 0;
            let on_execution = regs.dr7 >> (16 + 4 * n) & 3 == 0;
            enabled && on_execution && regs.dr[n] == regs.rip
        });
        let blocked = regs.interruptibility & inject::BLOCKED_BY_STI != 0;
        if regs.pending_debug & DEBUG_EVENTS != 0 || breakpoint || blocked {
            return;
        }
        regs.interruptibility |= inject::BLOCKED_BY_MOV_SS;
        let steps = regs.rflags & inject::RFLAGS_TF != 0;
        if steps && regs.msr.debugctl & inject::DEBUGCTL_BTF == 0 {
            regs.pending_debug |= inject::PENDING_BS;
        }
    }
    /// The host sees what was held back.
    pub(super) fn stop_stepping(&mut self) {
        let stepping = &mut self.local.stepping;
        if stepping.steps_left.take().is_none() {
            return;
        }
        self.data.vcpu.controls.primary &= !MONITOR_TRAP_FLAG;
        for event in take(&mut stepping.held) {
            self.module.machine().post(self.lp, event);
        }
    }

    /// At every exit: a vCPU that moved is not being stepped.
    pub(super) fn note_progress(&mut self) {
        if self.data.vcpu.regs.rip != self.local.stepping.guest_rip_on_tdentry {
            self.forget_faults();
        }
    }

    /// A private EPT violation goes to the VMM.
    pub(super) fn log_fault(&mut self, gpa: u64) {
        self.note_progress();
        let data = &mut *self.data;
        if data.possibly_epf_stepping < PATIENCE {
            data.possibly_epf_stepping += 1;
        } else if data.epf_gpas.len() < LIST && !data.epf_gpas.contains(&gpa) {
            data.epf_gpas.push(gpa);
        }
    }

    fn forget_faults(&mut self) {
        self.data.epf_gpas.clear();
        self.data.possibly_epf_stepping = 0;
    }
}

/// The first remembered address that would fault again.
pub fn certain_fault(td: &Td, data: &VpData) -> Option<u64> {
    data.epf_gpas.iter().copied().find(|gpa| {
        let slot = td.sept.walk_to_end(Gpa::new(*gpa));
        !slot.is_some_and(|slot| {
            let rights = slot.entry().permissions();
            slot.entry().is_leaf() && rights.read && rights.write && rights.execute
        })
    })
}
