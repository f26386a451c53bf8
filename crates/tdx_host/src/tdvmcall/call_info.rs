//! GetTdVmCallInfo: R12 = 0 asks whether the base calls are there, 1 which others are; back in R11 to R14.

use x86_arch::Gpr;

use super::{Refusal, Request, status};
use crate::window::Shown;

/// The question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallInfo {
    Base,
    Optional,
}

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    match shown.arg(Gpr::R12)? {
        0 => Ok(Request::CallInfo(CallInfo::Base)),
        1 => Ok(Request::CallInfo(CallInfo::Optional)),
        _ => Err(Refusal::Status(status::INVALID_OPERAND)),
    }
}

pub(super) fn write(shown: &mut Shown<'_>, words: [u64; 4]) {
    for (reg, word) in [Gpr::R11, Gpr::R12, Gpr::R13, Gpr::R14]
        .into_iter()
        .zip(words)
    {
        shown.put(reg, word);
    }
}
