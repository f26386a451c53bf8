//! Which vCPU runs when: one after the other, in slices of virtual time, so that every run is the same.

use std::time::{Duration, Instant};

use tdx_call::{HostMemory, SeamcallLp};
use tdx_devices::{Board, Interrupt, Power};
use tdx_host::tdvmcall::FatalError;
use tdx_host::{GuestMemory, Host, HostError, Lp, MemoryFault, Run, RunStats, Stop, Td, Vcpu};
use x86_arch::ExitReason;

use super::input::Input;
use super::status::{Now, Status};

/// Host TSC ticks that a vCPU runs before the next one's turn.
const SLICE: u64 = 100_000;
/// The same of the only vCPU: nobody waits for it but the user, about a millisecond at most.
const SLICE_ALONE: u64 = 2_000_000;

/// The longest wait for input before the run looks at its other duties.
const GLANCE: Duration = Duration::from_millis(100);

/// The processors' clock and interrupt lines, which a real host has in hardware.
pub trait Clockwork {
    /// The host's TSC, read as software reads it.
    fn now(&self) -> u64;
    /// The same for an onlooker: looking costs the run no time.
    fn seen(&self) -> u64;
    /// How long so many ticks are.
    fn duration(&self, ticks: u64) -> Duration;
    /// How many ticks pass in a time.
    fn ticks(&self, time: Duration) -> u64;
    /// Makes time pass while every processor sleeps.
    fn sleep_until(&self, tsc: u64);
    /// Ends stays in a guest on processor `lp` from this moment on, by a timer interrupt of the host's.
    fn arm(&self, lp: usize, tsc: u64);
    /// Sends processor `lp` the interrupt that makes it look into a posted-interrupt descriptor.
    fn notify(&self, lp: usize);
    /// Makes processor `lp` leave the guest it is in.
    fn kick(&self, lp: usize);
}

/// The guest's TSC in terms of the host's.
#[derive(Clone, Copy, Debug)]
pub struct GuestTsc {
    pub offset: u64,
    /// 16.48 fixed point.
    pub multiplier: u64,
}

impl GuestTsc {
    pub fn of_host(self, host: u64) -> u64 {
        let scaled = (u128::from(host) * u128::from(self.multiplier)) >> 48;
        (scaled as u64).wrapping_add(self.offset)
    }
    /// The first host tick at which the guest's TSC has reached `guest`.
    pub fn to_host(self, guest: u64) -> u64 {
        let scaled = u128::from(guest.wrapping_sub(self.offset));
        let host = (scaled << 48).div_ceil(u128::from(self.multiplier.max(1)));
        u64::try_from(host).unwrap_or(u64::MAX)
    }
}

/// How the TD's life ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    PoweredOff,
    Reset,
    FatalError(FatalError),
    TripleFault {
        vcpu: u32,
    },
    MemoryFault {
        vcpu: u32,
        fault: MemoryFault,
    },
    /// The module killed the TD or the vCPU; RAX.
    Dead {
        vcpu: u32,
        rax: u64,
    },
    /// An exit that no production TD should make.
    Unexpected {
        vcpu: u32,
        reason: ExitReason,
    },
    /// A vCPU of a DEBUG TD stopped for its debugger.
    Debug {
        vcpu: u32,
        reason: ExitReason,
        qualification: u64,
        interruption: u64,
    },
    /// The debugger's user ended it.
    Killed,
    /// The user at the console ended it.
    Quit,
    /// The console said that the guest's kernel panicked.
    Panicked,
    /// Every vCPU sleeps and nothing will wake one.
    Hang,
    Timeout,
}

impl End {
    /// The vCPU that ended it, if it was one.
    pub fn vcpu(&self) -> Option<usize> {
        match *self {
            End::TripleFault { vcpu }
            | End::MemoryFault { vcpu, .. }
            | End::Dead { vcpu, .. }
            | End::Debug { vcpu, .. }
            | End::Unexpected { vcpu, .. } => Some(vcpu as usize),
            End::Hang | End::Timeout | End::Panicked => Some(0),
            End::PoweredOff | End::Reset | End::Killed | End::Quit | End::FatalError(_) => None,
        }
    }
}

/// What a vCPU does between two of its turns.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum State {
    #[default]
    Ready,
    Halted {
        blocked: bool,
    },
}

/// Everything that a running TD is made of.
pub struct Running<'a, M, L, C> {
    pub host: &'a Host<M>,
    pub td: &'a Td,
    pub lps: &'a mut [Lp<L>],
    pub vcpus: &'a mut [Vcpu],
    /// As many as there are vCPUs.
    pub states: Vec<State>,
    /// Whose turn is the next round's first: after a stop for the debugger the others come before that vCPU again.
    pub first: usize,
    pub board: &'a mut Board,
    pub clockwork: &'a C,
    pub tsc: GuestTsc,
    pub stats: &'a mut RunStats,
    pub until: Option<Instant>,
    /// Whether the guest has said its last word.
    pub over: &'a dyn Fn() -> bool,
    /// What is typed at the console.
    pub input: &'a mut Input,
    pub status: &'a mut Status,
}

impl<M: HostMemory, L: SeamcallLp, C: Clockwork> Running<'_, M, L, C> {
    /// Runs the vCPUs in turn until the TD's life ends.
    pub fn run(&mut self) -> Result<End, HostError> {
        if let Some(end) = self.user()? {
            return Ok(end);
        }
        loop {
            if let Some(end) = self.round(None)? {
                return Ok(end);
            }
        }
    }

    /// One slice of every vCPU, or of `only` one; the TD's end if it came.
    pub fn round(&mut self, only: Option<usize>) -> Result<Option<End>, HostError> {
        let mut slept = true;
        let all = self.vcpus.len();
        for index in (self.first..all).chain(0..self.first) {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            self.deliver()?;
            if let State::Halted { blocked } = self.states[index] {
                if blocked || !self.wakes(index)? {
                    continue;
                }
                self.states[index] = State::Ready;
            }
            slept = false;
            self.tell(index);
            match self.turn(index)? {
                Ok(next) => self.states[index] = next,
                Err(end) => {
                    self.first = (index + 1) % all;
                    return Ok(Some(end));
                }
            }
            if (self.over)() {
                return Ok(Some(End::Panicked));
            }
            if let Some(end) = self.user()? {
                return Ok(Some(end));
            }
        }
        self.first = 0;
        if !slept {
            return Ok(None);
        }
        if !self.sleep()? {
            return Ok(Some(End::Hang));
        }
        self.user()
    }

    /// What the user wants and how long the user waits; typed bytes go to the guest.
    fn user(&mut self) -> Result<Option<End>, HostError> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Some(End::Timeout));
        }
        if self.input.quit() {
            return Ok(Some(End::Quit));
        }
        let typed = self.input.take(|| self.board.listens());
        if !typed.is_empty() {
            self.board.type_bytes(&typed);
            self.deliver()?;
        }
        Ok(None)
    }

    /// One line for who waits for the guest to boot; a guest that listens to its console has booted.
    fn tell(&mut self, vcpu: usize) {
        if self.input.is_terminal() && self.board.listens() {
            self.status.end();
        }
        let (clockwork, stats) = (self.clockwork, &*self.stats);
        self.status.tick(|| Now {
            vcpu,
            exits: stats.entries,
            guest_time: clockwork.duration(clockwork.seen()),
        });
    }

    /// One slice of one vCPU.
    fn turn(&mut self, index: usize) -> Result<Result<State, End>, HostError> {
        let on = self.lp_of(index);
        let vcpu = &mut self.vcpus[index];
        let now = self.clockwork.now();
        let timer = self.board.next_deadline().map(|at| self.tsc.to_host(at));
        let slice = match self.states.len() {
            1 => SLICE_ALONE,
            _ => SLICE,
        };
        let end = timer.map_or(now + slice, |at| at.clamp(now + 1, now + slice));
        self.clockwork.arm(on, end);
        let number = vcpu.index();
        let stop = Run {
            host: self.host,
            td: self.td,
            lp: &mut self.lps[on].seam,
            on,
            services: self.board,
            stats: self.stats,
        }
        .run(vcpu)?;
        Ok(next(stop, number, self.board.power()))
    }

    /// Lets devices serve the guest's requests and due timers fire, and posts what the devices want delivered.
    fn deliver(&mut self) -> Result<(), HostError> {
        self.board.serve_dma(&GuestMemory {
            host: self.host,
            td: self.td,
        });
        self.board.run_timers();
        while let Some(interrupt) = self.board.next_interrupt() {
            let (vcpu, vector) = match interrupt {
                Interrupt::Vector { vcpu, vector } => (vcpu as usize, Some(vector)),
                Interrupt::Nmi { vcpu } => (vcpu as usize, None),
            };
            let Some(target) = self.vcpus.get(vcpu) else {
                continue;
            };
            match vector {
                Some(vector) => {
                    target.post_interrupt(self.host, vector)?;
                    self.clockwork.notify(self.lp_of(vcpu));
                }
                None => {
                    let on = self.lp_of(vcpu);
                    self.vcpus[vcpu].inject_nmi(&mut self.lps[on].seam)?;
                }
            }
        }
        Ok(())
    }

    fn wakes(&mut self, index: usize) -> Result<bool, HostError> {
        let on = self.lp_of(index);
        self.vcpus[index].interrupt_waits(self.host, &mut self.lps[on].seam)
    }

    /// The processor that a vCPU runs on; it stays there.
    pub fn lp_of(&self, index: usize) -> usize {
        let associated = self.vcpus[index].associated_lp();
        associated.unwrap_or(index % self.lps.len())
    }

    /// All vCPUs sleep: time jumps to the next timer, or passes as the host's does while a user is at the console.
    /// False when nothing will wake one.
    fn sleep(&mut self) -> Result<bool, HostError> {
        let now = self.clockwork.seen();
        let Some(deadline) = self.board.next_deadline() else {
            return Ok(self.board.listens() && self.input.wait(GLANCE));
        };
        let mut at = self.tsc.to_host(deadline).max(now + 1);
        if self.input.is_terminal() && self.board.listens() {
            let began = Instant::now();
            let longest = self.clockwork.duration(at - now);
            self.input.wait(longest.min(GLANCE));
            at = at.min(now + self.clockwork.ticks(began.elapsed()).max(1));
        }
        self.clockwork.sleep_until(at);
        self.deliver()?;
        Ok(true)
    }
}

/// What comes after a stop of vCPU `vcpu`: its next turn, or the TD's end.
#[allow(clippy::result_large_err, reason = "it is the last value of a life")]
pub fn next(stop: Stop, vcpu: u32, power: Option<Power>) -> Result<State, End> {
    match stop {
        Stop::Interrupted { .. } => Ok(State::Ready),
        Stop::Halted { blocked } => Ok(State::Halted { blocked }),
        Stop::Devices => match power {
            Some(Power::Off) => Err(End::PoweredOff),
            Some(Power::Reset) => Err(End::Reset),
            None => Ok(State::Ready),
        },
        Stop::FatalError(report) => Err(End::FatalError(report)),
        Stop::TripleFault => Err(End::TripleFault { vcpu }),
        Stop::MemoryFault(fault) => Err(End::MemoryFault { vcpu, fault }),
        Stop::Dead { words, .. } => Err(End::Dead {
            vcpu,
            rax: words.rax.raw(),
        }),
        Stop::Debug {
            reason,
            qualification,
            interruption,
        } => Err(End::Debug {
            vcpu,
            reason,
            qualification,
            interruption,
        }),
        Stop::Unexpected { words } => Err(End::Unexpected {
            vcpu,
            reason: ExitReason(words.exit_reason() as u16),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_the_guest_is_reached_at_its_host_tick_and_not_before() {
        let multipliers = [1 << 48, (1 << 48) / 3, 5 << 47];
        for multiplier in multipliers {
            for offset in [0, 12_345, 12_345_u64.wrapping_neg()] {
                let tsc = GuestTsc { offset, multiplier };
                for guest in [20_000, 1_000_000_007] {
                    let host = tsc.to_host(guest);
                    assert!(tsc.of_host(host) >= guest);
                    assert!(tsc.of_host(host - 1) < guest);
                }
            }
        }
    }
}
