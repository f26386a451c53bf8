//! Instruction.IO: R12 size, R13 direction, R14 port, R15 value of an OUT. String forms do not exist here: a guest
//! breaks them up, and any other size or direction is an invalid operand.

use x86_arch::Gpr;

use super::{Refusal, Request, status};
use crate::window::Shown;

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    let invalid = Err(Refusal::Status(status::INVALID_OPERAND));
    let (size, port) = (shown.arg(Gpr::R12)?, shown.arg(Gpr::R14)?);
    if !matches!(size, 1 | 2 | 4) || port > 0xFFFF {
        return invalid;
    }
    let mask = u64::MAX >> (64 - 8 * size);
    let write = match shown.arg(Gpr::R13)? {
        0 => None,
        1 => Some((shown.arg(Gpr::R15)? & mask) as u32),
        _ => return invalid,
    };
    Ok(Request::Io {
        port: port as u16,
        size: size as u8,
        write,
    })
}
