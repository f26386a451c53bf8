//! What stops a vCPU under a debugger, and single steps by RFLAGS.TF.
//!
//! The monitor trap flag is no way to step a TD: the module's single-step defence swallows its exits
//! (spec: vp-enter.md 8.1).

use tdx_call::SeamcallLp;

use super::{DebugContext, DebugError, DebugReg};
use crate::Vcpu;

const DB: u64 = 1 << 1;
const BP: u64 = 1 << 3;
const TF: u64 = 1 << 8;
/// Blocking by STI and by MOV SS, which a debugger that moves RIP lifts.
const BLOCKING: u64 = 3;

/// Why a vCPU of a DEBUG TD stopped for its debugger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugEvent {
    /// #BP: RIP is at the INT3.
    Breakpoint,
    /// #DB with the conditions of DR6: bits 3:0 registers, 13 register access, 14 single step.
    Debug { dr6: u64 },
    /// Another exception that the bitmap names.
    Exception { vector: u8 },
}

impl DebugEvent {
    /// Reads it from a debug stop's interruption information and exit qualification.
    pub fn of(interruption: u64, qualification: u64) -> DebugEvent {
        match interruption & 0xFF {
            1 => DebugEvent::Debug { dr6: qualification },
            3 => DebugEvent::Breakpoint,
            vector => DebugEvent::Exception {
                vector: vector as u8,
            },
        }
    }
}

/// Makes #DB and #BP exits (or no longer).
pub fn enable_exits<L: SeamcallLp>(
    context: &mut DebugContext,
    lp: &mut L,
    vcpu: &Vcpu,
    on: bool,
) -> Result<(), DebugError> {
    let bitmap = context.get(lp, vcpu, DebugReg::ExceptionBitmap)?;
    let bits = DB | BP;
    let wanted = if on { bitmap | bits } else { bitmap & !bits };
    if wanted != bitmap {
        context.write(lp, vcpu, DebugReg::ExceptionBitmap, wanted)?;
    }
    Ok(())
}

/// Sets or clears RFLAGS.TF.
pub fn set_single_step<L: SeamcallLp>(
    context: &mut DebugContext,
    lp: &mut L,
    vcpu: &Vcpu,
    on: bool,
) -> Result<(), DebugError> {
    let rflags = context.get(lp, vcpu, DebugReg::Rflags)?;
    let wanted = if on { rflags | TF } else { rflags & !TF };
    if wanted != rflags {
        context.set(DebugReg::Rflags, wanted);
    }
    if on {
        // A shadow would make the step two instructions long.
        let state = context.get(lp, vcpu, DebugReg::Interruptibility)?;
        if state & BLOCKING != 0 {
            context.set(DebugReg::Interruptibility, state & !BLOCKING);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_tells_the_event() {
        assert_eq!(
            DebugEvent::of(0x8000_0301, 0x4000),
            DebugEvent::Debug { dr6: 0x4000 }
        );
        assert_eq!(DebugEvent::of(0x8000_0603, 0), DebugEvent::Breakpoint);
        assert_eq!(
            DebugEvent::of(0x8000_0B0E, 0),
            DebugEvent::Exception { vector: 14 }
        );
    }
}
