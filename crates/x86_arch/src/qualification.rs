//! The words that qualify a VM exit, as people read them (SDM volume 3, 28.2.1 and 25.9.2).

use core::fmt;

use crate::{ExitReason, Gpr};

/// An exit qualification, whose meaning depends on the exit's reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Qualification {
    pub reason: ExitReason,
    pub bits: u64,
}

impl Qualification {
    /// Bits of an EPT violation's qualification that the manual names.
    const EPT_NAMED: u64 = 0x1FFF;

    const fn flag(self, bit: u32) -> bool {
        self.bits >> bit & 1 != 0
    }

    fn ept_violation(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set(f, [(0, "read"), (1, "write"), (2, "fetch")])?;
        f.write_str("; the entry allows ")?;
        self.set(f, [(3, "read"), (4, "write"), (5, "execute")])?;
        f.write_str(match (self.flag(7), self.flag(8)) {
            (false, _) => "; no linear address",
            (true, true) => "; the page itself",
            (true, false) => "; during a page walk",
        })?;
        match self.bits & !Self::EPT_NAMED {
            0 => Ok(()),
            rest => write!(f, "; unknown bits {rest:#x}"),
        }
    }

    /// Writes the names of the bits that are set.
    fn set(self, f: &mut fmt::Formatter<'_>, names: [(u32, &str); 3]) -> fmt::Result {
        let mut separator = "";
        for (_, name) in names.into_iter().filter(|(bit, _)| self.flag(*bit)) {
            write!(f, "{separator}{name}")?;
            separator = "+";
        }
        if separator.is_empty() {
            f.write_str("nothing")
        } else {
            Ok(())
        }
    }

    /// The register in bits 11:8.
    fn register(self) -> Gpr {
        Gpr::ALL[(self.bits >> 8 & 15) as usize]
    }
}

impl fmt::Display for Qualification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits;
        match self.reason {
            ExitReason::EPT_VIOLATION => self.ept_violation(f),
            ExitReason::IO_INSTRUCTION => {
                let direction = if self.flag(3) { "IN" } else { "OUT" };
                let string = if self.flag(4) { " string" } else { "" };
                let rep = if self.flag(5) { " REP" } else { "" };
                let (bytes, port) = ((bits & 7) + 1, bits >> 16 & 0xFFFF);
                write!(
                    f,
                    "{direction}{string}{rep} of {bytes} bytes, port {port:#x}"
                )
            }
            ExitReason::CR_ACCESS => match bits >> 4 & 3 {
                0 => write!(f, "MOV to CR{} from {}", bits & 15, self.register()),
                1 => write!(f, "MOV from CR{} to {}", bits & 15, self.register()),
                2 => f.write_str("CLTS"),
                _ => write!(f, "LMSW {:#x}", bits >> 16 & 0xFFFF),
            },
            ExitReason::DR_ACCESS => {
                let (to, from) = if self.flag(4) {
                    ("from", "to")
                } else {
                    ("to", "from")
                };
                write!(f, "MOV {to} DR{} {from} {}", bits & 7, self.register())
            }
            ExitReason::EXCEPTION_OR_NMI if bits != 0 => {
                write!(f, "address or debug status {bits:#x}")
            }
            ExitReason::APIC_ACCESS => {
                write!(f, "offset {:#x}, type {}", bits & 0xFFF, bits >> 12 & 15)
            }
            ExitReason::VIRTUALIZED_EOI => write!(f, "vector {}", bits & 0xFF),
            ExitReason::APIC_WRITE => write!(f, "offset {:#x}", bits & 0xFFF),
            ExitReason::SIPI_EVENT => write!(f, "vector {}", bits & 0xFF),
            ExitReason::TASK_SWITCH => write!(
                f,
                "selector {:#x}, source {}",
                bits & 0xFFFF,
                bits >> 30 & 3
            ),
            _ if bits == 0 => f.write_str("none"),
            _ => f.write_str("no meaning known for this reason"),
        }
    }
}

/// VM-exit, VM-entry or IDT-vectoring interruption information.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct InterruptionInfo(pub u32);

impl InterruptionInfo {
    /// Bit 31: the other bits mean something.
    pub const fn is_valid(self) -> bool {
        self.0 >> 31 != 0
    }
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }
    /// Bits 10:8: 0 external interrupt, 2 NMI, 3 hardware exception, 4 software interrupt, 5 privileged software
    /// exception, 6 software exception, 7 other event.
    pub const fn kind(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }
    /// Bit 11: an error code goes with it.
    pub const fn has_error_code(self) -> bool {
        self.0 >> 11 & 1 != 0
    }
}

impl fmt::Display for InterruptionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXCEPTIONS: [&str; 22] = [
            "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS",
            "#GP", "#PF", "", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
        ];
        if !self.is_valid() {
            return f.write_str("nothing");
        }
        let vector = self.vector();
        match self.kind() {
            0 => write!(f, "external interrupt {vector}")?,
            2 => f.write_str("NMI")?,
            3 | 5 | 6 => match EXCEPTIONS
                .get(usize::from(vector))
                .filter(|name| !name.is_empty())
            {
                Some(name) => f.write_str(name)?,
                None => write!(f, "exception {vector}")?,
            },
            4 => write!(f, "software interrupt {vector}")?,
            7 => write!(f, "other event {vector}")?,
            kind => write!(f, "unknown type {kind}, vector {vector}")?,
        }
        if self.has_error_code() {
            f.write_str(" with an error code")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn qualifications_read_like_the_manual() {
        let read = |reason, bits| Qualification { reason, bits }.to_string();
        assert_eq!(
            read(ExitReason::EPT_VIOLATION, 0x182),
            "write; the entry allows nothing; the page itself"
        );
        assert_eq!(
            read(ExitReason::EPT_VIOLATION, 0x1_00BD),
            "read+fetch; the entry allows read+write+execute; during a page walk; unknown bits 0x10000"
        );
        assert_eq!(
            read(ExitReason::IO_INSTRUCTION, 0x3F8_0008),
            "IN of 1 bytes, port 0x3f8"
        );
        assert_eq!(
            read(ExitReason::IO_INSTRUCTION, 0x0CF8_0033),
            "OUT string REP of 4 bytes, port 0xcf8"
        );
        assert_eq!(read(ExitReason::CR_ACCESS, 0x314), "MOV from CR4 to RBX");
        assert_eq!(read(ExitReason::DR_ACCESS, 0x7), "MOV to DR7 from RAX");
        assert_eq!(read(ExitReason::HLT_INSTRUCTION, 0), "none");
    }

    #[test]
    fn events_read_like_the_manual() {
        assert_eq!(
            InterruptionInfo(0x8000_0B0E).to_string(),
            "#PF with an error code"
        );
        assert_eq!(InterruptionInfo(0x8000_0314).to_string(), "#VE");
        assert_eq!(
            InterruptionInfo(0x8000_0030).to_string(),
            "external interrupt 48"
        );
        assert_eq!(InterruptionInfo(0x8000_0202).to_string(), "NMI");
        assert_eq!(InterruptionInfo(0x30).to_string(), "nothing");
        assert_eq!(InterruptionInfo(0x8000_030F).to_string(), "exception 15");
    }
}
