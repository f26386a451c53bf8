//! Accepting private memory: the largest pages that the VMM gives.

use super::tdcall::{MEM_PAGE_ACCEPT, Registers, tdcall};

/// Completion-status codes (bits 63:32) that acceptance meets in the ordinary course.
const SIZE_MISMATCH: u64 = 0xC000_0B0B;
const ALREADY_ACCEPTED: u64 = 0x0000_0B0A;

/// Bytes accepted so far by page size, for the curious.
#[derive(Default)]
pub struct Accepted {
    pub small: u64,
    pub large: u64,
}

/// Accepts every page from `start` to `end` (4 KiB aligned). Gives the status that stopped it.
pub fn range(start: u64, end: u64, accepted: &mut Accepted) -> Result<(), u64> {
    let mut at = start;
    while at < end {
        at += page(at, end, accepted)?;
    }
    Ok(())
}

/// Accepts one page at `at`, as large as fits, and gives its size.
fn page(at: u64, end: u64, accepted: &mut Accepted) -> Result<u64, u64> {
    for level in [1u64, 0] {
        let size = 4096u64 << (9 * level);
        if !at.is_multiple_of(size) || end - at < size {
            continue;
        }
        let mut regs = Registers {
            rcx: at | level,
            ..Default::default()
        };
        let status = tdcall(MEM_PAGE_ACCEPT, &mut regs);
        match status >> 32 {
            0 | ALREADY_ACCEPTED => {
                *(if level == 1 {
                    &mut accepted.large
                } else {
                    &mut accepted.small
                }) += size;
                return Ok(size);
            }
            SIZE_MISMATCH if level > 0 => {}
            _ => return Err(status),
        }
    }
    Err(0)
}
