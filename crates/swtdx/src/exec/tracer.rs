//! The tracer: waits for what happens to the program's threads, serves their calls, and passes on everything else.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use coco_regs::{GprFile, XmmFile};
use libc::{SIGILL, SIGSEGV, SIGSTOP, SIGTRAP, user_regs_struct};
use tdx_call::NoSeam;
use tdx_platform::Event;
use x86_arch::Gpr;

use super::CANNOT_TRACE;
use super::guest_td::{GuestTd, Outcome};
use super::host::{HostSide, Registers, Served};
use super::ptrace::{self, State, Tracee};
use crate::cli::Failure;

const SEAMCALL: [u8; 4] = [0x66, 0x0F, 0x01, 0xCF];
const TDCALL: [u8; 4] = [0x66, 0x0F, 0x01, 0xCC];
/// `si_code` of a fault that the kernel reports without an address, as #GP.
const SI_KERNEL: i32 = 0x80;
/// CF, PF, AF, ZF, SF and OF: SEAMCALL clears them, and sets CF for VMfailInvalid.
const ARITHMETIC_FLAGS: u64 = 0x8D5;
const CARRY: u64 = 1;
/// CS of 64-bit code.
const CS_64: u64 = 0x33;
/// How long the tracer looks away from its threads while a SEAMCALL is in progress.
const GLANCE: Duration = Duration::from_micros(200);

/// The calls of one processor: it makes one at a time.
#[derive(Default)]
struct Processor {
    busy: bool,
    waiting: VecDeque<(Tracee, Registers)>,
}

pub struct Tracer {
    main: Tracee,
    host: HostSide,
    processors: Vec<Processor>,
    td: Option<GuestTd>,
    seed: u64,
    /// Threads that have had their first stop.
    threads: BTreeSet<i32>,
    /// The numbers of threads that made a call, by thread.
    numbers: HashMap<i32, usize>,
    calls: usize,
    /// How the program itself ended.
    end: Option<State>,
    /// Decided by us: the program is being killed.
    verdict: Option<Failure>,
}

impl Tracer {
    pub fn new(main: Tracee, host: HostSide, lps: u16, seed: u64) -> Tracer {
        Tracer {
            main,
            host,
            processors: (0..lps).map(|_| Processor::default()).collect(),
            td: None,
            seed,
            threads: BTreeSet::new(),
            numbers: HashMap::new(),
            calls: 0,
            end: None,
            verdict: None,
        }
    }

    /// Serves the program and everything it starts until all of it has ended.
    pub fn run(mut self) -> Result<ExitCode, Failure> {
        loop {
            let change = match ptrace::wait(self.calls == 0) {
                Ok(change) => change,
                Err(why) if why.raw_os_error() == Some(libc::ECHILD) => break,
                Err(why) => return Err(Failure::with_code(70, format_args!("waiting: {why}"))),
            };
            match change {
                Some((thread, state)) => self.changed(thread, state),
                None => match self.host.served().recv_timeout(GLANCE) {
                    Ok(served) => self.served(served),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Failure::with_code(70, "the simulated processors are gone"));
                    }
                },
            }
        }
        if let Some(verdict) = self.verdict {
            return Err(verdict);
        }
        Ok(ExitCode::from(match self.end {
            Some(State::Exited(code)) => code as u8,
            Some(State::Killed(signal)) => {
                eprintln!("swtdx: the program was killed by signal {signal}");
                128_u8.wrapping_add(signal as u8)
            }
            _ => 0,
        }))
    }

    fn changed(&mut self, thread: Tracee, state: State) {
        match state {
            State::Exited(_) | State::Killed(_) => {
                if thread == self.main {
                    self.end = Some(state);
                }
                self.gone(thread.0);
            }
            State::Stopped { signal, event } => {
                // A thread that vanishes meanwhile reports its end next.
                let _ = self.stopped(thread, signal, event);
            }
        }
    }

    fn gone(&mut self, thread: i32) {
        self.threads.remove(&thread);
        self.numbers.remove(&thread);
        for processor in &mut self.processors {
            processor.waiting.retain(|(waiting, _)| waiting.0 != thread);
        }
    }

    fn stopped(&mut self, thread: Tracee, signal: i32, event: i32) -> io::Result<()> {
        let first = self.threads.insert(thread.0);
        match (signal, event) {
            // The exec of the program itself, before which nothing could be followed.
            (SIGTRAP, 0) if first && thread == self.main => {
                if let Err(why) = thread.follow() {
                    let why = format_args!("tracing the program: {why}").to_string();
                    self.kill(Failure::with_code(CANNOT_TRACE, why));
                    return Ok(());
                }
                thread.resume(0)
            }
            // How a new thread or process begins.
            (SIGSTOP, _) if first => thread.resume(0),
            (_, libc::PTRACE_EVENT_EXEC) => {
                let before = thread.event_message()?;
                if before != thread.0 {
                    self.gone(before);
                }
                thread.resume(0)
            }
            (_, 1..) => thread.resume(0),
            (SIGILL, _) => self.fault(thread, signal),
            (SIGSEGV, _) if thread.signal_code() == Some(SI_KERNEL) => self.fault(thread, signal),
            // In a group stop there is no signal to deliver.
            _ if thread.signal_code().is_none() => thread.resume(0),
            _ => thread.resume(signal),
        }
    }

    /// A fault that may be one of the two instructions.
    fn fault(&mut self, thread: Tracee, signal: i32) -> io::Result<()> {
        let user = thread.registers()?;
        let code = thread.code(user.rip).filter(|_| user.cs == CS_64);
        let seamcall = match code {
            Some(SEAMCALL) => true,
            Some(TDCALL) => false,
            _ => return thread.resume(signal),
        };
        let registers = Registers {
            gprs: gprs(&user),
            xmms: xmms(thread)?,
        };
        let number = self.number(thread);
        if seamcall {
            let processor = &mut self.processors[number];
            if processor.busy {
                processor.waiting.push_back((thread, registers));
            } else {
                processor.busy = true;
                self.calls += 1;
                self.host.call(number, thread, registers);
            }
            return Ok(());
        }
        self.tdcall(thread, number, registers)
    }

    /// The processor of a thread: threads are numbered in the order of their first calls, lowest free number first.
    fn number(&mut self, thread: Tracee) -> usize {
        let taken: BTreeSet<usize> = self.numbers.values().copied().collect();
        let free = (0..).find(|n| !taken.contains(n)).unwrap_or(0);
        let number = *self.numbers.entry(thread.0).or_insert(free);
        number % self.processors.len()
    }

    fn served(&mut self, served: Served) {
        let Served { lp, thread, result } = served;
        self.calls -= 1;
        let processor = &mut self.processors[lp];
        processor.busy = false;
        if let Some((thread, registers)) = processor.waiting.pop_front() {
            processor.busy = true;
            self.calls += 1;
            self.host.call(lp, thread, registers);
        }
        // Again: a thread that vanished meanwhile reports its end next.
        let _ = match result {
            Ok(registers) => step_over(thread, Some(&registers), Some(false)),
            Err(NoSeam::VmFailInvalid) => step_over(thread, None, Some(true)),
            Err(NoSeam::GeneralProtection) => thread.resume(SIGSEGV),
            Err(NoSeam::InvalidOpcode) => thread.resume(SIGILL),
        };
    }

    fn tdcall(&mut self, thread: Tracee, number: usize, registers: Registers) -> io::Result<()> {
        let td = match &mut self.td {
            Some(td) => td,
            none => match GuestTd::new(self.processors.len() as u16, self.seed) {
                Ok(td) => none.insert(td),
                Err(why) => {
                    let why = format!("building the program's TD: {why}");
                    self.kill(Failure::with_code(6, why));
                    return Ok(());
                }
            },
        };
        match td.call(number, thread, registers) {
            Ok(Outcome::Done(registers)) => step_over(thread, Some(&registers), None),
            Ok(Outcome::Fault(Event {
                vector: Event::UD, ..
            })) => thread.resume(SIGILL),
            Ok(Outcome::Fault(_) | Outcome::NoMemory) => thread.resume(SIGSEGV),
            Ok(Outcome::PowerOff) => {
                self.end = Some(State::Exited(0));
                self.main.kill();
                Ok(())
            }
            Ok(Outcome::Fatal(why)) => {
                self.kill(Failure::with_code(3, why));
                Ok(())
            }
            Err(why) => {
                self.kill(Failure::with_code(6, format!("the program's TD: {why}")));
                Ok(())
            }
        }
    }

    fn kill(&mut self, verdict: Failure) {
        self.verdict.get_or_insert(verdict);
        self.main.kill();
    }
}

fn gprs(user: &user_regs_struct) -> GprFile {
    let mut file = GprFile::default();
    for (reg, value) in [
        (Gpr::Rax, user.rax),
        (Gpr::Rcx, user.rcx),
        (Gpr::Rdx, user.rdx),
        (Gpr::Rbx, user.rbx),
        (Gpr::Rsp, user.rsp),
        (Gpr::Rbp, user.rbp),
        (Gpr::Rsi, user.rsi),
        (Gpr::Rdi, user.rdi),
        (Gpr::R8, user.r8),
        (Gpr::R9, user.r9),
        (Gpr::R10, user.r10),
        (Gpr::R11, user.r11),
        (Gpr::R12, user.r12),
        (Gpr::R13, user.r13),
        (Gpr::R14, user.r14),
        (Gpr::R15, user.r15),
    ] {
        file[reg] = value;
    }
    file
}

fn xmms(thread: Tracee) -> io::Result<XmmFile> {
    let vectors = thread.vectors()?;
    let mut file = XmmFile::default();
    let (words, _) = vectors.xmm_space.as_chunks::<4>();
    for (xmm, words) in file.0.iter_mut().zip(words) {
        *xmm = words
            .iter()
            .rev()
            .fold(0, |high, &word| high << 32 | u128::from(word));
    }
    Ok(file)
}

/// Goes on after the instruction: with the call's registers, if it was made, and with the arithmetic flags clear and
/// CF as given, if the instruction changes them.
fn step_over(thread: Tracee, registers: Option<&Registers>, carry: Option<bool>) -> io::Result<()> {
    let mut user = thread.registers()?;
    if let Some(Registers { gprs, xmms: after }) = registers {
        for (place, reg) in [
            (&mut user.rax, Gpr::Rax),
            (&mut user.rcx, Gpr::Rcx),
            (&mut user.rdx, Gpr::Rdx),
            (&mut user.rbx, Gpr::Rbx),
            (&mut user.rbp, Gpr::Rbp),
            (&mut user.rsi, Gpr::Rsi),
            (&mut user.rdi, Gpr::Rdi),
            (&mut user.r8, Gpr::R8),
            (&mut user.r9, Gpr::R9),
            (&mut user.r10, Gpr::R10),
            (&mut user.r11, Gpr::R11),
            (&mut user.r12, Gpr::R12),
            (&mut user.r13, Gpr::R13),
            (&mut user.r14, Gpr::R14),
            (&mut user.r15, Gpr::R15),
        ] {
            *place = gprs[reg];
        }
        let mut vectors = thread.vectors()?;
        let (words, _) = vectors.xmm_space.as_chunks_mut::<4>();
        let mut changed = false;
        for (words, xmm) in words.iter_mut().zip(after.0) {
            for (n, word) in words.iter_mut().enumerate() {
                let now = (xmm >> (32 * n)) as u32;
                changed |= std::mem::replace(word, now) != now;
            }
        }
        if changed {
            thread.set_vectors(&vectors)?;
        }
    }
    user.rip += 4;
    if let Some(carry) = carry {
        user.eflags = user.eflags & !ARITHMETIC_FLAGS | if carry { CARRY } else { 0 };
    }
    thread.set_registers(&user)?;
    thread.resume(0)
}
