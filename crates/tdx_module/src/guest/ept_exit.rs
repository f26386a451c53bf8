//! EPT violations and misconfigurations of L1 (vp-enter.md 7.3).

use super::inject::{self, BLOCKED_BY_NMI};
use super::{AsyncExit, Guest, Next, extended};
use crate::machine::Machine;
use crate::refusal::Broken;
use crate::sept::SeptState;
use crate::td::td_ctls;
use core::sync::atomic::Ordering;
use tdx_abi::Status;
use x86_arch::{ExitReason, Gpa, VmExit};

const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 2;
const LINEAR_VALID: u64 = 1 << 7;
const NMI_UNBLOCKED: u64 = 1 << 12;
const SHADOW_STACK: u64 = 1 << 14;
/// Bits 12:7 say more about the guest than its VMM may know.
const HIDDEN: u64 = 0x1F80;
/// GPA bits that a TD with 48-bit addresses must not set.
const ABOVE_48: u64 = 0xF << 48;

impl<M: Machine> Guest<'_, M> {
    /// Whether a page that waits for its acceptance raises #VE.
    pub(super) fn pending_raises_ve(&self) -> bool {
        self.td.td_ctls.load(Ordering::Acquire) & td_ctls::PENDING_VE_DISABLE == 0
    }

    /// Whether the private entry of `gpa` is pending; `None` for a broken Secure EPT.
    pub(super) fn is_pending(&self, gpa: Gpa) -> Option<bool> {
        let slot = self.td.sept.walk_to_end(gpa)?;
        slot.state().map(SeptState::is_acceptable)
    }

    pub(super) fn ept_violation(&mut self, exit: &VmExit) -> Next {
        let gpa = exit.guest_physical_address;
        if exit.qualification & NMI_UNBLOCKED != 0 {
            self.data.vcpu.regs.interruptibility |= BLOCKED_BY_NMI;
        }
        if !self.td.config.gpaw() && gpa & ABOVE_48 != 0 && exit.qualification & LINEAR_VALID != 0 {
            return self.reserved_bit_fault(exit);
        }
        let mut kind = 0;
        if !self.memory().is_shared(Gpa::new(gpa)) {
            if self.is_pending(Gpa::new(gpa)).unwrap_or(false) {
                if self.pending_raises_ve() {
                    let linear = exit.guest_linear_address;
                    inject::ve(&mut self.data.vcpu, exit.qualification, linear, gpa);
                    return Next::Resume;
                }
                kind = extended::PENDING_EPT_VIOLATION;
            }
            self.log_fault(gpa);
        }
        AsyncExit {
            qualification: exit.qualification & !HIDDEN,
            extended: kind,
            gpa: gpa & !0xFFF,
            ..AsyncExit::success(exit)
        }
        .into()
    }

    /// A guest page table led above the TD's physical address space.
    fn reserved_bit_fault(&mut self, exit: &VmExit) -> Next {
        let bit = |qualification: u64, error: u32| match exit.qualification & qualification {
            0 => 0,
            _ => 1 << error,
        };
        let user = if self.cpl() == 3 { 1 << 2 } else { 0 };
        let error = 1 | 1 << 3 | user | bit(WRITE, 1) | bit(FETCH, 4) | bit(SHADOW_STACK, 6);
        match inject::pf(&mut self.data.vcpu, exit.guest_linear_address, error) {
            Ok(()) => Next::Resume,
            Err(inject::TripleFault) => {
                let exit = VmExit::new(ExitReason::TRIPLE_FAULT);
                AsyncExit::with_status(Status::NON_RECOVERABLE_VCPU, &exit).into()
            }
        }
    }

    pub(super) fn ept_misconfiguration(&mut self, exit: &VmExit) -> Result<Next, Broken> {
        let gpa = exit.guest_physical_address;
        if !self.memory().is_shared(Gpa::new(gpa)) {
            return Err(Broken("a Secure-EPT entry is malformed"));
        }
        Ok(AsyncExit {
            qualification: 0,
            gpa: gpa & !0xFFF,
            ..AsyncExit::success(exit)
        }
        .into())
    }
}
