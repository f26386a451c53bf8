//! TDG.MR.RTMR.EXTEND (guest-leaves.md 7.1).

use super::{LeafEnd, busy, invalid};
use crate::guest::Guest;
use crate::guest::operand::{Half, READ};
use crate::lock::Side;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::td::Hash384;
use sha2::{Digest, Sha384};
use tdx_abi::{OperandId, Status};
use x86_arch::Gpr;

impl<M: Machine> Guest<'_, M> {
    pub(super) fn mr_rtmr_extend(&mut self) -> LeafEnd {
        let (gpa, index) = (self.get(Gpr::Rcx), self.get(Gpr::Rdx));
        if !gpa.is_multiple_of(64) {
            return Err(invalid(OperandId::RCX));
        }
        let from = self.operand(gpa, READ, Half::Private, OperandId::RCX)?;
        if index >= 4 {
            return Err(invalid(OperandId::RDX));
        }
        let mut rtmr = self
            .order
            .hold(Lock::Rtmr, self.td.rtmr.exclusive(Side::Guest))
            .map_err(busy(OperandId::RTMR))?;
        let mut data = [0; 48];
        self.read_memory(from, &mut data)?;

        let value = &mut rtmr.values[index as usize];
        let hash = Sha384::new().chain_update(value.0).chain_update(data);
        *value = Hash384(hash.finalize().into());
        rtmr.tee_info_hash = None;
        Ok(Status::SUCCESS)
    }
}
