//! SetupEventNotifyInterrupt: R12 the vector with which the host tells the guest of an event, 32 to 255.

use x86_arch::Gpr;

use super::{Refusal, Request, status};
use crate::window::Shown;

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    match shown.arg(Gpr::R12)? {
        vector @ 32..=255 => Ok(Request::EventNotify {
            vector: vector as u8,
        }),
        _ => Err(Refusal::Status(status::INVALID_OPERAND)),
    }
}
