//! Instruction.RDMSR and WRMSR: R12 index, R13 value to write; a value read comes back in R11.

use x86_arch::Gpr;

use super::{Refusal, Request, status};
use crate::window::Shown;

fn index(shown: &Shown<'_>) -> Result<u32, Refusal> {
    let index = shown.arg(Gpr::R12)?;
    u32::try_from(index).map_err(|_| Refusal::Status(status::INVALID_OPERAND))
}

pub(super) fn read_rdmsr(shown: &Shown<'_>) -> Result<Request, Refusal> {
    Ok(Request::Rdmsr { msr: index(shown)? })
}

pub(super) fn read_wrmsr(shown: &Shown<'_>) -> Result<Request, Refusal> {
    Ok(Request::Wrmsr {
        msr: index(shown)?,
        value: shown.arg(Gpr::R13)?,
    })
}
