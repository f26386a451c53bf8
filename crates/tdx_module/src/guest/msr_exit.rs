//! RDMSR and WRMSR that exit (guest-virtualization.md 6).

use super::{Guest, inject};
use crate::machine::Machine;
use crate::msr::{
    self, Action, IA32_ARCH_CAPABILITIES, IA32_DEBUGCTL, IA32_EFER, IA32_MISC_ENABLE,
    IA32_PERF_CAPABILITIES, IA32_XAPIC_DISABLE_STATUS, IA32_XSS,
};
use crate::xstate::Xfam;
use x86_arch::Gpr;

/// Releases after 1.5.01 show it to a guest that asked for topology enumeration.
const IA32_X2APIC_APICID: u32 = 0x802;
const EFER_SCE: u64 = 1 << 0;
const EFER_LMA: u64 = 1 << 10;
const DEBUGCTL_RESERVED: u64 = 0x38 | !0 << 16;
const DEBUGCTL_BTF: u64 = 1 << 1;
const DEBUGCTL_TR: u64 = 1 << 6;
const DEBUGCTL_BTS: u64 = 1 << 7;
const DEBUGCTL_UNCORE_PMI: u64 = 1 << 13;
const RFLAGS_TF: u64 = 1 << 8;
const PENDING_BS: u64 = 1 << 14;
const PERFMON_AVAILABLE: u64 = 1 << 7;
const PEBS_UNAVAILABLE: u64 = 1 << 12;
/// IA32_PERF_CAPABILITIES: PEBS output to PT.
const PEBS_TO_PT: u64 = 1 << 16;

impl<M: Machine> Guest<'_, M> {
    pub(super) fn rdmsr(&mut self) {
        let index = self.get(Gpr::Rcx) as u32;
        let action = msr::find(index).map_or(Action::Ve, |range| range.read.1);
        match action {
            Action::Ve if index == IA32_X2APIC_APICID && self.shown_x2apic_id().is_some() => {
                let id = self.shown_x2apic_id().unwrap_or(0);
                self.set(Gpr::Rax, u64::from(id));
                self.set(Gpr::Rdx, 0);
            }
            Action::Emulated => match self.emulated_read(index) {
                Some(value) => {
                    self.set(Gpr::Rax, value & 0xFFFF_FFFF);
                    self.set(Gpr::Rdx, value >> 32);
                }
                None => self.msr_fault(Action::Ve, index),
            },
            action => self.msr_fault(action, index),
        }
    }

    pub(super) fn wrmsr(&mut self) {
        let index = self.get(Gpr::Rcx) as u32;
        let value = self.get(Gpr::Rdx) << 32 | self.get(Gpr::Rax) & 0xFFFF_FFFF;
        match index {
            IA32_EFER => self.write_efer(value),
            IA32_XSS => self.write_xss(value),
            IA32_DEBUGCTL => self.write_debugctl(value),
            _ => {
                let action = msr::find(index).map_or(Action::Ve, |range| range.write.1);
                self.msr_fault(action, index);
            }
        }
    }

    fn msr_fault(&mut self, action: Action, index: u32) {
        let ve = match action {
            Action::Gp => false,
            Action::GpOrVe => self.td.config.features.shows(index),
            // Accesses that never exit do not come here.
            Action::Ve | Action::NeverExits | Action::Emulated => true,
        };
        match ve {
            true => inject::ve(&mut self.data.vcpu, 0, 0, 0),
            false => inject::gp(&mut self.data.vcpu),
        }
    }

    fn emulated_read(&self, index: u32) -> Option<u64> {
        let features = &self.td.config.features;
        let native = |index| self.module.machine().read_msr(self.lp, index);
        Some(match index {
            IA32_XAPIC_DISABLE_STATUS => 1,
            IA32_ARCH_CAPABILITIES => self.td.config.arch_capabilities,
            IA32_MISC_ENABLE => native(index) & !PERFMON_AVAILABLE | PEBS_UNAVAILABLE,
            IA32_DEBUGCTL => self.data.vcpu.regs.msr.debugctl & !DEBUGCTL_UNCORE_PMI,
            IA32_PERF_CAPABILITIES if !features.perfmon => 0,
            IA32_PERF_CAPABILITIES if !features.xfam.has(Xfam::PT) => native(index) & !PEBS_TO_PT,
            IA32_PERF_CAPABILITIES => native(index),
            _ => return self.td.config.vmx.read(index),
        })
    }

    /// Only SCE may change; LMA in the operand means nothing.
    fn write_efer(&mut self, value: u64) {
        let efer = self.data.vcpu.regs.msr.efer;
        if (value ^ efer) & !(EFER_SCE | EFER_LMA) != 0 {
            return inject::ve(&mut self.data.vcpu, 0, 0, 0);
        }
        self.data.vcpu.regs.msr.efer = efer & !EFER_SCE | value & EFER_SCE;
    }

    fn write_xss(&mut self, value: u64) {
        let allowed = self.sys.cpuid.xss_supported & self.td.config.xfam.0;
        if value & !allowed != 0 {
            return inject::gp(&mut self.data.vcpu);
        }
        self.data.vcpu.regs.msr.xss = value;
    }

    fn write_debugctl(&mut self, value: u64) {
        if value & DEBUGCTL_RESERVED != 0 {
            return inject::gp(&mut self.data.vcpu);
        }
        if value & DEBUGCTL_TR != 0 && value & DEBUGCTL_BTS == 0 {
            return inject::ve(&mut self.data.vcpu, 0, 0, 0);
        }
        let regs = &mut self.data.vcpu.regs;
        let old = regs.msr.debugctl;
        regs.msr.debugctl = value & !DEBUGCTL_UNCORE_PMI | old & DEBUGCTL_UNCORE_PMI;
        if regs.rflags & RFLAGS_TF != 0 && (value ^ old) & DEBUGCTL_BTF != 0 {
            let was_set = old & DEBUGCTL_BTF != 0;
            regs.pending_debug =
                regs.pending_debug & !PENDING_BS | if was_set { PENDING_BS } else { 0 };
        }
    }
}
