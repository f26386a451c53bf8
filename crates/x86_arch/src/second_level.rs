//! Second-level translation (EPT): what the engine asks and what it is told.

use crate::{Gpa, Hpa, KeyedHpa};

/// The kind of a memory access, as EPT-violation qualification bits 2:0 (SDM 28.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Access {
    Read = 1,
    Write = 2,
    Execute = 4,
}

/// Permissions of a translation, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptPermissions {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

impl EptPermissions {
    pub const RWX: Self = Self {
        read: true,
        write: true,
        execute: true,
    };
    pub const fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Execute => self.execute,
        }
    }
}

/// A successful second-level translation of a 4 KiB page (of a larger mapping, if `level` says so).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondLevelMapping {
    /// The 4 KiB page that the guest page is.
    pub page: KeyedHpa,
    /// 0: 4 KiB, 1: 2 MiB, 2: 1 GiB. Invalidation works on the whole mapping.
    pub level: u8,
    pub permissions: EptPermissions,
}

/// Why a second-level translation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EptFault {
    /// An EPT violation.
    Violation {
        /// What the entries on the path allow: qualification bits 5:3.
        allowed: EptPermissions,
        /// The suppress-#VE bit of the entry where the walk ended: false turns the violation into a #VE
        /// when the "EPT-violation #VE" control is on (SDM 26.5.7.1).
        suppress_ve: bool,
    },
    /// An EPT misconfiguration.
    Misconfiguration,
    /// The walk itself read a poisoned or foreign line: a machine check at this address.
    MachineCheck(Hpa),
}

/// One vCPU's second level: the private half through Secure EPT, the shared half through the VMM's EPT.
pub trait SecondLevel {
    /// Translates the 4 KiB page of `gpa`. The engine caches the answer until told otherwise.
    fn translate(&self, gpa: Gpa, access: Access) -> Result<SecondLevelMapping, EptFault>;
}
