//! One instruction of a vCPU, as a user means it.
//!
//! RFLAGS.TF alone steps an ordinary instruction, and one that a fault handler runs again: the handler's frame holds
//! TF, its IRET brings it back. An instruction that the guest's handler *completes* (CPUID, HLT, port and MSR access
//! by #VE, its own INT3) would end one instruction late, for the trap comes after the first instruction behind the
//! IRET. So a debug register watches the #VE handler; once the vCPU is there, RF leaves the pushed RFLAGS (a fault
//! pushes it set, and it would keep the next stop away) and a second register watches the following instruction. The
//! handler may sleep, be interrupted, or come back elsewhere: TF stays in its frame and ends the step in any case.

use iced_x86::{Code, Decoder, DecoderOptions};
use tdx_call::{HostMemory, SeamcallLp};
use x86_arch::Gpr;
use x86_arch::vmx::Seg;

use super::handler::{self, Frame, RFLAGS_RF, RFLAGS_TF, VE};
use super::{DebugError, DebugReg, SegPart, Stopped};

const DR6_BS: u64 = 1 << 14;
const EFER_LMA: u64 = 1 << 10;
/// L in a code segment's access rights.
const ACCESS_L: u64 = 1 << 13;
const BLOCKING: u64 = 3;

/// The single step of one vCPU, and what is left of one that never ended.
#[derive(Clone, Default, Debug)]
pub struct Stepper {
    step: Option<Step>,
    /// TF of an abandoned step stands in a frame somewhere on the guest's stacks.
    leaked: bool,
}

#[derive(Clone, Debug)]
struct Step {
    rip: u64,
    /// The following instruction; `None` outside 64-bit mode, where TF alone steps.
    next: Option<u64>,
    /// The instruction stores RFLAGS on the stack, TF too.
    pushes_flags: bool,
    /// The guest had set TF itself.
    guests_tf: bool,
    handler: Option<u64>,
    /// The frame of the handler that completes the instruction.
    frame: Option<Frame>,
}

impl Step {
    /// Whether a handler's frame holds this step: the instruction or the one after it, and TF.
    fn is_in(&self, frame: &Frame) -> bool {
        let here = frame.rip == self.rip || Some(frame.rip) == self.next;
        here && frame.rflags & RFLAGS_TF != 0
    }
}

/// What a #DB means for the step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    Done,
    /// The step ended, and its trap is the guest's too, which had set TF.
    DoneAndGuests,
    /// A stop on the way: run on.
    GoOn,
    /// The #DB has nothing to do with a step.
    Foreign,
}

impl Stepper {
    pub fn is_stepping(&self) -> bool {
        self.step.is_some()
    }

    /// Whether TF of an abandoned step may still come back from a guest's stack.
    pub fn has_leaked(&self) -> bool {
        self.leaked
    }

    /// Prepares a step from where the vCPU stands.
    pub fn begin<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<(), DebugError> {
        let (rip, rflags) = (stopped.get(DebugReg::Rip)?, stopped.get(DebugReg::Rflags)?);
        let (next, pushes_flags) = look_at(stopped, rip)?;
        self.step = Some(Step {
            rip,
            next,
            pushes_flags,
            guests_tf: rflags & RFLAGS_TF != 0,
            handler: match next {
                Some(_) => handler::of(stopped, VE)?,
                None => None,
            },
            frame: None,
        });
        stopped.set(DebugReg::Rflags, rflags | RFLAGS_TF);
        // With TF a shadow is entered only together with a pending single step, which would end this one at once.
        let state = stopped.get(DebugReg::Interruptibility)?;
        if state & BLOCKING != 0 {
            stopped.set(DebugReg::Interruptibility, state & !BLOCKING);
        }
        Ok(())
    }

    /// Code addresses at which the step wants the vCPU stopped, the most useful one first.
    pub fn watched(&self) -> impl Iterator<Item = u64> {
        let step = self.step.as_ref();
        let back = step.and_then(|s| s.frame.and(s.next));
        let handler = step.and_then(|s| s.handler);
        back.into_iter().chain(handler)
    }

    /// Judges a #DB that is no breakpoint of the user's.
    pub fn judge<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
        dr6: u64,
    ) -> Result<Stepped, DebugError> {
        let Some(step) = &self.step else {
            if dr6 & DR6_BS == 0 || !self.leaked {
                return Ok(Stepped::Foreign);
            }
            self.leaked = false;
            let rflags = stopped.get(DebugReg::Rflags)?;
            stopped.set(DebugReg::Rflags, rflags & !RFLAGS_TF);
            return Ok(Stepped::GoOn);
        };
        let guests_tf = step.guests_tf;
        if dr6 & DR6_BS != 0 {
            self.finish(stopped)?;
            return Ok(match guests_tf {
                true => Stepped::DoneAndGuests,
                false => Stepped::Done,
            });
        }
        let rip = stopped.get(DebugReg::Rip)?;
        if let Some(frame) = step.frame
            && step.next == Some(rip)
        {
            // Other code may pass there while the handler sleeps; this one is back on its stack.
            if stopped.get(DebugReg::Gpr(Gpr::Rsp))? == frame.rsp {
                self.finish(stopped)?;
                return Ok(Stepped::Done);
            }
            run_past(stopped)?;
            return Ok(Stepped::GoOn);
        }
        if step.handler == Some(rip) {
            self.entered(stopped)?;
            run_past(stopped)?;
            return Ok(Stepped::GoOn);
        }
        Ok(Stepped::Foreign)
    }

    /// The vCPU is at the first instruction of a handler: if it completes the instruction that is stepped, the step
    /// ends behind the handler's IRET.
    pub fn entered<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<(), DebugError> {
        let Some(step) = &mut self.step else {
            return Ok(());
        };
        let mut frame = Frame::read(stopped)?;
        if step.is_in(&frame) {
            let rflags = frame.rflags & !RFLAGS_RF;
            frame.set_rflags(stopped, rflags)?;
            step.frame = Some(frame);
        }
        Ok(())
    }

    /// Gives the step up: the vCPU stopped for another reason.
    pub fn cancel<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<(), DebugError> {
        let Some(step) = self.step.take() else {
            return Ok(());
        };
        if step.guests_tf {
            return Ok(());
        }
        let rflags = stopped.get(DebugReg::Rflags)?;
        if rflags & RFLAGS_TF != 0 {
            stopped.set(DebugReg::Rflags, rflags & !RFLAGS_TF);
            return Ok(());
        }
        if let Some(at) = step.frame.map(|frame| frame.at) {
            let mut now = Frame::read_at(stopped, at)?;
            if step.is_in(&now) {
                let rflags = now.rflags & !RFLAGS_TF;
                return now.set_rflags(stopped, rflags);
            }
        }
        self.leaked = true;
        Ok(())
    }

    fn finish<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<(), DebugError> {
        let Some(step) = self.step.take() else {
            return Ok(());
        };
        if step.guests_tf {
            return Ok(());
        }
        let rflags = stopped.get(DebugReg::Rflags)?;
        stopped.set(DebugReg::Rflags, rflags & !RFLAGS_TF);
        if step.pushes_flags && step.next == Some(stopped.get(DebugReg::Rip)?) {
            let at = stopped.get(DebugReg::Gpr(Gpr::Rsp))?;
            let mut low = [0; 2];
            stopped.read_memory(at, &mut low)?;
            let flags = u16::from_le_bytes(low) & !(RFLAGS_TF as u16);
            stopped.write_memory(at, &flags.to_le_bytes())?;
        }
        Ok(())
    }
}

/// Lets the instruction at RIP run although a debug register watches it.
pub fn run_past<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
) -> Result<(), DebugError> {
    let rflags = stopped.get(DebugReg::Rflags)?;
    stopped.set(DebugReg::Rflags, rflags | RFLAGS_RF);
    Ok(())
}

/// The address behind the instruction, and whether it is PUSHF.
fn look_at<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    rip: u64,
) -> Result<(Option<u64>, bool), DebugError> {
    let access = stopped.get(DebugReg::Segment(Seg::Cs, SegPart::Access))?;
    if stopped.get(DebugReg::Efer)? & EFER_LMA == 0 || access & ACCESS_L == 0 {
        return Ok((None, false));
    }
    let mut bytes = [0; 15];
    let reached = match stopped.read_memory(rip, &mut bytes) {
        Ok(reached) => reached,
        // The fetch faults, and the step ends behind whatever the guest makes of that.
        Err(DebugError::NotMapped { .. } | DebugError::NoPage { .. }) => return Ok((None, false)),
        Err(error) => return Err(error),
    };
    let mut decoder = Decoder::with_ip(64, &bytes[..reached], rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    if insn.is_invalid() {
        return Ok((None, false));
    }
    let pushes_flags = matches!(insn.code(), Code::Pushfq | Code::Pushfw);
    Ok((Some(insn.next_ip()), pushes_flags))
}
