//! The defence against a VMM that lets a vCPU make no progress: faulting addresses are remembered and must be
//! mapped before it runs again (vp-enter.md 8.2).
//!
//! The single-step defence (8.1), which hides the exact place of an interrupt near the entry point, is not made: it
//! would only blur what this deterministic module shows.

use super::Guest;
use crate::machine::Machine;
use crate::td::Td;
use crate::vp::VpData;
use x86_arch::Gpa;

/// Violations at one place before the addresses are remembered.
const PATIENCE: u8 = 6;
/// Addresses in LAST_EPF_GPA_LIST.
const LIST: usize = 32;

impl<M: Machine> Guest<'_, M> {
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
