//! TDG.MR.REPORT and TDG.MR.VERIFYREPORT (guest-leaves.md 7.2 and 7.3).

use super::{Diversion, LeafEnd, busy, invalid};
use crate::guest::Guest;
use crate::guest::operand::{Half, READ, READ_WRITE};
use crate::lock::Side;
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::report::{REPORT_MAC_STRUCT, Verdict, td_report, verify};
use tdx_abi::{OperandId, Status};
use x86_arch::Gpr;

impl<M: Machine> Guest<'_, M> {
    pub(super) fn mr_report(&mut self) -> LeafEnd {
        let (to, from, subtype) = (self.get(Gpr::Rcx), self.get(Gpr::Rdx), self.get(Gpr::R8));
        if !to.is_multiple_of(1024) {
            return Err(invalid(OperandId::RCX));
        }
        if !from.is_multiple_of(64) {
            return Err(invalid(OperandId::RDX));
        }
        let from = self.operand(from, READ, Half::Either, OperandId::RDX)?;
        if subtype != 0 {
            return Err(invalid(OperandId::R8));
        }
        let rtmr = self
            .order
            .hold(Lock::Rtmr, self.td.rtmr.shared(Side::Guest))
            .map_err(busy(OperandId::RTMR))?;
        if self.event_pending() {
            return Err(Diversion::Interrupted);
        }
        let mut data = [0; 64];
        self.read_memory(from, &mut data)?;
        let report = td_report(self.module, self.td, &rtmr, &data, self.order);
        let to = self.operand(to, READ_WRITE, Half::Either, OperandId::RCX)?;
        self.write_memory(to, &report)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mr_verifyreport(&mut self) -> LeafEnd {
        if !self.sys.has_verify_report {
            return Err(invalid(OperandId::RAX));
        }
        let from = self.get(Gpr::Rcx);
        if !from.is_multiple_of(256) {
            return Err(invalid(OperandId::RCX));
        }
        let from = self.operand(from, READ, Half::Private, OperandId::RCX)?;
        let mut mac_struct = [0; REPORT_MAC_STRUCT];
        self.read_memory(from, &mut mac_struct)?;
        match verify(self.module.machine(), &mac_struct) {
            Verdict::Good => Ok(Status::SUCCESS),
            Verdict::OtherCpusvn => Err(Status::INVALID_CPUSVN.into()),
            Verdict::Bad => Err(Status::INVALID_REPORTMACSTRUCT.into()),
        }
    }
}
