//! What stops a vCPU under a debugger.
//!
//! The monitor trap flag does not: the module's single-step defence swallows its exits (spec: vp-enter.md 8.1).

use tdx_call::{HostMemory, SeamcallLp};

use super::handler::{BP, DB};
use super::{DebugError, DebugReg, Stopped};

/// Why a vCPU of a DEBUG TD stopped for its debugger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugEvent {
    /// #BP: RIP is at the INT3.
    Breakpoint,
    /// #DB with the conditions of DR6: bits 3:0 registers, 13 register access, 14 single step.
    Debug { dr6: u64 },
    /// #DB by the instruction INT1: RIP is at it.
    Int1,
    /// Another exception that the bitmap names.
    Exception { vector: u8 },
}

/// Interruption types of bits 10:8.
const PRIVILEGED_SOFTWARE: u64 = 5;

impl DebugEvent {
    /// Reads it from a debug stop's interruption information and exit qualification.
    pub fn of(interruption: u64, qualification: u64) -> DebugEvent {
        match interruption as u8 {
            DB if interruption >> 8 & 7 == PRIVILEGED_SOFTWARE => DebugEvent::Int1,
            DB => DebugEvent::Debug { dr6: qualification },
            BP => DebugEvent::Breakpoint,
            vector => DebugEvent::Exception { vector },
        }
    }
}

/// Makes #DB and #BP exits (or no longer).
pub fn enable_exits<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    on: bool,
) -> Result<(), DebugError> {
    let bitmap = stopped.get(DebugReg::ExceptionBitmap)?;
    let bits = 1 << DB | 1 << BP;
    let wanted = if on { bitmap | bits } else { bitmap & !bits };
    if wanted != bitmap {
        stopped.write(DebugReg::ExceptionBitmap, wanted)?;
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
        assert_eq!(DebugEvent::of(0x8000_0501, 0), DebugEvent::Int1);
        assert_eq!(DebugEvent::of(0x8000_0603, 0), DebugEvent::Breakpoint);
        assert_eq!(
            DebugEvent::of(0x8000_0B0E, 0),
            DebugEvent::Exception { vector: 14 }
        );
    }
}
