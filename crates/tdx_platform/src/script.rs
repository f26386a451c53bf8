//! Scripted guests: a vCPU played by a Rust function.
//!
//! Each vCPU's script has a thread of its own, so that it is written as straight-line code; the thread runs only
//! while the module has entered the vCPU, and the entering processor waits for it. So nothing runs at once that
//! would not run at once on hardware, and a run is as deterministic as its host code.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use coco_regs::{GprFile, XmmFile};
use tdx_abi::{LeafWord, Status};
use tdx_call::{Direct, NoSeam, SoftwareTd, TdcallCpu, TdxModuleArgs, Traffic};
use tdx_module::LpId;
use x86_arch::vmx::{Registers, Seg, Vcpu};
use x86_arch::{Access, EptFault, ExitReason, Gpa, Gpr, KeyedHpa, SecondLevel, VmExit};

use crate::machine::PlatformMachine;

type Script = Arc<dyn Fn(&mut ScriptCpu) + Send + Sync>;

/// The scripts of a platform's vCPUs.
pub struct Scripts {
    script: Script,
    /// By the number that the vCPU carries; 0 is a vCPU that never ran.
    vcpus: Mutex<HashMap<u64, Line>>,
}

/// The line to one script's thread.
struct Line {
    to: Sender<Answer>,
    from: Receiver<Ask>,
}

/// What a script asks of the processor that runs it.
enum Ask {
    /// Memory at a guest-physical address, inside one page.
    Load {
        vpid: u16,
        gpa: Gpa,
        len: usize,
    },
    Store {
        vpid: u16,
        gpa: Gpa,
        bytes: Vec<u8>,
    },
    /// So many instructions of work were done: is an event pending that makes the vCPU exit?
    Work(u64),
    /// A VM exit. `over`: the script has ended.
    Exit {
        vcpu: Box<Vcpu>,
        over: bool,
    },
}

enum Answer {
    /// VM entry.
    Enter(Box<Vcpu>),
    Memory(Result<Vec<u8>, EptFault>),
    Events(Option<VmExit>),
}

/// An event that the module, or the processor itself, delivered instead of completing an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    pub vector: u8,
    pub error_code: Option<u32>,
}

impl Event {
    pub const UD: u8 = 6;
    pub const DF: u8 = 8;
    pub const GP: u8 = 13;
    /// Virtualization exception; TDG.VP.VEINFO.GET tells more.
    pub const VE: u8 = 20;
}

const EVENT_VALID: u32 = 1 << 31;
const EVENT_HAS_ERROR: u32 = 1 << 11;
const MACHINE_CHECK: u32 = EVENT_VALID | 0x300 | 18;

impl Scripts {
    pub(crate) fn new(script: Script) -> Scripts {
        Scripts {
            script,
            vcpus: Mutex::default(),
        }
    }

    pub(crate) fn run(
        &self,
        machine: &PlatformMachine,
        lp: LpId,
        vcpu: &mut Vcpu,
        second_level: &dyn SecondLevel,
    ) {
        if let Some(exit) = machine.event_exit(lp) {
            vcpu.exit = exit;
            return;
        }
        // The line is taken out while the vCPU runs: it runs on one processor at a time.
        let line = {
            let mut vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
            if vcpu.runner == 0 {
                vcpu.runner = vcpus.len() as u64 + 1;
                vcpus.insert(vcpu.runner, start(self.script.clone()));
            }
            let (_, taken) = channel();
            let (to, _) = channel();
            vcpus
                .get_mut(&vcpu.runner)
                .map(|line| std::mem::replace(line, Line { to, from: taken }))
        };
        let number = vcpu.runner;
        let Some(line) = line else {
            vcpu.exit = VmExit::new(ExitReason::TRIPLE_FAULT);
            return;
        };
        serve(&line, machine, lp, vcpu, second_level);
        let mut vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        vcpus.insert(number, line);
    }
}

/// Enters the vCPU and answers what its script asks until it exits.
fn serve(
    line: &Line,
    machine: &PlatformMachine,
    lp: LpId,
    vcpu: &mut Vcpu,
    second_level: &dyn SecondLevel,
) {
    let number = vcpu.runner;
    let mut answer = Answer::Enter(Box::new(std::mem::take(vcpu)));
    loop {
        // A script that is gone has nothing more to say: its vCPU stays in shutdown.
        let ask = line
            .to
            .send(answer)
            .ok()
            .and_then(|()| line.from.recv().ok());
        let Some(ask) = ask else {
            vcpu.runner = number;
            vcpu.exit = VmExit::new(ExitReason::TRIPLE_FAULT);
            return;
        };
        answer = match ask {
            Ask::Load { vpid, gpa, len } => {
                let mut bytes = vec![0; len];
                let at = translate(machine, lp, vpid, gpa, Access::Read, second_level);
                Answer::Memory(at.and_then(|at| {
                    let done = machine.load(at, &mut bytes);
                    done.map(|()| bytes)
                        .map_err(|e| EptFault::MachineCheck(e.0))
                }))
            }
            Ask::Store { vpid, gpa, bytes } => {
                let at = translate(machine, lp, vpid, gpa, Access::Write, second_level);
                Answer::Memory(at.and_then(|at| {
                    let done = machine.store(at, &bytes);
                    done.map(|()| Vec::new())
                        .map_err(|e| EptFault::MachineCheck(e.0))
                }))
            }
            Ask::Work(instructions) => {
                machine.hardware.advance(instructions);
                Answer::Events(machine.event_exit(lp))
            }
            Ask::Exit { vcpu: exited, over } => {
                *vcpu = *exited;
                if over {
                    vcpu.exit = VmExit::new(ExitReason::TRIPLE_FAULT);
                }
                return;
            }
        };
    }
}

fn translate(
    machine: &PlatformMachine,
    lp: LpId,
    vpid: u16,
    gpa: Gpa,
    access: Access,
    second_level: &dyn SecondLevel,
) -> Result<KeyedHpa, EptFault> {
    let mapping = machine.tlb(lp).translate(vpid, gpa, access, second_level)?;
    let hpa = mapping.page.hpa.checked_add(gpa.page_offset() as u64);
    Ok(KeyedHpa::new(
        hpa.unwrap_or(mapping.page.hpa),
        mapping.page.hkid,
    ))
}

/// Starts a script's thread, which waits for the first entry.
fn start(script: Script) -> Line {
    let (to, from_platform) = channel();
    let (to_platform, from) = channel();
    std::thread::spawn(move || {
        let Ok(Answer::Enter(vcpu)) = from_platform.recv() else {
            return;
        };
        let mut cpu = ScriptCpu {
            vcpu,
            to: to_platform,
            from: from_platform,
        };
        cpu.enter_long_mode();
        let _ = catch_unwind(AssertUnwindSafe(|| script(&mut cpu)));
        let vcpu = std::mem::take(&mut cpu.vcpu);
        let _ = cpu.to.send(Ask::Exit { vcpu, over: true });
    });
    Line { to, from }
}

/// A vCPU as its script uses it. The guest is in 64-bit mode from its first instruction on.
pub struct ScriptCpu {
    vcpu: Box<Vcpu>,
    to: Sender<Ask>,
    from: Receiver<Answer>,
}

/// The panic payload of a script whose platform was dropped; nobody sees it.
struct PlatformGone;

impl ScriptCpu {
    /// What the guest sees of its registers.
    pub fn regs(&mut self) -> &mut Registers {
        &mut self.vcpu.regs
    }
    pub fn gpr(&self, reg: Gpr) -> u64 {
        self.vcpu.regs.gpr[reg.index()]
    }
    pub fn set_gpr(&mut self, reg: Gpr, value: u64) {
        self.vcpu.regs.gpr[reg.index()] = value;
    }
    pub fn xmm(&mut self, index: usize) -> &mut u128 {
        &mut self.vcpu.regs.fpu.ymm[index][0]
    }
    /// Everything of the vCPU, its controls included.
    pub fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// A VM exit of any kind; comes back at the next entry, with the event that was delivered there.
    pub fn exit(&mut self, exit: VmExit) -> Result<(), Event> {
        self.vcpu.exit = exit;
        let vcpu = std::mem::take(&mut self.vcpu);
        self.ask(Ask::Exit { vcpu, over: false });
        match self.from.recv() {
            Ok(Answer::Enter(vcpu)) => self.vcpu = vcpu,
            _ => gone(),
        }
        let event = self.vcpu.entry_event;
        self.vcpu.entry_event.info &= !EVENT_VALID;
        if event.info & EVENT_VALID == 0 {
            return Ok(());
        }
        let error_code = (event.info & EVENT_HAS_ERROR != 0).then_some(event.error_code);
        Err(Event {
            vector: event.info as u8,
            error_code,
        })
    }

    /// An instruction that exits, for instance HLT: reason, qualification and length. After an event the guest
    /// goes on behind the instruction, as its handler would.
    pub fn instruction(
        &mut self,
        reason: ExitReason,
        qualification: u64,
        length: u32,
    ) -> Result<(), Event> {
        let at = self.vcpu.regs.rip;
        let exit = VmExit {
            qualification,
            instruction_length: length,
            ..VmExit::new(reason)
        };
        let done = self.exit(exit);
        if done.is_err() {
            self.vcpu.regs.rip = at.wrapping_add(length.into());
        }
        done
    }

    /// TDCALL with the registers as they are.
    pub fn tdcall_instruction(&mut self) -> Result<(), Event> {
        loop {
            let at = self.vcpu.regs.rip;
            let exit = VmExit {
                instruction_length: 4,
                ..VmExit::new(ExitReason::TDCALL)
            };
            let done = self.exit(exit);
            // An unmoved RIP without event executes the instruction again.
            if done.is_err() || self.vcpu.regs.rip != at {
                return done;
            }
        }
    }

    /// CPUID: EAX, EBX, ECX, EDX.
    pub fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Event> {
        self.set_gpr(Gpr::Rax, leaf.into());
        self.set_gpr(Gpr::Rcx, subleaf.into());
        self.instruction(ExitReason::CPUID_INSTRUCTION, 0, 2)?;
        Ok([Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].map(|reg| self.gpr(reg) as u32))
    }

    /// RDMSR; `Ok(None)` when the access does not exit and so is the processor's own.
    pub fn rdmsr(&mut self, msr: u32) -> Result<Option<u64>, Event> {
        if !self.vcpu.msr_bitmap.exits(msr, false) {
            return Ok(None);
        }
        self.set_gpr(Gpr::Rcx, msr.into());
        self.instruction(ExitReason::MSR_READ, 0, 2)?;
        Ok(Some(
            self.gpr(Gpr::Rdx) << 32 | self.gpr(Gpr::Rax) & 0xFFFF_FFFF,
        ))
    }

    /// WRMSR; without effect when the access does not exit.
    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Result<(), Event> {
        if !self.vcpu.msr_bitmap.exits(msr, true) {
            return Ok(());
        }
        self.set_gpr(Gpr::Rcx, msr.into());
        self.set_gpr(Gpr::Rax, value & 0xFFFF_FFFF);
        self.set_gpr(Gpr::Rdx, value >> 32);
        self.instruction(ExitReason::MSR_WRITE, 0, 2)
    }

    pub fn hlt(&mut self) -> Result<(), Event> {
        self.instruction(ExitReason::HLT_INSTRUCTION, 0, 1)
    }

    /// Reads guest memory; an EPT violation exits and the access is made again.
    pub fn load(&mut self, gpa: Gpa, to: &mut [u8]) -> Result<(), Event> {
        for (gpa, range) in by_page(gpa, to.len()) {
            let len = range.len();
            let vpid = self.vcpu.controls.vpid;
            let bytes = self.access(gpa, Access::Read, || Ask::Load { vpid, gpa, len })?;
            to[range].copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// Writes guest memory.
    pub fn store(&mut self, gpa: Gpa, from: &[u8]) -> Result<(), Event> {
        for (gpa, range) in by_page(gpa, from.len()) {
            let bytes = &from[range];
            let vpid = self.vcpu.controls.vpid;
            self.access(gpa, Access::Write, || Ask::Store {
                vpid,
                gpa,
                bytes: bytes.to_vec(),
            })?;
        }
        Ok(())
    }

    /// Spends `instructions` of time and takes an event that waits for the processor.
    pub fn work(&mut self, instructions: u64) -> Result<(), Event> {
        self.ask(Ask::Work(instructions));
        match self.from.recv() {
            Ok(Answer::Events(None)) => Ok(()),
            Ok(Answer::Events(Some(exit))) => self.exit(exit),
            _ => gone(),
        }
    }

    /// EFER.LMA, CR0.PG, CR4.PAE, a 64-bit code segment.
    fn enter_long_mode(&mut self) {
        let regs = &mut self.vcpu.regs;
        regs.msr.efer |= 0x500;
        regs.cr0 |= 0x8000_0001;
        regs.cr4 |= 0x20;
        regs.segments[Seg::Cs as usize].access = 0xA09B;
        regs.segments[Seg::Ss as usize].access = 0xC093;
        self.vcpu.controls.entry |= 1 << 9;
    }

    fn ask(&mut self, ask: Ask) {
        if self.to.send(ask).is_err() {
            gone();
        }
    }

    fn access(
        &mut self,
        gpa: Gpa,
        access: Access,
        ask: impl Fn() -> Ask,
    ) -> Result<Vec<u8>, Event> {
        loop {
            self.ask(ask());
            match self.from.recv() {
                Ok(Answer::Memory(Ok(bytes))) => return Ok(bytes),
                Ok(Answer::Memory(Err(fault))) => self.fault(gpa, access, fault)?,
                _ => gone(),
            }
        }
    }

    /// What the processor does with a failed second-level translation.
    fn fault(&mut self, gpa: Gpa, access: Access, fault: EptFault) -> Result<(), Event> {
        let linear = VmExit {
            guest_linear_address: gpa.raw(),
            guest_physical_address: gpa.raw(),
            ..VmExit::default()
        };
        match fault {
            EptFault::Violation {
                allowed,
                suppress_ve,
            } => {
                let allowed = u64::from(allowed.read)
                    | u64::from(allowed.write) << 1
                    | u64::from(allowed.execute) << 2;
                // Bits 7 and 8: the linear address is valid, and the access is the final one.
                let qualification = access as u64 | allowed << 3 | 0x180;
                let reason = u32::from(ExitReason::EPT_VIOLATION.0);
                let ve = &mut self.vcpu.ve_info;
                if !suppress_ve && ve.valid == 0 {
                    ve.exit_reason = reason;
                    ve.exit_qualification = qualification;
                    ve.guest_linear_address = gpa.raw();
                    ve.guest_physical_address = gpa.raw();
                    ve.valid = u32::MAX;
                    return Err(Event {
                        vector: Event::VE,
                        error_code: None,
                    });
                }
                self.exit(VmExit {
                    reason,
                    qualification,
                    ..linear
                })
            }
            EptFault::Misconfiguration => self.exit(VmExit {
                reason: ExitReason::EPT_MISCONFIGURATION.0.into(),
                ..linear
            }),
            EptFault::MachineCheck(_) => {
                let exit = VmExit::new(ExitReason::EXCEPTION_OR_NMI);
                self.exit(VmExit {
                    interruption_info: MACHINE_CHECK,
                    ..exit
                })
            }
        }
    }
}

/// The parts of an access page by page.
fn by_page(gpa: Gpa, len: usize) -> impl Iterator<Item = (Gpa, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = gpa.checked_add(done as u64).filter(|_| done < len)?;
        let size = (4096 - at.page_offset()).min(len - done);
        done += size;
        Some((at, done - size..done))
    })
}

/// Ends a script's thread quietly.
fn gone() -> ! {
    std::panic::resume_unwind(Box::new(PlatformGone))
}

impl SoftwareTd for &mut ScriptCpu {
    fn tdcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam> {
        let rsp = self.gpr(Gpr::Rsp);
        self.vcpu.regs.gpr = gprs.0;
        self.set_gpr(Gpr::Rsp, rsp);
        for (ymm, value) in self.vcpu.regs.fpu.ymm.iter_mut().zip(xmms.0) {
            ymm[0] = value;
        }
        match self.tdcall_instruction() {
            Ok(()) => {}
            Err(Event {
                vector: Event::GP, ..
            }) => return Err(NoSeam::GeneralProtection),
            Err(_) => return Err(NoSeam::InvalidOpcode),
        }
        gprs.0 = self.vcpu.regs.gpr;
        xmms.0 = self.vcpu.regs.fpu.ymm.map(|ymm| ymm[0]);
        Ok(())
    }
}

/// The registers that the call does not carry are 0 in the guest; [`ScriptCpu::tdcall_instruction`] keeps them.
impl TdcallCpu for ScriptCpu {
    fn tdcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        Direct(self).tdcall(leaf, args, traffic)
    }
}
