//! TDCALL for the program: a small TD on a machine of its own, whose guest makes the program's calls.
//!
//! The guest is a script: for each TDCALL of the program it takes the registers, brings the bytes at the call's memory
//! operands into the TD's private memory at the same addresses, executes TDCALL, and hands registers and bytes back.
//! So it is the module that answers, whatever the call.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coco_regs::{GprFile, XmmFile};
use tdx_abi::{GuestLeaf, LeafWord, Status};
use tdx_call::guest::{tdg_mem_page_accept, tdg_vp_vmcall};
use tdx_call::{CallError, Direct, GpaMapping, TdxModuleArgs};
use tdx_devices::{Board, BoardConfig};
use tdx_host::{GuestMemory, Host, HostError, Lp, Run, RunStats, Stop, Td, TdConfig, Vcpu};
use tdx_platform::{
    Event, Guests, Platform, PlatformConfig, PlatformLp, PlatformMemory, ScriptCpu,
};
use x86_arch::{ExitReason, Gpa, Gpr, PAGE_SIZE, VmExit};

use super::host::Registers;
use super::ptrace::Tracee;
use crate::bring_up::bring_up;

/// User-space addresses of x86-64 Linux end here, where a TD's shared half begins with 48-bit guest addresses.
pub const PRIVATE_END: u64 = 1 << 47;
/// RAM of the machine under the TD; sparse.
const RAM: u64 = 1 << 30;
/// The longest GetQuote buffer that is carried over; the services refuse longer ones.
const MAX_QUOTE: u64 = 1 << 20;
/// Pages of which it is known that MapGPA converted them and nobody has accepted them since.
const MAX_CONVERTED: usize = 1 << 20;
/// R10 to R15, for the script's own HLT.
const R10_TO_R15: u16 = 0xFC00;
const HLT: u64 = 12;
const GET_QUOTE: u64 = 0x10002;
const MAP_GPA: u64 = 0x10001;

/// What came of a TDCALL.
#[derive(Debug)]
pub enum Outcome {
    Done(Box<Registers>),
    /// The instruction raised an exception in the guest.
    Fault(Event),
    /// An operand lies where the program has no memory, or has not accepted it.
    NoMemory,
    /// The guest switched its machine off.
    PowerOff,
    /// ReportFatalError: the guest's last words.
    Fatal(String),
}

/// Memory of the program at an operand of the call.
#[derive(Clone, Debug)]
struct Operand {
    at: u64,
    bytes: Vec<u8>,
    written: bool,
    shared: bool,
}

/// What the script of a vCPU is asked to do, and what it answered.
#[derive(Default)]
struct Desk {
    job: Option<(Registers, Vec<Operand>)>,
    answer: Option<(Result<Registers, Event>, Vec<Operand>)>,
    /// The call cannot come to an end.
    given_up: bool,
}

type Desks = Arc<Vec<Mutex<Desk>>>;

pub struct GuestTd {
    host: Host<PlatformMemory>,
    td: Td,
    lps: Vec<Lp<Direct<PlatformLp>>>,
    vcpus: Vec<Vcpu>,
    board: Board,
    stats: RunStats,
    desks: Desks,
    /// Pages that MapGPA converted and that the guest has not accepted since: they are no longer there by themselves.
    converted: BTreeSet<u64>,
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestTd {
    /// Brings a module up and builds the TD: no memory of its own, `vcpus` virtual processors.
    pub fn new(vcpus: u16, seed: u64) -> Result<GuestTd, HostError> {
        let mut config = PlatformConfig::new(1, vcpus.into(), RAM);
        config.machine.seed = seed;
        let desks: Desks = Arc::new((0..vcpus).map(|_| Mutex::default()).collect());
        let of_script = Arc::clone(&desks);
        let guests = Guests::scripted(move |cpu| script(cpu, &of_script));
        let platform = Platform::new(config, guests);
        let mut lps: Vec<_> = platform
            .lps()
            .into_iter()
            .map(|seam| Lp { seam, package: 0 })
            .collect();
        let host = bring_up(&platform, &mut lps)?;
        let config = TdConfig {
            max_vcpus: vcpus,
            // Guests may pass RBP in their TDVMCALLs, as several libraries do.
            no_rbp_mod: false,
            ..TdConfig::default()
        };
        let tsc_khz = config.tsc_khz.into();
        let td = Td::create(&host, &mut lps, config, || {})?;
        td.add_ram(0..PRIVATE_END)?;
        let vcpus = (0..usize::from(vcpus))
            .map(|on| td.add_vcpu(&host, &mut lps, on, 0))
            .collect::<Result<Vec<_>, _>>()?;
        td.finalize(&mut lps[0].seam)?;
        let hardware = Arc::clone(platform.hardware());
        let board = Board::new(BoardConfig {
            vcpus: vcpus.len() as u32,
            memory: PRIVATE_END,
            tsc_khz,
            clock: Arc::new(move || hardware.tsc()),
            console: Box::new(io::stderr()),
            devices: Vec::new(),
            firmware: None,
        });
        Ok(GuestTd {
            host,
            td,
            lps,
            vcpus,
            board,
            stats: RunStats::default(),
            desks,
            converted: BTreeSet::new(),
        })
    }

    /// Makes the TDCALL of `thread` on vCPU `index`.
    pub fn call(
        &mut self,
        index: usize,
        thread: Tracee,
        registers: Registers,
    ) -> Result<Outcome, HostError> {
        let before = registers.gprs;
        let operands = self.operands(thread, &before);
        self.share(&operands)?;
        lock(&self.desks[index]).job = Some((registers, operands));
        let (result, operands) = match self.run(index)? {
            Ok(answer) => answer,
            Err(outcome) => return Ok(outcome),
        };
        let registers = match result {
            Ok(registers) => registers,
            Err(event) => return Ok(Outcome::Fault(event)),
        };
        let memory = GuestMemory {
            host: &self.host,
            td: &self.td,
        };
        for mut operand in operands.into_iter().filter(|operand| operand.written) {
            if operand.shared {
                memory.read(Gpa::new(operand.at), &mut operand.bytes)?;
            }
            if !thread.write(operand.at, &operand.bytes) {
                return Ok(Outcome::NoMemory);
            }
        }
        self.follow(thread, &before, &registers.gprs);
        Ok(Outcome::Done(Box::new(registers)))
    }

    /// Runs the vCPU until its script has answered.
    #[expect(clippy::type_complexity, reason = "an answer, or what came instead")]
    fn run(
        &mut self,
        index: usize,
    ) -> Result<Result<(Result<Registers, Event>, Vec<Operand>), Outcome>, HostError> {
        loop {
            let stop = Run {
                host: &self.host,
                td: &self.td,
                lp: &mut self.lps[index].seam,
                on: index,
                services: &mut self.board,
                stats: &mut self.stats,
            }
            .run(&mut self.vcpus[index])?;
            let mut desk = lock(&self.desks[index]);
            if let Some(answer) = desk.answer.take() {
                return Ok(match std::mem::take(&mut desk.given_up) {
                    true => Err(Outcome::NoMemory),
                    false => Ok(answer),
                });
            }
            match stop {
                // The program's own HLT ends at once: nothing interrupts this TD.
                Stop::Halted { .. } | Stop::Interrupted { .. } => {}
                Stop::Devices if self.board.power().is_some() => {
                    return Ok(Err(Outcome::PowerOff));
                }
                Stop::Devices => while self.board.next_interrupt().is_some() {},
                Stop::MemoryFault(_) => desk.given_up = true,
                Stop::FatalError(report) => return Ok(Err(Outcome::Fatal(report.to_string()))),
                stop => return Ok(Err(Outcome::Fatal(format!("the TD is dead: {stop:?}")))),
            }
        }
    }

    /// The memory that the call will touch, as far as the program has it.
    fn operands(&self, thread: Tracee, gprs: &GprFile) -> Vec<Operand> {
        let [rcx, rdx] = [Gpr::Rcx, Gpr::Rdx].map(|reg| gprs[reg]);
        let places: &[(u64, u64, bool)] = match GuestLeaf(LeafWord(gprs[Gpr::Rax]).number()) {
            GuestLeaf::MR_RTMR_EXTEND => &[(rcx, 48, false)],
            GuestLeaf::MR_REPORT => &[(rdx, 64, false), (rcx, 1024, true)],
            GuestLeaf::MR_VERIFYREPORT => &[(rcx, 256, false)],
            GuestLeaf::SYS_RDALL => &[(rdx, PAGE_SIZE, true)],
            GuestLeaf::MEM_PAGE_ACCEPT => &[(rcx & !(PAGE_SIZE - 1), PAGE_SIZE, false)],
            GuestLeaf::MEM_PAGE_ATTR_RD | GuestLeaf::MEM_PAGE_ATTR_WR => {
                &[(rcx & !(PAGE_SIZE - 1), PAGE_SIZE, false)]
            }
            GuestLeaf::VP_VMCALL if gprs[Gpr::R10] == 0 && gprs[Gpr::R11] == GET_QUOTE => {
                &[(gprs[Gpr::R12], gprs[Gpr::R13].min(MAX_QUOTE), true)]
            }
            _ => &[],
        };
        let operand = |&(gpa, len, written): &(u64, u64, bool)| {
            let at = gpa & !PRIVATE_END;
            let inside_a_page = at % PAGE_SIZE + len.min(PAGE_SIZE) <= PAGE_SIZE;
            let end = at.checked_add(len)?;
            if len == 0 || end > PRIVATE_END || !inside_a_page {
                return None;
            }
            let shared = gpa & PRIVATE_END != 0;
            let mut pages = (at & !(PAGE_SIZE - 1)..end).step_by(PAGE_SIZE as usize);
            let there = pages.all(|page| match shared {
                true => self.td.is_shared(Gpa::new(page)),
                false => !self.td.is_shared(Gpa::new(page)) && !self.converted.contains(&page),
            });
            let mut bytes = vec![0; len as usize];
            (there && thread.read(at, &mut bytes)).then_some(Operand {
                at,
                bytes,
                written,
                shared,
            })
        };
        places.iter().filter_map(operand).collect()
    }

    /// Shared operands go where the host sees them.
    fn share(&self, operands: &[Operand]) -> Result<(), HostError> {
        let memory = GuestMemory {
            host: &self.host,
            td: &self.td,
        };
        for operand in operands.iter().filter(|operand| operand.shared) {
            memory.write(Gpa::new(operand.at), &operand.bytes)?;
        }
        Ok(())
    }

    /// Keeps up with what the call did to the guest's memory.
    fn follow(&mut self, thread: Tracee, before: &GprFile, after: &GprFile) {
        let status = Status(after[Gpr::Rax]);
        match GuestLeaf(LeafWord(before[Gpr::Rax]).number()) {
            GuestLeaf::MEM_PAGE_ACCEPT if status.code() == Status::SUCCESS => {
                let rcx = before[Gpr::Rcx];
                let size = PAGE_SIZE << (9 * (rcx & 7).min(2));
                let start = rcx & !(PAGE_SIZE - 1) & (PRIVATE_END - 1);
                for page in pages(start, size) {
                    self.converted.remove(&page);
                    // An accepted page is zero. Where the program has no memory there is nothing to clear.
                    let _ = thread.write(page, &[0; PAGE_SIZE as usize]);
                }
            }
            GuestLeaf::VP_VMCALL if before[Gpr::R10] == 0 && before[Gpr::R11] == MAP_GPA => {
                // What a refused or half-done request leaves converted, the TD itself knows.
                let start = before[Gpr::R12] & (PRIVATE_END - 1);
                let size = before[Gpr::R13].min(PRIVATE_END - start);
                let room = MAX_CONVERTED.saturating_sub(self.converted.len());
                if status.code() == Status::SUCCESS && after[Gpr::R10] == 0 {
                    self.converted.extend(pages(start, size).take(room));
                }
            }
            _ => {}
        }
    }
}

fn pages(start: u64, size: u64) -> std::iter::StepBy<Range<u64>> {
    (start..start + size).step_by(PAGE_SIZE as usize)
}

/// The guest: one job after the other.
fn script(cpu: &mut ScriptCpu, desks: &Desks) {
    let index = cpu.gpr(Gpr::Rsi) as usize;
    let Some(desk) = desks.get(index) else { return };
    loop {
        let job = lock(desk).job.take();
        if let Some((registers, mut operands)) = job {
            let result = perform(cpu, desk, registers, &mut operands);
            lock(desk).answer = Some((result, operands));
        }
        let mut args = TdxModuleArgs {
            r11: HLT,
            ..Default::default()
        };
        if tdg_vp_vmcall(cpu, R10_TO_R15, &mut args).is_err() {
            return;
        }
    }
}

fn perform(
    cpu: &mut ScriptCpu,
    desk: &Mutex<Desk>,
    registers: Registers,
    operands: &mut [Operand],
) -> Result<Registers, Event> {
    for operand in operands.iter().filter(|operand| !operand.shared) {
        bring(cpu, operand)?;
    }
    let rsp = cpu.gpr(Gpr::Rsp);
    cpu.regs().gpr = registers.gprs.0;
    cpu.set_gpr(Gpr::Rsp, rsp);
    for (n, value) in registers.xmms.0.into_iter().enumerate() {
        *cpu.xmm(n) = value;
    }
    let start = cpu.regs().rip;
    while cpu.regs().rip == start && !lock(desk).given_up {
        cpu.exit(VmExit {
            instruction_length: 4,
            ..VmExit::new(ExitReason::TDCALL)
        })?;
    }
    let mut gprs = GprFile(cpu.regs().gpr);
    gprs[Gpr::Rsp] = registers.gprs[Gpr::Rsp];
    let mut xmms = XmmFile::default();
    for (n, value) in xmms.0.iter_mut().enumerate() {
        *value = *cpu.xmm(n);
    }
    for operand in operands.iter_mut().filter(|o| o.written && !o.shared) {
        if !lock(desk).given_up {
            cpu.load(Gpa::new(operand.at), &mut operand.bytes)?;
        }
    }
    Ok(Registers { gprs, xmms })
}

/// Makes the program's bytes the content of the TD's private page.
fn bring(cpu: &mut ScriptCpu, operand: &Operand) -> Result<(), Event> {
    let page = Gpa::new(operand.at).page();
    match tdg_mem_page_accept(cpu, GpaMapping::page_4k(page)) {
        Ok(_) => cpu.store(Gpa::new(operand.at), &operand.bytes),
        // Part of a 2 MiB page that was accepted as a whole.
        Err(CallError::Refused(refused))
            if matches!(
                refused.status.code(),
                Status::PAGE_ALREADY_ACCEPTED | Status::PAGE_SIZE_MISMATCH
            ) =>
        {
            cpu.store(Gpa::new(operand.at), &operand.bytes)
        }
        // The call itself will say what is wrong with the address.
        Err(_) => Ok(()),
    }
}
