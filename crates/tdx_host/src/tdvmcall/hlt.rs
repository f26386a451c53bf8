//! Instruction.HLT: R12 is 1 when interrupts are off.

use x86_arch::Gpr;

use super::{Refusal, Request};
use crate::window::Shown;

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    Ok(Request::Hlt {
        blocked: shown.arg(Gpr::R12)? != 0,
    })
}
