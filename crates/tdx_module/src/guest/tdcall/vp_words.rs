//! TDG.VP.INFO, TDG.VP.VEINFO.GET and TDG.VP.CPUIDVE.SET (guest-leaves.md 4 to 6).

use super::{LeafEnd, invalid};
use crate::guest::{Guest, inject};
use crate::machine::Machine;
use core::sync::atomic::Ordering;
use tdx_abi::{OperandId, Status};
use x86_arch::Gpr;

impl<M: Machine> Guest<'_, M> {
    pub(super) fn vp_info(&mut self) -> LeafEnd {
        let config = &self.td.config;
        let num_vcpus = self.td.num_vcpus.load(Ordering::Acquire) as u64;
        let words = [
            (Gpr::Rcx, config.gpa_width() as u64),
            (Gpr::Rdx, config.attributes),
            (Gpr::R8, num_vcpus | (config.max_vcpus as u64) << 32),
            (Gpr::R9, self.data.index as u64),
            (Gpr::R10, 1),
            (Gpr::R11, 0),
        ];
        for (reg, value) in words {
            self.set(reg, value);
        }
        Ok(Status::SUCCESS)
    }

    pub(super) fn vp_veinfo_get(&mut self) -> LeafEnd {
        let info = inject::take_ve_info(&mut self.data.vcpu);
        let registers = [Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10];
        for (reg, value) in registers.into_iter().zip(info.unwrap_or_default()) {
            self.set(reg, value);
        }
        match info {
            Some(_) => Ok(Status::SUCCESS),
            None => Err(Status::NO_VALID_VE_INFO.into()),
        }
    }

    pub(super) fn vp_cpuidve_set(&mut self) -> LeafEnd {
        let flags = self.get(Gpr::Rcx);
        if flags & !3 != 0 {
            return Err(invalid(OperandId::RCX));
        }
        self.data.cpuid_supervisor_ve = (flags & 1) as u8;
        self.data.cpuid_user_ve = (flags >> 1) as u8;
        Ok(Status::SUCCESS)
    }
}
