//! RequestMMIO: R12 size, R13 direction, R14 GPA, R15 value of a write. Shared addresses only, and none that
//! leaves its page.

use x86_arch::{Gpa, Gpr, PAGE_SIZE};

use super::{Refusal, Request, status};
use crate::window::Shown;

pub(super) fn read(shown: &Shown<'_>, shared_bit: u64) -> Result<Request, Refusal> {
    let invalid = Err(Refusal::Status(status::INVALID_OPERAND));
    let (size, gpa) = (shown.arg(Gpr::R12)?, shown.arg(Gpr::R14)?);
    let crosses = |size| gpa % PAGE_SIZE + size > PAGE_SIZE;
    if !matches!(size, 1 | 2 | 4 | 8) || crosses(size) {
        return invalid;
    }
    if gpa & shared_bit == 0 || gpa >= shared_bit << 1 {
        return invalid;
    }
    let mask = u64::MAX >> (64 - 8 * size);
    let write = match shown.arg(Gpr::R13)? {
        0 => None,
        1 => Some(shown.arg(Gpr::R15)? & mask),
        _ => return invalid,
    };
    Ok(Request::Mmio {
        gpa: Gpa::new(gpa & !shared_bit),
        size: size as u8,
        write,
    })
}
