//! One client, from its first packet until it leaves.

use std::fmt;
use std::io;

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;

use tdx_host::HostError;
use tdx_host::debug::{DebugError, DebugEvent, DebugReg, Watch};

use crate::listen::Stream;
use crate::owner::{Owner, Slice, Which};
use crate::target::{Action, TdTarget, tid};

/// How the client left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// It detached: the TD runs on.
    Detached,
    /// It asked for the TD's end.
    Killed,
    /// The TD ended while it watched.
    Ended { status: u8 },
    /// The connection broke.
    Dropped,
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
    let mut target = TdTarget::new(owner);
    target.attach(true)?;
    let left = talk(&mut target, stream);
    // The vCPUs are left as if no debugger had been there.
    let detached = target.attach(false);
    let left = left?;
    detached?;
    Ok(left)
}

fn talk<O: Owner>(target: &mut TdTarget<'_, O>, stream: Stream) -> Result<Leave, ServeError> {
    let stub = GdbStub::new(stream);
    let mut machine = match stub.run_state_machine(target) {
        Ok(machine) => machine,
        Err(error) => return broken(error),
    };
    loop {
        let next = match machine {
            GdbStubStateMachine::Idle(mut idle) => match idle.borrow_conn().wait() {
                Ok(byte) => idle.incoming_data(target, byte),
                Err(_) => return Ok(Leave::Dropped),
            },
            GdbStubStateMachine::Running(mut running) => {
                let polled = running.borrow_conn().poll();
                match polled {
                    Ok(Some(byte)) => running.incoming_data(target, byte),
                    Ok(None) => match run(target)? {
                        None => Ok(GdbStubStateMachine::Running(running)),
                        Some(reason) => running.report_stop(target, reason),
                    },
                    Err(_) => return Ok(Leave::Dropped),
                }
            }
            GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                let reason = MultiThreadStopReason::SignalWithThread {
                    tid: tid(target.current),
                    signal: Signal::SIGINT,
                };
                interrupt.interrupt_handled(target, Some(reason))
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

/// A protocol error drops the client; a host error is the owner's.
fn broken(error: GdbStubError<HostError, io::Error>) -> Result<Leave, ServeError> {
    if error.is_target_error() {
        if let Some(error) = error.into_target_error() {
            return Err(ServeError::Host(error));
        }
        return Ok(Leave::Dropped);
    }
    eprintln!("swtdx: gdb       the client is dropped: {error}");
    Ok(Leave::Dropped)
}

type StopReason = MultiThreadStopReason<u64>;

/// Runs for a moment; tells why it stopped, if the debugger wants to know.
fn run<O: Owner>(target: &mut TdTarget<'_, O>) -> Result<Option<StopReason>, ServeError> {
    let stepped = target
        .actions
        .iter()
        .position(|a| matches!(a, Some(Action::Step | Action::StepRange(..))));
    // While one vCPU steps the others wait, unless they were told to run too.
    let others_run = target.actions.contains(&Some(Action::Continue));
    let which = match stepped {
        Some(vcpu) if !others_run => Which::Only(vcpu),
        _ => Which::All,
    };
    match target.owner.slice(which).map_err(ServeError::Host)? {
        Slice::Ran => Ok(None),
        Slice::Ended { status } => Ok(Some(MultiThreadStopReason::Exited(status))),
        Slice::Stuck { vcpu, .. } => {
            target.current = vcpu;
            let signal = Signal::SIGABRT;
            Ok(Some(MultiThreadStopReason::SignalWithThread {
                tid: tid(vcpu),
                signal,
            }))
        }
        Slice::Stopped {
            vcpu,
            qualification,
            interruption,
        } => {
            target.current = vcpu;
            stopped(target, vcpu, DebugEvent::of(interruption, qualification))
        }
    }
}

fn stopped<O: Owner>(
    target: &mut TdTarget<'_, O>,
    vcpu: usize,
    event: DebugEvent,
) -> Result<Option<StopReason>, ServeError> {
    let tid = tid(vcpu);
    let dr6 = match event {
        DebugEvent::Breakpoint => return Ok(Some(MultiThreadStopReason::SwBreak(tid))),
        DebugEvent::Exception { .. } => {
            let signal = Signal::SIGTRAP;
            return Ok(Some(MultiThreadStopReason::SignalWithThread {
                tid,
                signal,
            }));
        }
        DebugEvent::Debug { dr6 } => dr6,
    };
    if let Some(hit) = target.breakpoints.hit(dr6) {
        let addr = hit.linear;
        return Ok(Some(match hit.watch {
            Watch::Execute => MultiThreadStopReason::HwBreak(tid),
            Watch::Write => MultiThreadStopReason::Watch {
                tid,
                kind: WatchKind::Write,
                addr,
            },
            Watch::Access => MultiThreadStopReason::Watch {
                tid,
                kind: WatchKind::ReadWrite,
                addr,
            },
        }));
    }
    if let Some(Action::StepRange(start, end)) = target.actions[vcpu] {
        let rip = target.get(vcpu, DebugReg::Rip)?;
        if (start..end).contains(&rip) && !target.breakpoints.is_at(rip) {
            target.prepare()?;
            return Ok(None);
        }
    }
    // gdbstub's DoneStep names no thread.
    let signal = Signal::SIGTRAP;
    Ok(Some(MultiThreadStopReason::SignalWithThread {
        tid,
        signal,
    }))
}
