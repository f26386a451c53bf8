//! TDG.VP.ENTER, TDG.VP.INVEPT, TDG.VP.INVVPID and TDG.SERVTD.RD and WR: what is checked before L2 or another TD's
//! state would be touched (guest-leaves.md 10 and 11).

use super::{LeafEnd, invalid};
use crate::guest::Guest;
use crate::guest::tdvps::class;
use crate::machine::Machine;
use crate::refusal::NOT_MODELLED;
use tdx_abi::{FieldId, OperandId, Status};
use x86_arch::Gpr;

/// RCX bits 53:52 of ENTER and INVVPID.
const fn vm_of(raw: u64) -> u16 {
    (raw >> 52 & 3) as u16
}
const L2_VAPIC_GPA: u32 = 0x110;
/// One binding slot.
const SLOTS: u64 = 1;

impl<M: Machine> Guest<'_, M> {
    fn is_l2(&self, vm: u16) -> bool {
        (1..=self.td.config.num_l2_vms).contains(&vm)
    }

    pub(super) fn vp_enter(&mut self) -> LeafEnd {
        let (flags, list) = (self.get(Gpr::Rcx), self.get(Gpr::Rdx));
        if !list.is_multiple_of(256) || !self.is_private(list) {
            return Err(invalid(OperandId::RDX));
        }
        let vm = vm_of(flags);
        if flags & !(3 << 52 | 3) != 0 || !self.is_l2(vm) {
            return Err(invalid(OperandId::RCX));
        }
        let field = (class::MANAGEMENT, L2_VAPIC_GPA + u32::from(vm));
        if self.data.extra.fields.get(&field) == Some(&u64::MAX) {
            return Err(invalid(OperandId::L2_VAPIC_GPA));
        }
        Err(NOT_MODELLED.into())
    }

    pub(super) fn vp_invept(&mut self) -> LeafEnd {
        let vms = self.get(Gpr::Rcx);
        let existing = (1..=self.td.config.num_l2_vms).fold(0, |mask, vm| mask | 1u64 << vm);
        if vms & !existing != 0 {
            return Err(invalid(OperandId::RCX));
        }
        for vm in (1..4).filter(|vm| vms >> vm & 1 != 0) {
            let vpid = self.td.vpid(vm);
            self.module
                .machine()
                .invalidate_translations(self.lp, &[vpid]);
        }
        Ok(Status::SUCCESS)
    }

    pub(super) fn vp_invvpid(&mut self) -> LeafEnd {
        let flags = self.get(Gpr::Rcx);
        if flags & !(3 << 52 | 1) != 0 || !self.is_l2(vm_of(flags)) {
            return Err(invalid(OperandId::RCX));
        }
        Err(NOT_MODELLED.into())
    }

    pub(super) fn servtd_rd(&mut self) -> LeafEnd {
        self.set(Gpr::R8, 0);
        self.set(Gpr::Rdx, FieldId::NULL.0);
        self.servtd()
    }
    pub(super) fn servtd_wr(&mut self) -> LeafEnd {
        self.set(Gpr::R8, 0);
        self.servtd()
    }
    fn servtd(&mut self) -> LeafEnd {
        let slot = self.get(Gpr::Rcx).wrapping_sub(self.td.uuid[0]) & 0xFFF;
        if slot >= SLOTS {
            return Err(invalid(OperandId::RCX));
        }
        Err(NOT_MODELLED.into())
    }
}
