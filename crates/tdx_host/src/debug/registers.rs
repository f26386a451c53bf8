//! The debug-address registers and DR7 of a vCPU: the debugger's while it uses them, the guest's otherwise.

use tdx_call::{HostMemory, SeamcallLp};

use super::{DebugError, DebugReg, Stopped};

/// DR0 to DR3 and DR7.
pub const DEBUG: [DebugReg; 5] = [
    DebugReg::Dr(0),
    DebugReg::Dr(1),
    DebugReg::Dr(2),
    DebugReg::Dr(3),
    DebugReg::Dr7,
];

/// DR7 without a breakpoint: bit 10 is always 1.
const NONE: u64 = 0x400;

/// What the guest had in its debug registers before the debugger took them.
#[derive(Clone, Copy, Default, Debug)]
pub struct BorrowedRegisters {
    guests: Option<[u64; 5]>,
}

impl BorrowedRegisters {
    /// Puts the debugger's values in; all registers unused (DR7 without an enable bit) gives the guest its own back.
    pub fn load<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
        values: [u64; 5],
    ) -> Result<(), DebugError> {
        let [.., dr7] = values;
        if dr7 == NONE {
            let Some(guests) = self.guests.take() else {
                return Ok(());
            };
            return put(stopped, guests);
        }
        if self.guests.is_none() {
            let mut guests = [0; 5];
            for (value, reg) in guests.iter_mut().zip(DEBUG) {
                *value = stopped.get(reg)?;
            }
            self.guests = Some(guests);
        }
        put(stopped, values)
    }
}

fn put<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    values: [u64; 5],
) -> Result<(), DebugError> {
    for (reg, value) in DEBUG.into_iter().zip(values) {
        if stopped.get(reg)? != value {
            stopped.set(reg, value);
        }
    }
    Ok(())
}
