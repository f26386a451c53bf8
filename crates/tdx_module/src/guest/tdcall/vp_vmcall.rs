//! TDG.VP.VMCALL (guest-leaves.md 3).

use super::{Diversion, LeafEnd, invalid};
use crate::guest::Guest;
use crate::machine::Machine;
use tdx_abi::OperandId;
use x86_arch::Gpr;

impl<M: Machine> Guest<'_, M> {
    pub(super) fn vp_vmcall(&mut self) -> LeafEnd {
        let never = |reg: Gpr| 1u64 << reg.index();
        let mut refused = never(Gpr::Rax) | never(Gpr::Rcx) | never(Gpr::Rsp) | !0 << 32;
        if self.no_rbp_mod() {
            refused |= never(Gpr::Rbp);
        }
        if self.get(Gpr::Rcx) & refused != 0 {
            return Err(invalid(OperandId::RCX));
        }
        Err(Diversion::Tdvmcall)
    }
}
