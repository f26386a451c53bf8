//! MapGPA: R12 start with the shared bit as the wish, R13 bytes. A long range is done in pieces: the answer RETRY
//! carries in R11 where the guest should go on.

use x86_arch::{Gpa, Gpr, PAGE_SIZE};

use super::{Refusal, Request, status};
use crate::window::Shown;

/// A wish to change GPAs from private to shared or back; the shared bit of `gpa` is clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapGpa {
    pub gpa: Gpa,
    pub size: u64,
    pub to_shared: bool,
}

impl MapGpa {
    /// KVM does 2 MiB at a time, so that pending events are seen in between.
    pub const PIECE: u64 = 2 << 20;

    /// The piece to do first, and what is left after it.
    pub fn split(self) -> (MapGpa, Option<MapGpa>) {
        let size = self.size.min(Self::PIECE);
        let rest = (size < self.size).then(|| MapGpa {
            gpa: Gpa::new(self.gpa.raw() + size),
            size: self.size - size,
            ..self
        });
        (MapGpa { size, ..self }, rest)
    }
}

pub(super) fn read(shown: &Shown<'_>, shared_bit: u64) -> Result<Request, Refusal> {
    let (gpa, size) = (shown.arg(Gpr::R12)?, shown.arg(Gpr::R13)?);
    if gpa % PAGE_SIZE != 0 || size % PAGE_SIZE != 0 {
        return Err(Refusal::Status(status::ALIGN_ERROR));
    }
    let to_shared = gpa & shared_bit != 0;
    let start = gpa & !shared_bit;
    // A legal GPA, a range that does not wrap and stays on one side of the shared bit.
    let legal = size != 0 && start.checked_add(size).is_some_and(|end| end <= shared_bit);
    if !legal {
        return Err(Refusal::Status(status::INVALID_OPERAND));
    }
    Ok(Request::MapGpa(MapGpa {
        gpa: Gpa::new(start),
        size,
        to_shared,
    }))
}
