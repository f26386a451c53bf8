//! Guest memory that a TDCALL names (guest-leaves.md 2).

use super::memory::SharedFault;
use super::tdcall::Diversion;
use super::{AsyncExit, Guest, extended};
use crate::machine::{Machine, MachineCheck};
use crate::refusal::Broken;
use tdx_abi::{OperandId, Status};
use x86_arch::{EptPermissions, ExitReason, Gpa, Hpa, KeyedHpa};

/// Rights that an operand needs, as EPT-violation qualification bits 2:0.
pub const READ: u64 = 1;
pub const READ_WRITE: u64 = 3;

/// Which half of the guest's address space an operand may lie in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    Private,
    Either,
}

impl<M: Machine> Guest<'_, M> {
    /// Whether the address is private and inside the TD's address space.
    pub fn is_private(&self, gpa: u64) -> bool {
        self.td.config.is_private(Gpa::new(gpa))
    }

    /// The memory behind an operand.
    pub fn operand(
        &self,
        raw: u64,
        needs: u64,
        half: Half,
        name: OperandId,
    ) -> Result<KeyedHpa, Diversion> {
        let gpa = Gpa::new(raw);
        let shared = self.memory().is_shared(gpa);
        let invalid = Diversion::Complete(Status::OPERAND_INVALID.with_operand(name));
        if shared && half == Half::Private {
            return Err(invalid);
        }
        if raw & u64::MAX << self.td.config.gpa_width() != 0 {
            return Err(invalid);
        }
        if shared {
            self.shared_operand(gpa, needs)
        } else {
            self.private_operand(gpa, needs)
        }
    }

    fn private_operand(&self, gpa: Gpa, needs: u64) -> Result<KeyedHpa, Diversion> {
        let broken = Diversion::Broken(Broken("Secure EPT without a page it names"));
        let slot = self.td.sept.walk_to_end(gpa).ok_or(broken)?;
        let (entry, level) = (slot.entry(), slot.level);
        let rights = if entry.is_leaf() {
            bits(entry.permissions())
        } else {
            0
        };
        if rights & needs == needs {
            let offset = gpa.raw() & ((4096u64 << (9 * u32::from(level))) - 1);
            return Ok(self.td.keyed(Hpa::new(entry.hpa().raw() + offset)));
        }
        let qualification = needs & !rights | rights << 3;
        let pending = self.is_pending(gpa).ok_or(broken)?;
        Err(match (pending, self.pending_raises_ve()) {
            (true, true) => Diversion::Ve {
                qualification,
                gpa: gpa.raw(),
            },
            (true, false) => {
                let kind = extended::PENDING_EPT_VIOLATION;
                Diversion::Exit(AsyncExit::ept_violation(gpa.raw(), qualification, kind))
            }
            (false, _) => Diversion::Exit(AsyncExit::ept_violation(gpa.raw(), qualification, 0)),
        })
    }

    fn shared_operand(&self, gpa: Gpa, needs: u64) -> Result<KeyedHpa, Diversion> {
        let offset = gpa.page_offset() as u64;
        match self.memory().shared(gpa, needs) {
            Ok(found) => {
                let hpa = Hpa::new(found.page.hpa.raw() + offset);
                Ok(KeyedHpa::new(hpa, found.page.hkid))
            }
            Err(SharedFault::Violation {
                allowed,
                suppress_ve,
            }) => {
                let rights = bits(allowed);
                let qualification = needs & !rights | rights << 3;
                Err(match suppress_ve {
                    true => Diversion::Exit(AsyncExit::ept_violation(gpa.raw(), qualification, 0)),
                    false => Diversion::Ve {
                        qualification,
                        gpa: gpa.raw(),
                    },
                })
            }
            Err(SharedFault::Misconfiguration) => Err(Diversion::Exit(AsyncExit {
                reason: Some(ExitReason::EPT_MISCONFIGURATION.0 as u32),
                ..AsyncExit::ept_violation(gpa.raw(), 0, 0)
            })),
            Err(SharedFault::MachineCheck(hpa)) => Err(self.poisoned(MachineCheck(hpa))),
        }
    }

    /// The bytes of an operand, or the end of the TD if they are poisoned.
    pub fn read_memory(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), Diversion> {
        let read = self.module.machine().read(from, to);
        read.map_err(|check| self.poisoned(check))
    }
    pub fn write_memory(&self, to: KeyedHpa, from: &[u8]) -> Result<(), Diversion> {
        let machine = self.module.machine();
        let written = match to.hkid == self.td.hkid {
            true => machine.write(to, from),
            false => machine.write_outside(to, from),
        };
        written.map_err(|check| self.poisoned(check))
    }

    fn poisoned(&self, _: MachineCheck) -> Diversion {
        let status = Status::NON_RECOVERABLE_TD_NON_ACCESSIBLE;
        Diversion::Exit(AsyncExit::with_status(status, &self.data.vcpu.exit))
    }
}

fn bits(rights: EptPermissions) -> u64 {
    rights.read as u64 | (rights.write as u64) << 1 | (rights.execute as u64) << 2
}
