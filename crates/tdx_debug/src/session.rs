//! One client, from its first packet until it leaves.

use std::fmt;
use std::io;

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;

use tdx_host::HostError;
use tdx_host::debug::{DebugError, DebugEvent, DebugReg, HardwareBreakpoint, Stepped, Watch};

use crate::listen::Stream;
use crate::owner::{Owner, Slice, Which};
use crate::pass::{self, Passed};
use crate::target::{Action, TdTarget, tid};

/// Slices that a TD gets at a detach to bring back RFLAGS.TF of an abandoned step from its stacks.
const DRAIN: usize = 200;

/// How the client left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leave {
    /// It detached: the TD runs on.
    Detached,
    /// It asked for the TD's end.
    Killed,
    /// The TD ended while it watched.
    Ended { status: u8 },
    /// The connection broke, or what came over it was no GDB.
    Dropped { why: String },
}

/// The debugger cannot serve.
#[derive(Debug)]
pub enum ServeError {
    Debug(DebugError),
    Host(HostError),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debug(error) => write!(f, "{error}"),
            Self::Host(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<DebugError> for ServeError {
    fn from(error: DebugError) -> Self {
        Self::Debug(error)
    }
}

/// Serves a client. The TD stands still when it connects, and runs when it says so.
pub fn serve<O: Owner>(owner: &mut O, stream: Stream) -> Result<Leave, ServeError> {
    let mut session = Session {
        target: TdTarget::new(owner),
        over: false,
    };
    session.target.attach(true)?;
    let left = session.talk(stream);
    // The vCPUs are left as if no debugger had been there.
    let detached = session.detach();
    let left = left?;
    detached?;
    Ok(left)
}

struct Session<'a, O: Owner> {
    target: TdTarget<'a, O>,
    /// The TD or a vCPU is dead: nothing can be written any more.
    over: bool,
}

impl<O: Owner> Session<'_, O> {
    fn talk(&mut self, stream: Stream) -> Result<Leave, ServeError> {
        let mut machine = match GdbStub::new(stream).run_state_machine(&mut self.target) {
            Ok(machine) => machine,
            Err(error) => return broken(error),
        };
        loop {
            let next = match machine {
                GdbStubStateMachine::Idle(mut idle) => {
                    let owner = &mut *self.target.owner;
                    match idle.borrow_conn().wait(|| owner.meanwhile()) {
                        Ok(byte) => idle.incoming_data(&mut self.target, byte),
                        Err(why) => return Ok(dropped(&why)),
                    }
                }
                GdbStubStateMachine::Running(mut running) => {
                    let polled = running.borrow_conn().poll();
                    match polled {
                        Ok(Some(byte)) => running.incoming_data(&mut self.target, byte),
                        Ok(None) => {
                            self.target.owner.meanwhile();
                            match self.run()? {
                                None => Ok(GdbStubStateMachine::Running(running)),
                                Some(reason) => running.report_stop(&mut self.target, reason),
                            }
                        }
                        Err(why) => return Ok(dropped(&why)),
                    }
                }
                GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                    self.target.pause()?;
                    let reason = MultiThreadStopReason::SignalWithThread {
                        tid: tid(self.target.current),
                        signal: Signal::SIGINT,
                    };
                    interrupt.interrupt_handled(&mut self.target, Some(reason))
                }
                GdbStubStateMachine::Disconnected(gone) => {
                    return Ok(match gone.get_reason() {
                        DisconnectReason::Disconnect => Leave::Detached,
                        DisconnectReason::Kill => Leave::Killed,
                        DisconnectReason::TargetExited(status) => Leave::Ended { status },
                        DisconnectReason::TargetTerminated(_) => Leave::Ended { status: 0xFF },
                    });
                }
            };
            machine = match next {
                Ok(machine) => machine,
                Err(error) => return broken(error),
            };
        }
    }

    /// Takes the debugger's traces out of the TD.
    fn detach(&mut self) -> Result<(), ServeError> {
        if self.over {
            return Ok(());
        }
        let target = &mut self.target;
        target.pause()?;
        if target.vcpus.iter().any(|vcpu| vcpu.stepper.has_leaked()) {
            target.clear_breakpoints()?;
            for vcpu in &mut target.vcpus {
                vcpu.action = Some(Action::Continue);
            }
            target.prepare()?;
            for _ in 0..DRAIN {
                let leaked = self.target.vcpus.iter().any(|v| v.stepper.has_leaked());
                if !leaked || self.run()?.is_some() {
                    break;
                }
            }
        }
        match self.over {
            true => Ok(()),
            false => Ok(self.target.attach(false)?),
        }
    }

    /// Runs for a moment; tells why it stopped, if the debugger wants to know.
    fn run(&mut self) -> Result<Option<StopReason>, ServeError> {
        let which = which(&self.target);
        let slice = self.target.owner.slice(which).map_err(ServeError::Host)?;
        let reason = self.judge(slice)?;
        if reason.is_some() && !self.over {
            self.target.pause()?;
        }
        Ok(reason)
    }

    fn judge(&mut self, slice: Slice) -> Result<Option<StopReason>, ServeError> {
        match slice {
            Slice::Ran => Ok(None),
            Slice::Ended { status } => {
                self.over = true;
                Ok(Some(MultiThreadStopReason::Exited(status)))
            }
            Slice::Stuck { vcpu, .. } => {
                self.over = true;
                self.target.current = vcpu;
                Ok(Some(signal(vcpu, Signal::SIGABRT)))
            }
            Slice::Stopped {
                vcpu,
                qualification,
                interruption,
            } => {
                let event = DebugEvent::of(interruption, qualification);
                let reason = self.stopped(vcpu, event)?;
                if reason.is_some() && !self.over {
                    self.target.current = vcpu;
                }
                Ok(reason)
            }
        }
    }

    /// What an exception means: the user's stop, a step on its way, or the guest's own business.
    fn stopped(
        &mut self,
        vcpu: usize,
        event: DebugEvent,
    ) -> Result<Option<StopReason>, ServeError> {
        let target = &mut self.target;
        match event {
            DebugEvent::Exception { .. } => return Ok(Some(signal(vcpu, Signal::SIGTRAP))),
            DebugEvent::Breakpoint => {
                if pass::own_breakpoint(target, vcpu)? {
                    return Ok(Some(MultiThreadStopReason::SwBreak(tid(vcpu))));
                }
            }
            DebugEvent::Int1 => {}
            DebugEvent::Debug { dr6 } => {
                if let Some(hit) = target.breakpoints.hit(dr6) {
                    return Ok(Some(hit_reason(vcpu, hit)));
                }
                match pass::judge(target, vcpu, dr6)? {
                    Stepped::GoOn => return Ok(None),
                    Stepped::Done => return self.stepped(vcpu),
                    Stepped::DoneAndGuests => {
                        self.hand_over(vcpu, event)?;
                        return Ok(Some(signal(vcpu, Signal::SIGTRAP)));
                    }
                    Stepped::Foreign => {}
                }
            }
        }
        self.hand_over(vcpu, event)
    }

    fn hand_over(
        &mut self,
        vcpu: usize,
        event: DebugEvent,
    ) -> Result<Option<StopReason>, ServeError> {
        match pass::pass(&mut self.target, vcpu, event)? {
            Passed::On => Ok(None),
            Passed::NoHandler => Ok(Some(signal(vcpu, Signal::SIGTRAP))),
            Passed::Instead(slice) => self.judge(slice),
            // A user's breakpoint may be the handler's first instruction.
            Passed::AtHandler => match pass::own_breakpoint(&mut self.target, vcpu)? {
                true => Ok(Some(MultiThreadStopReason::SwBreak(tid(vcpu)))),
                false => Ok(None),
            },
        }
    }

    /// A step is done; a range step goes on inside its range.
    fn stepped(&mut self, vcpu: usize) -> Result<Option<StopReason>, ServeError> {
        let target = &mut self.target;
        if let Some(Action::StepRange(start, end)) = target.vcpus[vcpu].action {
            let rip = target.get(vcpu, DebugReg::Rip)?;
            if (start..end).contains(&rip) && !pass::own_breakpoint(target, vcpu)? {
                target.prepare_one(vcpu)?;
                return Ok(None);
            }
        }
        // gdbstub's DoneStep names no thread.
        Ok(Some(signal(vcpu, Signal::SIGTRAP)))
    }
}

/// While one vCPU steps the others wait, unless they were told to run too.
fn which<O: Owner>(target: &TdTarget<'_, O>) -> Which {
    let mut running = (0..target.vcpus.len()).filter(|vcpu| target.vcpus[*vcpu].action.is_some());
    match (running.next(), running.next()) {
        (Some(only), None) => Which::Only(only),
        _ => Which::All,
    }
}

fn signal(vcpu: usize, signal: Signal) -> StopReason {
    let tid = tid(vcpu);
    MultiThreadStopReason::SignalWithThread { tid, signal }
}

fn hit_reason(vcpu: usize, hit: HardwareBreakpoint) -> StopReason {
    let (tid, addr) = (tid(vcpu), hit.linear);
    let kind = match hit.watch {
        Watch::Execute => return MultiThreadStopReason::HwBreak(tid),
        Watch::Write => WatchKind::Write,
        Watch::Access => WatchKind::ReadWrite,
    };
    MultiThreadStopReason::Watch { tid, kind, addr }
}

/// A protocol error drops the client; a host error is the owner's.
fn broken(error: GdbStubError<HostError, io::Error>) -> Result<Leave, ServeError> {
    if error.is_target_error() {
        if let Some(error) = error.into_target_error() {
            return Err(ServeError::Host(error));
        }
        return Ok(dropped(&"the target failed"));
    }
    Ok(dropped(&error))
}

fn dropped(why: &dyn fmt::Display) -> Leave {
    Leave::Dropped {
        why: why.to_string(),
    }
}

type StopReason = MultiThreadStopReason<u64>;
