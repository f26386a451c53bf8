//! `--gdb`: the run loop with a debugger looking on.

use std::time::Duration;

use tdx_call::{HostMemory, SeamcallLp};
use tdx_debug::{Address, Leave, Listener, Owner, Parts, ServeError, Slice, Which, serve};
use tdx_host::{ExitLog, HostError};

use super::schedule::{Clockwork, End, Running};
use super::summary;
use crate::cli::Failure;
use crate::explain;

/// How many exits are kept for `monitor exits`.
const EXITS: usize = 1000;
/// A vCPU that steps alone and sleeps with nothing to wake it: how long until it is looked at again.
const ASLEEP: Duration = Duration::from_millis(1);

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
    match listener.address()? {
        // GDB takes a path as it is.
        Address::Unix(path) => say(format_args!("target remote {}", path.display())),
        Address::Tcp(address) => say(format_args!("target remote {address}")),
    }
    running.stats.log = Some(ExitLog::new(EXITS));
    let mut wait = debugging.wait;
    loop {
        let client = if wait {
            Some(listener.wait()?)
        } else {
            listener.poll()?
        };
        if let Some(stream) = client {
            let mut debugged = Debugged {
                running,
                listener: &listener,
                end: None,
            };
            let left = serve(&mut debugged, stream);
            let end = debugged.end.take();
            wait = match left {
                Ok(Leave::Killed) => return Ok(End::Killed),
                Ok(Leave::Ended { .. }) => return Ok(end.unwrap_or(End::PoweredOff)),
                Ok(Leave::Detached) => false,
                Ok(Leave::Dropped { why }) => {
                    let stops = debugging.on_drop == OnDrop::Stop && end.is_none();
                    let then = match stops {
                        true => "the TD waits for the next one",
                        false => "the TD runs on",
                    };
                    say(format_args!("the client is gone ({why}); {then}"));
                    stops
                }
                Err(ServeError::Host(why)) => return Err(failed(&why)),
                Err(ServeError::Debug(why)) => return Err(failed(&why)),
            };
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

fn say(words: std::fmt::Arguments<'_>) {
    eprintln!("swtdx: gdb       {words}");
}

fn failed(why: &dyn std::fmt::Display) -> Failure {
    Failure::with_code(6, format!("debugging the TD: {why}"))
}

/// The run loop as the debugger drives it.
struct Debugged<'r, 'a, M, L, C> {
    running: &'r mut Running<'a, M, L, C>,
    listener: &'r Listener,
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
        if let Some(end) = &self.end {
            // Nothing comes after an end: the user may look, and detach.
            return Ok(Slice::Stuck {
                vcpu: end.vcpu().unwrap_or(0),
                why: summary::words(end),
            });
        }
        let mut ended = self.running.round(only)?;
        if only.is_some() && ended == Some(End::Hang) {
            // A vCPU that is stepped alone sleeps in its handler, and no timer will wake it: only the others can.
            ended = self.running.round(None)?;
        }
        let Some(end) = ended else {
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
            // The debugger's user may still change something.
            End::Hang if only.is_some() => {
                std::thread::sleep(ASLEEP);
                Slice::Ran
            }
            End::PoweredOff | End::Reset | End::Quit => {
                self.end = Some(end);
                Slice::Ended { status: 0 }
            }
            end => {
                let why = summary::words(&end);
                say(format_args!("{why}"));
                let vcpu = end.vcpu().unwrap_or(0);
                self.end = Some(end);
                Slice::Stuck { vcpu, why }
            }
        })
    }

    fn last_exits(&self, vcpu: usize, count: usize) -> Vec<String> {
        let Some(log) = &self.running.stats.log else {
            return Vec::new();
        };
        let last = log.last(vcpu as u32, count);
        last.iter().map(ToString::to_string).collect()
    }

    fn explain(&self, value: &str) -> String {
        explain::words(value)
    }

    fn tell(&mut self, words: &str) {
        say(format_args!("{words}"));
    }

    fn meanwhile(&mut self) {
        if let Ok(Some(second)) = self.listener.poll() {
            second.refuse("this TD has a debugger already");
            say(format_args!("a second client was turned away"));
        }
    }
}
