//! GetQuote: R12 a shared, 4 KiB aligned GPA, R13 its size. The buffer holds a TDREPORT and is to hold a quote.

use x86_arch::{Gpa, Gpr, PAGE_SIZE};

use super::{Refusal, Request, status};
use crate::window::Shown;

pub(super) fn read(shown: &Shown<'_>, shared_bit: u64) -> Result<Request, Refusal> {
    let (gpa, size) = (shown.arg(Gpr::R12)?, shown.arg(Gpr::R13)?);
    let start = gpa & !shared_bit;
    let fits = start.checked_add(size).is_some_and(|end| end <= shared_bit);
    if gpa & shared_bit == 0 || !fits || size == 0 {
        return Err(Refusal::Status(status::INVALID_OPERAND));
    }
    if gpa % PAGE_SIZE != 0 || size % PAGE_SIZE != 0 {
        return Err(Refusal::Status(status::ALIGN_ERROR));
    }
    Ok(Request::GetQuote {
        gpa: Gpa::new(start),
        size,
    })
}

/// The header of a GetQuote buffer: version, status, length in, length out.
pub const HEADER_SIZE: usize = 24;
/// Status words of the header.
pub const ERROR_UNAVAILABLE: u64 = 0x8000_0000_0000_0001;

/// The header that says that no quoting service is there.
pub fn no_service() -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    header[0..8].copy_from_slice(&1_u64.to_le_bytes());
    header[8..16].copy_from_slice(&ERROR_UNAVAILABLE.to_le_bytes());
    header
}
