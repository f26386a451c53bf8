//! `--realtime`: each vCPU on a thread and a processor of its own, the host's clock as the TSC, timers by real time.
//!
//! A vCPU's thread owns the vCPU and its processor. Everything else is shared: the devices behind a mutex, which no
//! thread holds while it waits for another lock but the TD's memory, and the posted-interrupt descriptors, which are
//! written in atomic steps. Whoever finds interrupts queued at the devices posts them all; a vCPU that runs is
//! notified through its processor, one that sleeps by its seat.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tdx_call::{HostMemory, SeamcallLp};
use tdx_devices::{Board, Interrupt};
use tdx_host::tdvmcall::{MapGpa, MsrFault};
use tdx_host::{GuestMemory, Host, HostError, Lp, Run, RunStats, Services, Td, Vcpu, post};
use x86_arch::{Gpa, Hpa};

use super::input::Input;
use super::schedule::{Clockwork, End, GuestTsc, State, next};
use super::status::{Now, Status};

/// How often the main thread looks at the user's wishes.
const GLANCE: Duration = Duration::from_millis(10);
/// The longest sleep of a vCPU that no timer will wake.
const LONGEST: Duration = Duration::from_secs(1);
/// For how many glances nothing may be left to wake any vCPU before the run counts as hung.
const PATIENCE: u32 = 20;

/// What the user wants, and is told.
pub struct User<'a> {
    pub until: Option<Instant>,
    /// Whether the guest has said its last word.
    pub over: &'a dyn Fn() -> bool,
    pub input: &'a mut Input,
    pub status: &'a mut Status,
}

/// What the threads share.
struct Hall<'a, M, C> {
    host: &'a Host<M>,
    td: &'a Td,
    board: Mutex<&'a mut Board>,
    clockwork: &'a C,
    tsc: GuestTsc,
    seats: Vec<Seat>,
    /// The first end that any thread came to.
    end: Mutex<Option<Result<End, HostError>>>,
    ended: Condvar,
    /// Every thread is to leave.
    leave: AtomicBool,
    entries: AtomicU64,
}

/// Where others reach a vCPU.
struct Seat {
    descriptor: Hpa,
    lp: usize,
    /// An NMI that its own thread is to inject.
    nmi: AtomicBool,
    /// It sleeps, and no timer of its own will wake it.
    forlorn: AtomicBool,
    /// Something was posted since it last looked.
    called: Mutex<bool>,
    call: Condvar,
}

/// Runs the vCPUs, each on the processor of its index, until the TD's life ends.
#[allow(
    clippy::too_many_arguments,
    reason = "the parts of a TD, taken apart by its threads"
)]
pub fn run<M: HostMemory + Sync, L: SeamcallLp + Send, C: Clockwork + Sync>(
    host: &Host<M>,
    td: &Td,
    lps: &mut [Lp<L>],
    vcpus: &mut [Vcpu],
    board: &mut Board,
    clockwork: &C,
    tsc: GuestTsc,
    mut user: User<'_>,
) -> Result<(End, RunStats), HostError> {
    let seat = |(lp, vcpu): (usize, &Vcpu)| Seat {
        descriptor: vcpu.descriptor(),
        lp,
        nmi: AtomicBool::new(false),
        forlorn: AtomicBool::new(false),
        called: Mutex::new(false),
        call: Condvar::new(),
    };
    let hall = Hall {
        host,
        td,
        board: Mutex::new(board),
        clockwork,
        tsc,
        seats: vcpus.iter().enumerate().map(seat).collect(),
        end: Mutex::new(None),
        ended: Condvar::new(),
        leave: AtomicBool::new(false),
        entries: AtomicU64::new(0),
    };
    let hall = &hall;
    thread::scope(|scope| {
        let threads = lps.iter_mut().zip(vcpus).enumerate();
        let threads: Vec<_> = threads
            .map(|(index, (lp, vcpu))| {
                scope.spawn(move || {
                    let _guard = Guard(hall);
                    let mut stats = RunStats::default();
                    let end = hall.live(index, &mut lp.seam, vcpu, &mut stats);
                    if let Some(end) = end.transpose() {
                        hall.end_with(end);
                    }
                    stats
                })
            })
            .collect();
        let end = hall.attend(&mut user);
        hall.leave.store(true, SeqCst);
        for seat in &hall.seats {
            clockwork.kick(seat.lp);
            seat.wake();
        }
        let mut stats = RunStats::default();
        for thread in threads {
            match thread.join() {
                Ok(counted) => stats.add(&counted),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        end.map(|end| (end, stats))
    })
}

impl<'a, M: HostMemory, C: Clockwork> Hall<'a, M, C> {
    /// The life of a vCPU on its thread; its end, unless another thread came to one.
    fn live<L: SeamcallLp>(
        &self,
        index: usize,
        lp: &mut L,
        vcpu: &mut Vcpu,
        stats: &mut RunStats,
    ) -> Result<Option<End>, HostError> {
        let seat = &self.seats[index];
        while !self.leave.load(SeqCst) {
            if seat.nmi.swap(false, SeqCst) {
                vcpu.inject_nmi(lp)?;
            }
            self.deliver()?;
            self.arm(index, self.board().deadline_of(index as u32));
            let before = stats.entries;
            let stop = Run {
                host: self.host,
                td: self.td,
                lp,
                on: seat.lp,
                services: &mut Desk { hall: self, index },
                stats,
            }
            .run(vcpu)?;
            self.entries.fetch_add(stats.entries - before, Relaxed);
            let power = self.board().power();
            match next(stop, vcpu.index(), power) {
                Ok(State::Ready) => {}
                Ok(State::Halted { blocked }) => self.sleep(index, lp, vcpu, blocked)?,
                Err(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    /// HLT: until an interrupt waits for the vCPU, or only an NMI if it has interrupts `blocked`.
    fn sleep<L: SeamcallLp>(
        &self,
        index: usize,
        lp: &mut L,
        vcpu: &Vcpu,
        blocked: bool,
    ) -> Result<(), HostError> {
        let seat = &self.seats[index];
        loop {
            self.deliver()?;
            let wakes = seat.nmi.load(SeqCst)
                || !blocked && vcpu.interrupt_waits(self.host, lp)?
                || self.leave.load(SeqCst);
            if wakes {
                break;
            }
            let deadline = self.board().deadline_of(index as u32);
            let timer = deadline.map(|at| {
                let left = self.tsc.to_host(at).saturating_sub(self.clockwork.seen());
                self.clockwork.duration(left)
            });
            seat.forlorn.store(blocked || timer.is_none(), SeqCst);
            let called = seat.lock();
            let longest = timer.map_or(LONGEST, |left| left.min(LONGEST));
            let waited = seat
                .call
                .wait_timeout_while(called, longest, |called| !*called);
            let (mut called, _) = waited.unwrap_or_else(PoisonError::into_inner);
            *called = false;
        }
        seat.forlorn.store(false, SeqCst);
        Ok(())
    }

    /// Lets devices serve the guest's requests and due timers fire, and posts what the devices want delivered.
    fn deliver(&self) -> Result<(), HostError> {
        let queued: Vec<Interrupt> = {
            let mut board = self.board();
            board.serve_dma(&GuestMemory {
                host: self.host,
                td: self.td,
            });
            board.run_timers();
            std::iter::from_fn(|| board.next_interrupt()).collect()
        };
        for interrupt in queued {
            let (vcpu, vector) = match interrupt {
                Interrupt::Vector { vcpu, vector } => (vcpu, Some(vector)),
                Interrupt::Nmi { vcpu } => (vcpu, None),
            };
            let Some(seat) = self.seats.get(vcpu as usize) else {
                continue;
            };
            match vector {
                Some(vector) => {
                    post(self.host, seat.descriptor, vector)?;
                    self.clockwork.notify(seat.lp);
                }
                None => {
                    seat.nmi.store(true, SeqCst);
                    self.clockwork.kick(seat.lp);
                }
            }
            seat.wake();
        }
        Ok(())
    }

    /// Makes a vCPU's processor leave the guest when the vCPU's own timer is due.
    fn arm(&self, index: usize, deadline: Option<u64>) {
        let at = deadline.map_or(u64::MAX, |at| self.tsc.to_host(at));
        self.clockwork.arm(self.seats[index].lp, at);
    }

    /// The main thread: what the user types and wants, until an end has come.
    fn attend(&self, user: &mut User<'_>) -> Result<End, HostError> {
        let mut quiet = 0;
        loop {
            let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self
                .ended
                .wait_timeout_while(end, GLANCE, |end| end.is_none());
            let (mut end, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(end) = end.take() {
                return end;
            }
            drop(end);
            if (user.over)() {
                return Ok(End::Panicked);
            }
            if user.until.is_some_and(|until| Instant::now() >= until) {
                return Ok(End::Timeout);
            }
            if user.input.quit() {
                return Ok(End::Quit);
            }
            let listens = {
                let mut board = self.board();
                let typed = user.input.take(|| board.listens());
                if !typed.is_empty() {
                    board.type_bytes(&typed);
                }
                board.listens()
            };
            self.deliver()?;
            if user.input.is_terminal() && listens {
                user.status.end();
            }
            user.status.tick(|| Now {
                vcpu: self.awake(),
                exits: self.entries.load(Relaxed),
                guest_time: self.clockwork.duration(self.clockwork.seen()),
            });
            let hung = self.seats.iter().all(|seat| seat.forlorn.load(SeqCst));
            let hopeless = hung && !(listens && user.input.wait(Duration::ZERO));
            quiet = if hopeless { quiet + 1 } else { 0 };
            if quiet == PATIENCE {
                return Ok(End::Hang);
            }
        }
    }

    /// A vCPU that does not sleep for good, for the user to see.
    fn awake(&self) -> usize {
        let awake = |seat: &Seat| !seat.forlorn.load(Relaxed);
        self.seats.iter().position(awake).unwrap_or(0)
    }

    fn end_with(&self, end: Result<End, HostError>) {
        let mut first = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(end);
        self.ended.notify_all();
    }

    fn board(&self) -> MutexGuard<'_, &'a mut Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the run when a thread panics; its panic is raised again when it is joined.
struct Guard<'h, 'a, M: HostMemory, C: Clockwork>(&'h Hall<'a, M, C>);

impl<M: HostMemory, C: Clockwork> Drop for Guard<'_, '_, M, C> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end_with(Ok(End::Killed));
        }
    }
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wake(&self) {
        *self.lock() = true;
        self.call.notify_all();
    }
}

/// The devices as one vCPU's run loop asks them.
struct Desk<'h, 'a, M, C> {
    hall: &'h Hall<'a, M, C>,
    index: usize,
}

impl<M: HostMemory, C: Clockwork> Services for Desk<'_, '_, M, C> {
    fn cpuid(&mut self, vcpu: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.hall.board().cpuid(vcpu, leaf, subleaf)
    }
    fn io_read(&mut self, vcpu: u32, port: u16, size: u8) -> u32 {
        self.hall.board().io_read(vcpu, port, size)
    }
    fn io_write(&mut self, vcpu: u32, port: u16, size: u8, value: u32) {
        self.hall.board().io_write(vcpu, port, size, value);
    }
    fn read_msr(&mut self, vcpu: u32, msr: u32) -> Result<u64, MsrFault> {
        self.hall.board().read_msr(vcpu, msr)
    }
    fn write_msr(&mut self, vcpu: u32, msr: u32, value: u64) -> Result<(), MsrFault> {
        let mut board = self.hall.board();
        let done = board.write_msr(vcpu, msr, value);
        // The write may have set the timer, and the guest goes on at once.
        self.hall.arm(self.index, board.deadline_of(vcpu));
        done
    }
    fn mmio_read(&mut self, vcpu: u32, gpa: Gpa, size: u8) -> u64 {
        self.hall.board().mmio_read(vcpu, gpa, size)
    }
    fn mmio_write(&mut self, vcpu: u32, gpa: Gpa, size: u8, value: u64) {
        self.hall.board().mmio_write(vcpu, gpa, size, value);
    }
    fn map_gpa(&mut self, vcpu: u32, piece: MapGpa) -> Result<(), u64> {
        self.hall.board().map_gpa(vcpu, piece)
    }
    fn event_pending(&mut self, vcpu: u32) -> bool {
        self.hall.board().event_pending(vcpu)
    }
    fn wants_owner(&mut self) -> bool {
        self.hall.board().wants_owner()
    }
    fn get_quote(&mut self, vcpu: u32, buffer: &mut [u8]) -> Result<(), u64> {
        self.hall.board().get_quote(vcpu, buffer)
    }
    fn event_notify(&mut self, vcpu: u32, vector: u8) -> Result<(), u64> {
        self.hall.board().event_notify(vcpu, vector)
    }
    fn optional_calls(&mut self) -> [u64; 4] {
        self.hall.board().optional_calls()
    }
    fn hypercall(&mut self, vcpu: u32, nr: u64, args: [u64; 4]) -> u64 {
        self.hall.board().hypercall(vcpu, nr, args)
    }
    fn convert_on_fault(&mut self, vcpu: u32, gpa: Gpa, to_shared: bool) -> bool {
        self.hall.board().convert_on_fault(vcpu, gpa, to_shared)
    }
}
