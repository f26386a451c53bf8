//! The host's retry policy around the typed leaves; every failure names its leaf.

use tdx_abi::Status;
use tdx_call::CallError;

use crate::HostError;

/// How often RDRAND is asked again before a leaf's "no entropy" is believed (Linux asks 10 times).
const ENTROPY_TRIES: u32 = 10;
/// How often a busy lock is tried again. The module's locks never wait, and their holders finish in microseconds.
const BUSY_TRIES: u32 = 2000;
/// From this try on the caller sleeps in between: the holder's own thread may be waiting for a processor.
const PATIENT_TRIES: u32 = 1000;
const PATIENCE: std::time::Duration = std::time::Duration::from_micros(100);
/// How often a leaf that an interrupt ended is called again (Linux's number for cache write-back).
pub(crate) const INTERRUPTED_TRIES: u32 = 10_000;

/// Repeats a call while it has no entropy, meets a held lock, or is interrupted and to be made again as it was.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, CallError>) -> Result<T, HostError> {
    let (mut entropy, mut busy, mut interrupted) = (0, 0, 0);
    loop {
        let failure = match call() {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        match failure.status().code() {
            Status::RND_NO_ENTROPY | Status::KEY_GENERATION_FAILED if entropy < ENTROPY_TRIES => {
                entropy += 1;
            }
            Status::OPERAND_BUSY | Status::SYS_BUSY if busy < BUSY_TRIES => {
                busy += 1;
                match busy < PATIENT_TRIES {
                    true => std::thread::yield_now(),
                    false => std::thread::sleep(PATIENCE),
                }
            }
            Status::INTERRUPTED_RESTARTABLE | Status::INTERRUPTED_RESUMABLE
                if interrupted < INTERRUPTED_TRIES =>
            {
                interrupted += 1;
            }
            _ => return Err(failure.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tdx_abi::HostLeaf;
    use tdx_call::{Leaf, NoSeam, Refused};

    use super::*;
    use crate::Errno;

    fn refused(status: Status) -> CallError {
        CallError::Refused(Refused {
            leaf: Leaf::Host(HostLeaf::MNG_CREATE),
            status,
            words: [0; 5],
        })
    }

    /// How often a call that answers `status` for ever is made, and what its caller gets.
    fn tries(error: CallError) -> (u32, HostError) {
        let count = Cell::new(0);
        let failure = retry(|| -> Result<(), CallError> {
            count.set(count.get() + 1);
            Err(error)
        });
        (count.get(), failure.unwrap_err())
    }

    #[test]
    fn what_passes_by_itself_is_tried_again_and_nothing_else() {
        let busy = Status::OPERAND_BUSY.with_operand(tdx_abi::OperandId::SEPT_TREE);
        for (status, wanted, errno) in [
            (busy, 2001, Errno::Busy),
            (Status::SYS_BUSY, 2001, Errno::Busy),
            (Status::RND_NO_ENTROPY, 11, Errno::Again),
            (Status::KEY_GENERATION_FAILED, 11, Errno::Again),
            (Status::INTERRUPTED_RESTARTABLE, 10_001, Errno::Again),
            (Status::OPERAND_INVALID, 1, Errno::Invalid),
            (Status::HKID_NOT_FREE, 1, Errno::Io),
        ] {
            let (count, failure) = tries(refused(status));
            assert_eq!((count, failure.errno()), (wanted, errno), "{status}");
            assert_eq!(failure.raw(), Some(status.raw()));
        }
        let leaf = Leaf::Host(HostLeaf::MNG_CREATE);
        let why = NoSeam::VmFailInvalid;
        let (count, failure) = tries(CallError::NoSeam { leaf, why });
        assert_eq!(
            (count, failure.errno(), failure.raw()),
            (1, Errno::NoDevice, None)
        );
        let text = failure.to_string();
        assert_eq!(
            text,
            "TDH.MNG.CREATE: no TDX module answered (VMfailInvalid)"
        );
    }
}
