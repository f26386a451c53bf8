//! Retry policies as values: which answers are worth another attempt, and how many.

use tdx_abi::Status;

use crate::{CallError, Progress};

/// Which errors to try again, and how often before giving up.
///
/// ```
/// # use tdx_call::{CallError, retry::Retry};
/// # use tdx_abi::Status;
/// # let mut left = 2;
/// # let mut create = || -> Result<Status, CallError> { Ok(Status::SUCCESS) };
/// Retry::NO_ENTROPY.and(Retry::BUSY).run(|| create())?;
/// # Ok::<(), CallError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// RND_NO_ENTROPY: attempts after the first.
    pub no_entropy: u32,
    /// OPERAND_BUSY and SYS_BUSY: attempts after the first.
    pub busy: u32,
    /// INTERRUPTED_RESTARTABLE: attempts after the first.
    pub interrupted: u32,
}

impl Retry {
    /// Every error is final.
    pub const NEVER: Retry = Retry {
        no_entropy: 0,
        busy: 0,
        interrupted: 0,
    };
    /// As Linux's `sc_retry`: ten calls in all, on exactly RND_NO_ENTROPY.
    pub const NO_ENTROPY: Retry = Retry {
        no_entropy: 9,
        ..Retry::NEVER
    };
    /// A lock that another processor holds for the time of one call.
    pub const BUSY: Retry = Retry {
        busy: 1000,
        ..Retry::NEVER
    };
    /// A leaf that starts over after an interrupt.
    pub const RESTARTABLE: Retry = Retry {
        interrupted: 10_000,
        ..Retry::NEVER
    };

    /// What both allow.
    pub const fn and(self, other: Retry) -> Retry {
        const fn max(a: u32, b: u32) -> u32 {
            if a > b { a } else { b }
        }
        Retry {
            no_entropy: max(self.no_entropy, other.no_entropy),
            busy: max(self.busy, other.busy),
            interrupted: max(self.interrupted, other.interrupted),
        }
    }

    /// Calls until it succeeds, fails with another error, or the attempts are used up; then the last error.
    pub fn run<T>(
        mut self,
        mut call: impl FnMut() -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        loop {
            match call() {
                Err(error) if self.take(&error) => core::hint::spin_loop(),
                result => return result,
            }
        }
    }

    /// Uses up one attempt, if this error has one left.
    fn take(&mut self, error: &CallError) -> bool {
        let left = if error.is(Status::RND_NO_ENTROPY) {
            &mut self.no_entropy
        } else if error.is(Status::OPERAND_BUSY) || error.is(Status::SYS_BUSY) {
            &mut self.busy
        } else if error.is(Status::INTERRUPTED_RESTARTABLE) {
            &mut self.interrupted
        } else {
            return false;
        };
        let more = *left > 0;
        *left = left.saturating_sub(1);
        more
    }
}

/// Calls an interruptible leaf until it is done, handing each call what the one before returned (`None` at first).
///
/// `limit` bounds the interruptions; the last state comes back as `Interrupted` when it is reached.
///
/// ```no_run
/// # use tdx_call::{host::tdh_phymem_cache_wb, retry::resume, CallError, SeamcallLp};
/// # fn write_back(lp: &mut impl SeamcallLp) -> Result<(), CallError> {
/// resume(10_000, |last| tdh_phymem_cache_wb(lp, last.is_some()))?;
/// # Ok(()) }
/// ```
pub fn resume<T: Copy>(
    limit: u32,
    mut call: impl FnMut(Option<T>) -> Result<Progress<T>, CallError>,
) -> Result<Progress<T>, CallError> {
    let mut progress = call(None)?;
    for _ in 0..limit {
        match progress {
            Progress::Interrupted(last) => progress = call(Some(last))?,
            done => return Ok(done),
        }
    }
    Ok(progress)
}
