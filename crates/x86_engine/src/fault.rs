//! Why an instruction did not complete: an exception to deliver, or a VM exit.

use core::fmt;
use core::num::NonZeroU32;

/// An exception with its error code, or the word that a VM exit was recorded in the vCPU.
///
/// One 32-bit word, so that a handler's `Result<(), Fault>` travels in a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault(NonZeroU32);

const HAS_ERROR: u32 = 1 << 8;
const VALID: u32 = 1 << 31;
const EXIT: u32 = 1 << 30;

impl Fault {
    /// A VM exit; `vcpu.exit` says which.
    pub const EXIT: Fault = Fault(NonZeroU32::new(EXIT).unwrap());
    pub const DE: Fault = Fault::plain(0);
    pub const DB: Fault = Fault::plain(1);
    pub const BP: Fault = Fault::plain(3);
    pub const OF: Fault = Fault::plain(4);
    pub const BR: Fault = Fault::plain(5);
    pub const UD: Fault = Fault::plain(6);
    pub const NM: Fault = Fault::plain(7);
    pub const MF: Fault = Fault::plain(16);
    pub const MC: Fault = Fault::plain(18);
    pub const XM: Fault = Fault::plain(19);
    pub const VE: Fault = Fault::plain(20);
    /// #GP with error code 0, the commonest.
    pub const GP0: Fault = Fault::with_error(13, 0);
    pub const SS0: Fault = Fault::with_error(12, 0);
    /// #AC; its error code is always 0.
    pub const AC: Fault = Fault::with_error(17, 0);

    const fn plain(vector: u8) -> Fault {
        Fault(NonZeroU32::new(VALID | vector as u32).unwrap())
    }
    pub const fn with_error(vector: u8, error: u16) -> Fault {
        Fault(NonZeroU32::new(VALID | HAS_ERROR | vector as u32 | (error as u32) << 9).unwrap())
    }
    pub const fn gp(error: u16) -> Fault {
        Fault::with_error(13, error)
    }
    pub const fn ss(error: u16) -> Fault {
        Fault::with_error(12, error)
    }
    pub const fn np(error: u16) -> Fault {
        Fault::with_error(11, error)
    }
    pub const fn ts(error: u16) -> Fault {
        Fault::with_error(10, error)
    }
    /// #PF; CR2's value waits in [`crate::Cpu::fault_address`].
    pub const fn pf(error: u16) -> Fault {
        Fault::with_error(14, error)
    }
    pub const fn is_exit(self) -> bool {
        self.0.get() == EXIT
    }
    pub const fn vector(self) -> u8 {
        self.0.get() as u8
    }
    pub const fn error(self) -> Option<u32> {
        if self.0.get() & HAS_ERROR != 0 {
            Some(self.0.get() >> 9 & 0xFFFF)
        } else {
            None
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_exit() {
            return f.write_str("VM exit");
        }
        const NAMES: [&str; 22] = [
            "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP",
            "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
        ];
        f.write_str(NAMES.get(self.vector() as usize).unwrap_or(&"vector"))?;
        match self.error() {
            Some(error) => write!(f, "({error:#x})"),
            None => Ok(()),
        }
    }
}
