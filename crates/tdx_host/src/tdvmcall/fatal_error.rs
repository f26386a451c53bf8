//! ReportFatalError: the guest's last words. R12 the code, and up to 64 bytes of text in registers or a longer text
//! in shared memory at R13.

use std::fmt;

use x86_arch::{Gpa, Gpr};

use super::{Refusal, Request};
use crate::window::Shown;

/// The registers that carry text, in its order.
const TEXT: [Gpr; 8] = [
    Gpr::R14,
    Gpr::R15,
    Gpr::Rbx,
    Gpr::Rdi,
    Gpr::Rsi,
    Gpr::R8,
    Gpr::R9,
    Gpr::Rdx,
];

/// R12 bit 63: R13 is the GPA of more text.
const GPA_VALID: u64 = 1 << 63;

/// What the guest reported, and the sixteen registers as KVM's user sees them (0 where hidden).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FatalError {
    /// R12 bits 31:0; 0 is a panic.
    pub code: u32,
    /// Where a longer text lies, shared bit included.
    pub gpa: Option<Gpa>,
    pub regs: [u64; 16],
}

impl FatalError {
    /// The text in the registers up to its first zero, with everything unprintable shown as a dot.
    pub fn text(&self) -> String {
        TEXT.into_iter()
            .flat_map(|reg| self.regs[reg as usize].to_le_bytes())
            .take_while(|&byte| byte != 0)
            .map(|byte| match byte {
                b' '..=b'~' => byte as char,
                b'\n' | b'\t' => ' ',
                _ => '.',
            })
            .collect()
    }
}

impl fmt::Display for FatalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest reports a fatal error, code {:#x}", self.code)?;
        match self.text() {
            text if text.is_empty() => Ok(()),
            text => write!(f, ": {text}"),
        }
    }
}

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    let code = shown.arg(Gpr::R12)?;
    let mut regs = [0; 16];
    for reg in Gpr::ALL {
        regs[reg as usize] = shown.arg(reg).unwrap_or(0);
    }
    let gpa = match code & GPA_VALID {
        0 => None,
        _ => Some(Gpa::new(shown.arg(Gpr::R13)?)),
    };
    Ok(Request::FatalError(FatalError {
        code: code as u32,
        gpa,
        regs,
    }))
}
