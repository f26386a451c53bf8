//! An exception of the guest's own, from its stop to the guest's handler.

use tdx_host::debug::{DebugError, DebugEvent, PassThrough, Passing, Stepped};

use crate::owner::{Owner, Slice, Which};
use crate::session::ServeError;
use crate::target::TdTarget;

/// Slices in which the vCPU runs alone before the others may again: delivery takes one instruction, and the pages that
/// the VMM must give first.
const ALONE: usize = 10_000;

/// What became of the exception.
pub enum Passed {
    /// The guest has it, or it was gone: run on.
    On,
    /// The guest has it, and the vCPU is at its handler.
    AtHandler,
    /// The guest has no handler to watch: it is the user's to decide.
    NoHandler,
    /// Something else came first.
    Instead(Slice),
}

/// Hands the exception that `vcpu` stopped for to the guest.
pub fn pass<O: Owner>(
    target: &mut TdTarget<'_, O>,
    vcpu: usize,
    event: DebugEvent,
) -> Result<Passed, ServeError> {
    let begun = target.with(vcpu, |stopped, kept| {
        PassThrough::begin(stopped, kept.breakpoints, event)
    })?;
    let passing = match begun {
        Passing::Begun(passing) => passing,
        Passing::NoHandler => return Ok(Passed::NoHandler),
        Passing::Gone => {
            target.prepare_one(vcpu)?;
            return Ok(Passed::On);
        }
    };
    let mut slice = Slice::Ran;
    for _ in 0..ALONE {
        slice = target
            .owner
            .slice(Which::Only(vcpu))
            .map_err(ServeError::Host)?;
        if slice != Slice::Ran {
            break;
        }
    }
    let arrived = match target.with(vcpu, |stopped, _| passing.end(stopped)) {
        Ok(arrived) => arrived,
        // The dead are not written to.
        Err(_) if matches!(slice, Slice::Stuck { .. } | Slice::Ended { .. }) => false,
        Err(why) => return Err(why.into()),
    };
    if matches!(slice, Slice::Stuck { .. } | Slice::Ended { .. }) {
        return Ok(Passed::Instead(slice));
    }
    if arrived {
        target.with(vcpu, |stopped, kept| kept.stepper.entered(stopped))?;
    }
    target.prepare_one(vcpu)?;
    Ok(match (arrived, slice) {
        (true, _) => Passed::AtHandler,
        (false, Slice::Ran) => Passed::On,
        (false, slice) => Passed::Instead(slice),
    })
}

/// Whether the INT3 at RIP is one of the debugger's, and is asked for at this linear address.
pub fn own_breakpoint<O: Owner>(
    target: &mut TdTarget<'_, O>,
    vcpu: usize,
) -> Result<bool, DebugError> {
    target.with(vcpu, |stopped, kept| {
        let rip = stopped.get(tdx_host::debug::DebugReg::Rip)?;
        match stopped.translate(rip) {
            Ok(gpa) => Ok(kept.breakpoints.stands_on(gpa)),
            Err(DebugError::NotMapped { .. } | DebugError::NoPage { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    })
}

/// Judges a #DB for the step of this vCPU, or for one that another vCPU carried on.
pub fn judge<O: Owner>(
    target: &mut TdTarget<'_, O>,
    vcpu: usize,
    dr6: u64,
) -> Result<Stepped, DebugError> {
    let judged = target.with(vcpu, |stopped, kept| {
        let judged = kept.stepper.judge(stopped, dr6)?;
        if judged == Stepped::GoOn {
            kept.load(stopped)?;
            stopped.flush()?;
        }
        Ok(judged)
    })?;
    Ok(judged)
}
