//! Handing an exception of the guest's own back to it.
//!
//! With #DB and #BP in the exception bitmap the guest's own INT3s (Linux patches its code with them) and debug
//! exceptions stop it too. The VMM cannot inject an event into a TD (spec: vp-enter.md 8.3), but it can make the
//! exception happen again and let it through:
//!
//! * **#BP** is a fault for this purpose: RIP is still at the INT3. Its bit leaves the exception bitmap, a debug
//!   register watches the handler's first instruction, and blocking by MOV SS keeps every other event away for the
//!   one instruction. The vCPU runs, the processor delivers the exception, and the debug register stops the vCPU
//!   before the handler's first instruction.
//! * **#DB** as a trap is past its instruction. Its conditions go into the pending debug exceptions, from where the
//!   processor delivers them, and sets DR6, before anything else (SDM volume 3, 27.7.3). INT1, a code breakpoint and
//!   general detect are faults, and happen again. The debug registers cannot watch while #DB is out of the bitmap,
//!   so an INT3 stands at the handler's first instruction.
//!
//! Either way exactly one exception passes, and the bitmap is whole again before the guest's handler begins. Only
//! this vCPU may run meanwhile: the others would meet the INT3, or change the code.

use tdx_call::{HostMemory, SeamcallLp};

use super::handler::{self, BP, DB, RFLAGS_RF, RFLAGS_TF};
use super::{Breakpoints, DebugError, DebugEvent, DebugReg, Stopped, registers};

const INT3: u8 = 0xCC;
const BLOCKED_BY_STI: u64 = 1;
const BLOCKED_BY_MOV_SS: u64 = 2;
const RFLAGS_IF: u64 = 1 << 9;
/// DR6's conditions of the debug-address registers, general detect and single step.
const DR6_REGISTERS: u64 = 0xF;
const DR6_BD: u64 = 1 << 13;
const DR6_BS: u64 = 1 << 14;
/// A pending debug exception by an enabled breakpoint.
const PENDING_ENABLED: u64 = 1 << 12;
/// DR7 with DR3 alone: global enable, execution, one byte.
const DR7_ONLY_DR3: u64 = 0x400 | 2 << 6;

/// An exception on its way to the guest's handler.
#[derive(Debug)]
pub struct PassThrough {
    handler: u64,
    bitmap: u64,
    guard: Guard,
}

/// What stops the vCPU at the handler.
#[derive(Debug)]
enum Guard {
    /// DR3; the values that the debug registers had.
    Register([u64; 5]),
    /// An INT3, and the byte below it; `None` where the debugger's own stands already.
    Int3 { gpa: u64, below: Option<u8> },
}

/// How an exception begins its way.
#[derive(Debug)]
pub enum Passing {
    /// Run this vCPU alone until it stops, then call [`PassThrough::end`].
    Begun(PassThrough),
    /// The INT3 is no longer there: run on.
    Gone,
    /// The guest has no handler that could be watched.
    NoHandler,
}

impl PassThrough {
    /// Prepares the vCPU so that the exception it stopped for happens again and is delivered.
    pub fn begin<M: HostMemory, L: SeamcallLp>(
        stopped: &mut Stopped<'_, M, L>,
        breakpoints: &Breakpoints,
        event: DebugEvent,
    ) -> Result<Passing, DebugError> {
        let vector = match event {
            DebugEvent::Breakpoint => BP,
            DebugEvent::Debug { .. } | DebugEvent::Int1 => DB,
            DebugEvent::Exception { .. } => return Ok(Passing::NoHandler),
        };
        if vector == BP && !int3_is_next(stopped)? {
            return Ok(Passing::Gone);
        }
        let Some(handler) = handler::of(stopped, vector)? else {
            return Ok(Passing::NoHandler);
        };
        let guard = match event {
            DebugEvent::Breakpoint => watch(stopped, handler)?,
            _ => match plant(stopped, breakpoints, handler)? {
                Some(guard) => guard,
                None => return Ok(Passing::NoHandler),
            },
        };
        let bitmap = stopped.get(DebugReg::ExceptionBitmap)?;
        let (out, kept) = if vector == BP { (BP, DB) } else { (DB, BP) };
        stopped.set(DebugReg::ExceptionBitmap, bitmap & !(1 << out) | 1 << kept);
        again(stopped, event)?;
        stopped.flush()?;
        Ok(Passing::Begun(PassThrough {
            handler,
            bitmap,
            guard,
        }))
    }

    /// Takes the guard away and closes the exception bitmap; true when the vCPU is at the handler.
    pub fn end<M: HostMemory, L: SeamcallLp>(
        self,
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<bool, DebugError> {
        stopped.set(DebugReg::ExceptionBitmap, self.bitmap);
        match self.guard {
            Guard::Register(values) => {
                for (reg, value) in registers::DEBUG.into_iter().zip(values) {
                    stopped.set(reg, value);
                }
            }
            Guard::Int3 { below: None, .. } => {}
            Guard::Int3 {
                gpa,
                below: Some(byte),
            } => {
                let (memory, lp) = (&stopped.memory, &mut *stopped.lp);
                memory.write_gpa(lp, gpa, &[byte])?;
            }
        }
        let arrived = stopped.get(DebugReg::Rip)? == self.handler;
        if arrived {
            // The stop at the debug register would be the next instruction's too.
            let rflags = stopped.get(DebugReg::Rflags)?;
            stopped.set(DebugReg::Rflags, rflags & !RFLAGS_RF);
        } else {
            let state = stopped.get(DebugReg::Interruptibility)?;
            stopped.set(
                DebugReg::Interruptibility,
                state & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS),
            );
        }
        stopped.flush()?;
        Ok(arrived)
    }
}

/// Whether the instruction at RIP is INT3 as memory has it: another vCPU may have patched it since.
fn int3_is_next<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
) -> Result<bool, DebugError> {
    let rip = stopped.get(DebugReg::Rip)?;
    let mut bytes = [0; 15];
    let reached = match stopped.read_memory(rip, &mut bytes) {
        Ok(reached) => reached,
        Err(DebugError::NotMapped { .. } | DebugError::NoPage { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2E | 0x36 | 0x3E | 0x40..=0x4F | 0x64..=0x67 | 0xF2 | 0xF3);
    Ok(bytes[..reached].iter().find(|byte| !is_prefix(byte)) == Some(&INT3))
}

fn watch<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    handler: u64,
) -> Result<Guard, DebugError> {
    let mut values = [0; 5];
    for (value, reg) in values.iter_mut().zip(registers::DEBUG) {
        *value = stopped.get(reg)?;
    }
    stopped.set(DebugReg::Dr(3), handler);
    stopped.set(DebugReg::Dr7, DR7_ONLY_DR3);
    Ok(Guard::Register(values))
}

/// `None` where the handler's code cannot be reached.
fn plant<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    breakpoints: &Breakpoints,
    handler: u64,
) -> Result<Option<Guard>, DebugError> {
    let gpa = match stopped.translate(handler) {
        Ok(gpa) => gpa,
        Err(DebugError::NotMapped { .. } | DebugError::NoPage { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if breakpoints.stands_on(gpa) {
        return Ok(Some(Guard::Int3 { gpa, below: None }));
    }
    let mut byte = [0];
    stopped.memory.read_gpa(stopped.lp, gpa, &mut byte)?;
    stopped.memory.write_gpa(stopped.lp, gpa, &[INT3])?;
    let below = Some(byte[0]);
    Ok(Some(Guard::Int3 { gpa, below }))
}

/// Makes the exception the next thing that happens.
fn again<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    event: DebugEvent,
) -> Result<(), DebugError> {
    let rflags = stopped.get(DebugReg::Rflags)?;
    let state = stopped.get(DebugReg::Interruptibility)? & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
    // A vCPU with TF may not be entered with a shadow (SDM volume 3, 27.3.1.5).
    let may_shadow = rflags & RFLAGS_TF == 0;
    let shadow = match event {
        DebugEvent::Breakpoint if may_shadow => BLOCKED_BY_MOV_SS,
        DebugEvent::Debug { dr6 } => {
            let dr7 = stopped.get(DebugReg::Dr7)?;
            match is_fault(dr6, dr7) {
                false => {
                    stopped.set(DebugReg::PendingDebug, pending(dr6));
                    0
                }
                // MOV SS would keep the breakpoint itself away.
                true if may_shadow && rflags & RFLAGS_IF != 0 => BLOCKED_BY_STI,
                true => 0,
            }
        }
        DebugEvent::Int1 if may_shadow => BLOCKED_BY_MOV_SS,
        _ => 0,
    };
    stopped.set(DebugReg::Interruptibility, state | shadow);
    if rflags & RFLAGS_RF != 0 {
        stopped.set(DebugReg::Rflags, rflags & !RFLAGS_RF);
    }
    Ok(())
}

/// General detect, or a debug-address register that watches execution.
fn is_fault(dr6: u64, dr7: u64) -> bool {
    let executes = |n: u64| dr6 & 1 << n != 0 && dr7 >> (16 + 4 * n) & 3 == 0;
    dr6 & DR6_BD != 0 || dr6 & DR6_BS == 0 && (0..4).any(executes)
}

/// The pending debug exceptions that make a #DB with these conditions.
fn pending(dr6: u64) -> u64 {
    let registers = dr6 & DR6_REGISTERS;
    let enabled = if registers != 0 { PENDING_ENABLED } else { 0 };
    registers | enabled | dr6 & DR6_BS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_debug_exception_follows_from_its_conditions() {
        // DR0 watches execution, DR1 writes.
        let dr7 = 0x400 | 0xA | 1 << 20;
        assert!(is_fault(1, dr7), "a code breakpoint");
        assert!(!is_fault(2, dr7), "a watchpoint is a trap");
        assert!(!is_fault(DR6_BS, dr7), "a single step is a trap");
        assert!(is_fault(DR6_BD, dr7), "general detect");
    }

    #[test]
    fn the_pending_exceptions_are_the_conditions_again() {
        assert_eq!(pending(0x4000), 0x4000);
        assert_eq!(pending(0x2), 0x1002);
        assert_eq!(pending(0x4003), 0x5003);
    }
}
