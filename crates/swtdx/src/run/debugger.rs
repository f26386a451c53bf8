//! `--gdb`: the run loop with a debugger looking on.

use tdx_call::{HostMemory, SeamcallLp};
use tdx_debug::{Address, Leave, Listener, Owner, Parts, ServeError, Slice, Which, serve};
use tdx_host::HostError;

use super::schedule::{Clockwork, End, Running};
use super::summary;
use crate::cli::Failure;

/// What becomes of the TD when the client is gone without a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnDrop {
    /// It runs on.
    Run,
    /// It stands still until the next client comes.
    Stop,
}

/// What the options say of the debugger.
#[derive(Clone, Debug)]
pub struct Debugging {
    pub address: Address,
    /// The TD stands still until a client comes.
    pub wait: bool,
    pub on_drop: OnDrop,
}

/// Runs the TD to its end and serves debuggers on the way, one after the other.
pub fn run<M: HostMemory, L: SeamcallLp, C: Clockwork>(
    running: &mut Running<'_, M, L, C>,
    debugging: &Debugging,
) -> Result<End, Failure> {
    let address = &debugging.address;
    let listener =
        Listener::bind(address).map_err(|why| Failure::input(format!("--gdb {address}: {why}")))?;
    let bound = listener.address()?;
    eprintln!("swtdx: gdb       target remote {bound}");
    let mut wait = debugging.wait;
    loop {
        let client = if wait {
            Some(listener.wait()?)
        } else {
            listener.poll()?
        };
        if let Some(stream) = client {
            let mut debugged = Debugged { running, end: None };
            let left = serve(&mut debugged, stream);
            let end = debugged.end.take();
            match left {
                Ok(Leave::Killed) => return Ok(End::Killed),
                Ok(Leave::Ended { .. }) => return Ok(end.unwrap_or(End::PoweredOff)),
                Ok(Leave::Detached) => wait = false,
                Ok(Leave::Dropped) => wait = debugging.on_drop == OnDrop::Stop,
                Err(ServeError::Host(why)) => return Err(failed(&why)),
                Err(ServeError::Debug(why)) => return Err(failed(&why)),
            }
            if let Some(end) = end {
                return Ok(end);
            }
            continue;
        }
        if let Some(end) = running.round(None).map_err(|why| failed(&why))? {
            return Ok(end);
        }
    }
}

fn failed(why: &dyn std::fmt::Display) -> Failure {
    Failure::with_code(6, format!("debugging the TD: {why}"))
}

/// The run loop as the debugger drives it.
struct Debugged<'r, 'a, M, L, C> {
    running: &'r mut Running<'a, M, L, C>,
    /// How the TD ended under the debugger's eyes.
    end: Option<End>,
}

impl<M: HostMemory, L: SeamcallLp, C: Clockwork> Owner for Debugged<'_, '_, M, L, C> {
    type Memory = M;
    type Lp = L;

    fn parts(&mut self) -> Parts<'_, M, L> {
        Parts {
            host: self.running.host,
            td: self.running.td,
            lps: self.running.lps,
            vcpus: self.running.vcpus,
        }
    }

    fn lp_of(&self, vcpu: usize) -> usize {
        self.running.lp_of(vcpu)
    }

    fn slice(&mut self, which: Which) -> Result<Slice, HostError> {
        let only = match which {
            Which::All => None,
            Which::Only(vcpu) => Some(vcpu),
        };
        let Some(end) = self.running.round(only)? else {
            return Ok(Slice::Ran);
        };
        Ok(match end {
            End::Debug {
                vcpu,
                qualification,
                interruption,
                ..
            } => Slice::Stopped {
                vcpu: vcpu as usize,
                qualification,
                interruption,
            },
            // While one vCPU steps alone it may sleep: that is no hang.
            End::Hang if only.is_some() => Slice::Ran,
            End::PoweredOff | End::Reset | End::Quit => {
                self.end = Some(end);
                Slice::Ended { status: 0 }
            }
            end => {
                let why = summary::words(&end);
                eprintln!("swtdx: gdb       {why}");
                let vcpu = end.vcpu().unwrap_or(0);
                self.end = Some(end);
                Slice::Stuck { vcpu, why }
            }
        })
    }

    fn last_exits(&self, vcpu: usize, count: usize) -> Vec<String> {
        let stops = self.running.stops.iter().filter(|(of, _)| *of == vcpu);
        let mut last: Vec<String> = stops
            .rev()
            .take(count)
            .map(|(_, stop)| format!("{stop:?}"))
            .collect();
        last.reverse();
        last
    }
}
