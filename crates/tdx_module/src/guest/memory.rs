//! What a TD's vCPU finds at a guest physical address: the Secure EPT for private ones, the VMM's EPT for shared
//! ones (guest-virtualization.md 8, guest-leaves.md 2).

use crate::machine::Machine;
use crate::module::Module;
use crate::sept::SeptEntry;
use crate::td::Td;
use x86_arch::{
    Access, EptFault, EptPermissions, Gpa, Hpa, KeyedHpa, SecondLevel, SecondLevelMapping,
};

const NOTHING: EptPermissions = EptPermissions {
    read: false,
    write: false,
    execute: false,
};
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
const SUPPRESS_VE: u64 = 1 << 63;
const LEAF: u64 = 1 << 7;

/// The memory of a TD as one of its vCPUs sees it.
pub struct TdMemory<'a, M: Machine> {
    pub module: &'a Module<M>,
    pub td: &'a Td,
    /// Root of the VMM's EPT, key-ID bits included; all ones until the VMM has set one.
    pub shared_eptp: u64,
}

/// A failed walk of the VMM's EPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharedFault {
    /// Not present, or a right is missing.
    Violation {
        allowed: EptPermissions,
        suppress_ve: bool,
    },
    /// An entry that no processor accepts, or an address that is not the VMM's.
    Misconfiguration,
    MachineCheck(Hpa),
}

impl<M: Machine> TdMemory<'_, M> {
    pub fn is_shared(&self, gpa: Gpa) -> bool {
        gpa.raw() & self.td.config.shared_bit() != 0
    }

    /// Walks the VMM's EPT; `needs` are the rights that the access asks for, as qualification bits 2:0.
    pub fn shared(&self, gpa: Gpa, needs: u64) -> Result<SecondLevelMapping, SharedFault> {
        let mut rights = 7;
        let violation = |rights: u64, suppress_ve| SharedFault::Violation {
            allowed: permissions(rights),
            suppress_ve,
        };
        if self.shared_eptp == u64::MAX {
            // The TDCS page of zeros stands in: nothing is there, and a #VE says so.
            return Err(violation(0, false));
        }
        let mut table = self.shared_eptp & ADDRESS;
        let mut level = self.td.sept.root_level();
        loop {
            let at = self.shared_page(table)?;
            let index = gpa.raw() >> (12 + 9 * u32::from(level)) & 0x1FF;
            let mut word = [0; 8];
            let slot = KeyedHpa::new(Hpa::new(at.hpa.raw() + 8 * index), at.hkid);
            let read = self.module.machine().read(slot, &mut word);
            read.map_err(|check| SharedFault::MachineCheck(check.0))?;
            let entry = u64::from_le_bytes(word);
            if entry & 7 == 0 {
                return Err(violation(0, entry & SUPPRESS_VE != 0));
            }
            let leaf = level == 0 || entry & LEAF != 0;
            if is_misconfigured(entry, level, leaf) {
                return Err(SharedFault::Misconfiguration);
            }
            rights &= entry & 7;
            if leaf {
                if rights & needs != needs {
                    return Err(violation(rights, entry & SUPPRESS_VE != 0));
                }
                let size = 4096u64 << (9 * u32::from(level));
                let base = entry & ADDRESS & !(size - 1);
                let page = self.shared_page(base | gpa.raw() & (size - 1) & ADDRESS)?;
                return Ok(SecondLevelMapping {
                    page,
                    level,
                    permissions: permissions(rights),
                });
            }
            table = entry & ADDRESS;
            level -= 1;
        }
    }

    /// A page that belongs to the VMM.
    fn shared_page(&self, raw: u64) -> Result<KeyedHpa, SharedFault> {
        let page = self.module.shared_memory(raw, 4096);
        page.ok().flatten().ok_or(SharedFault::Misconfiguration)
    }

    /// The Secure-EPT entry that decides about a private address, and its level.
    pub fn private_entry(&self, gpa: Gpa) -> Option<(SeptEntry, u8)> {
        let slot = self.td.sept.walk_to_end(gpa)?;
        Some((slot.entry(), slot.level))
    }
}

impl<M: Machine> SecondLevel for TdMemory<'_, M> {
    fn translate(&self, gpa: Gpa, access: Access) -> Result<SecondLevelMapping, EptFault> {
        let above = u64::MAX << self.td.config.gpa_width();
        if gpa.raw() & above != 0 {
            return Err(EptFault::Violation {
                allowed: NOTHING,
                suppress_ve: true,
            });
        }
        if !self.is_shared(gpa) {
            return self.td.sept.translate(gpa, access, self.td.hkid);
        }
        self.shared(gpa, access as u64)
            .map_err(|fault| match fault {
                SharedFault::Violation {
                    allowed,
                    suppress_ve,
                } => EptFault::Violation {
                    allowed,
                    suppress_ve,
                },
                SharedFault::Misconfiguration => EptFault::Misconfiguration,
                SharedFault::MachineCheck(hpa) => EptFault::MachineCheck(hpa),
            })
    }
}

fn permissions(rights: u64) -> EptPermissions {
    EptPermissions {
        read: rights & 1 != 0,
        write: rights & 2 != 0,
        execute: rights & 4 != 0,
    }
}

/// SDM 29.3.3.1: writable without readable, a bad memory type, reserved bits.
fn is_misconfigured(entry: u64, level: u8, leaf: bool) -> bool {
    let write_without_read = entry & 3 == 2;
    if !leaf {
        return write_without_read || entry & 0xF8 != 0;
    }
    let size = 4096u64 << (9 * u32::from(level));
    let bad_type = matches!(entry >> 3 & 7, 2 | 3 | 7);
    write_without_read || bad_type || level > 2 || entry & ADDRESS & (size - 1) != 0
}

#[cfg(test)]
mod tests {
    use super::is_misconfigured;

    #[test]
    fn entries_that_no_processor_accepts_are_told_from_good_ones() {
        assert!(!is_misconfigured(0x1000 | 6 << 3 | 7, 0, true));
        assert!(!is_misconfigured(0x20_0000 | 1 << 7 | 6 << 3 | 7, 1, true));
        assert!(is_misconfigured(0x20_1000 | 1 << 7 | 6 << 3 | 7, 1, true));
        assert!(is_misconfigured(0x1000 | 2, 0, true));
        assert!(is_misconfigured(0x1000 | 7 << 3 | 7, 0, true));
        assert!(!is_misconfigured(0x1000 | 7, 2, false));
        assert!(is_misconfigured(0x1000 | 6 << 3 | 7, 2, false));
    }
}
