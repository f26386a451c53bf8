//! The TD as gdbstub's target: registers and memory of its vCPUs.

use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use tdx_host::HostError;
use tdx_host::debug::{
    self, BorrowedRegisters, Breakpoints, DebugContext, DebugError, DebugMemory, DebugReg, Stepper,
    Stopped,
};

use crate::layout::{Layout, Register};
use crate::owner::Owner;
use crate::registers::{self, TdArch, TdRegId, TdRegisters};
use crate::{monitor, values};

/// What a vCPU does when the TD is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Continue,
    Step,
    /// Steps while RIP stays in the range.
    StepRange(u64, u64),
}

/// What the debugger keeps of one vCPU.
#[derive(Default, Debug)]
pub struct Debuggee {
    context: DebugContext,
    registers: BorrowedRegisters,
    pub stepper: Stepper,
    pub action: Option<Action>,
}

/// A TD under a debugger. The debugger's thread `n` is vCPU `n - 1`.
pub struct TdTarget<'a, O: Owner> {
    pub owner: &'a mut O,
    layout: Layout,
    pub vcpus: Vec<Debuggee>,
    pub breakpoints: Breakpoints,
    /// The vCPU that stopped last: breakpoints are set through its page tables.
    pub current: usize,
}

pub fn tid(vcpu: usize) -> Tid {
    Tid::new(vcpu + 1).unwrap_or(Tid::MIN)
}

pub fn index(tid: Tid) -> usize {
    tid.get() - 1
}

/// Whether the module itself is gone.
fn is_fatal(error: &HostError) -> bool {
    matches!(error, HostError::NoSeam { .. })
}

impl<'a, O: Owner> TdTarget<'a, O> {
    pub fn new(owner: &'a mut O) -> Self {
        let parts = owner.parts();
        let (vcpus, xfam) = (parts.vcpus.len(), parts.td.config().xfam);
        TdTarget {
            owner,
            layout: Layout::new(xfam),
            vcpus: (0..vcpus).map(|_| Debuggee::default()).collect(),
            breakpoints: Breakpoints::new(),
            current: 0,
        }
    }

    /// Calls `act` with a vCPU, what the debugger keeps of it, and the TD's breakpoints.
    pub fn with<T>(
        &mut self,
        vcpu: usize,
        act: impl FnOnce(&mut Stopped<'_, O::Memory, O::Lp>, &mut Kept<'_>) -> Result<T, DebugError>,
    ) -> Result<T, DebugError> {
        let unknown = || HostError::VcpuInUse { index: vcpu as u32 };
        let kept = self.vcpus.get_mut(vcpu).ok_or_else(unknown)?;
        let lp = self.owner.lp_of(vcpu);
        let parts = self.owner.parts();
        let mut stopped = Stopped {
            memory: DebugMemory {
                host: parts.host,
                td: parts.td,
            },
            lp: &mut parts.lps.get_mut(lp).ok_or_else(unknown)?.seam,
            vcpu: parts.vcpus.get(vcpu).ok_or_else(unknown)?,
            context: &mut kept.context,
        };
        let mut kept = Kept {
            registers: &mut kept.registers,
            stepper: &mut kept.stepper,
            breakpoints: &mut self.breakpoints,
        };
        act(&mut stopped, &mut kept)
    }

    pub fn get(&mut self, vcpu: usize, reg: DebugReg) -> Result<u64, DebugError> {
        self.with(vcpu, |stopped, _| stopped.get(reg))
    }

    /// Makes #DB and #BP stop all vCPUs (or no longer), and takes all breakpoints away when they no longer do.
    pub fn attach(&mut self, on: bool) -> Result<(), DebugError> {
        if !on {
            self.clear_breakpoints()?;
        }
        for vcpu in 0..self.vcpus.len() {
            self.with(vcpu, |stopped, kept| {
                debug::enable_exits(stopped, on)?;
                if !on {
                    kept.stepper.cancel(stopped)?;
                    kept.load(stopped)?;
                }
                stopped.flush()
            })?;
        }
        Ok(())
    }

    pub fn clear_breakpoints(&mut self) -> Result<(), DebugError> {
        self.with(self.current, |stopped, kept| {
            kept.breakpoints.clear(&stopped.memory, stopped.lp)
        })
    }

    /// Puts every vCPU into the state in which it is to run.
    pub fn prepare(&mut self) -> Result<(), DebugError> {
        (0..self.vcpus.len()).try_for_each(|vcpu| self.prepare_one(vcpu))
    }

    pub fn prepare_one(&mut self, vcpu: usize) -> Result<(), DebugError> {
        let action = self.vcpus.get(vcpu).and_then(|v| v.action);
        let steps = matches!(action, Some(Action::Step | Action::StepRange(..)));
        self.with(vcpu, |stopped, kept| {
            match (steps, kept.stepper.is_stepping()) {
                (true, false) => kept.stepper.begin(stopped)?,
                (false, true) => kept.stepper.cancel(stopped)?,
                _ => {}
            }
            kept.load(stopped)?;
            stopped.flush()
        })
    }

    /// Ends what was under way: the debugger looks at the TD now.
    pub fn pause(&mut self) -> Result<(), DebugError> {
        (0..self.vcpus.len())
            .try_for_each(|vcpu| self.with(vcpu, |stopped, kept| kept.stepper.cancel(stopped)))
    }

    /// Reads linear memory without the INT3s that stand in it.
    fn read_memory(
        &mut self,
        vcpu: usize,
        linear: u64,
        to: &mut [u8],
    ) -> Result<usize, DebugError> {
        self.with(vcpu, |stopped, kept| {
            let done = stopped.read_memory(linear, to)?;
            for_each_page(linear, done, |at, range| {
                let gpa = stopped.translate(at)?;
                kept.breakpoints.hide(gpa, &mut to[range]);
                Ok(())
            })?;
            Ok(done)
        })
    }

    fn write_memory(&mut self, vcpu: usize, linear: u64, from: &[u8]) -> Result<(), DebugError> {
        self.with(vcpu, |stopped, kept| {
            for_each_page(linear, from.len(), |at, range| {
                let gpa = stopped.translate(at)?;
                let mut bytes = from[range].to_vec();
                kept.breakpoints.write_under(gpa, &mut bytes);
                stopped.write_memory(at, &bytes)
            })
        })
    }

    fn read_value(
        &mut self,
        vcpu: usize,
        register: &Register,
        to: &mut [u8],
    ) -> Result<(), DebugError> {
        self.with(vcpu, |stopped, _| {
            values::read(stopped, register.source, to)
        })
    }

    fn write_value(
        &mut self,
        vcpu: usize,
        register: &Register,
        from: &[u8],
    ) -> TargetResult<(), Self> {
        let done = self.with(vcpu, |stopped, _| {
            values::write(stopped, register.source, from)
        });
        done.map_err(|why| self.failed(&format!("writing {}", register.name), why))
    }

    /// A failure that the debugger survives: it sees an error for this request, and the reason is told.
    pub fn failed(&mut self, what: &str, error: DebugError) -> TargetError<HostError> {
        match error {
            DebugError::Host(error) if is_fatal(&error) => TargetError::Fatal(error),
            error => {
                self.owner.tell(&format!("{what}: {error}"));
                TargetError::NonFatal
            }
        }
    }
}

/// What the debugger keeps: of one vCPU, and of the TD.
pub struct Kept<'a> {
    pub registers: &'a mut BorrowedRegisters,
    pub stepper: &'a mut Stepper,
    pub breakpoints: &'a mut Breakpoints,
}

impl Kept<'_> {
    /// Puts breakpoints and the stepper's stops into the debug registers.
    pub fn load<M: tdx_call::HostMemory, L: tdx_call::SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
    ) -> Result<(), DebugError> {
        let values = self.breakpoints.registers(self.stepper.watched());
        self.registers.load(stopped, values)
    }
}

/// Calls `act` with the address and the range of the buffer of each piece that lies in one page.
fn for_each_page(
    linear: u64,
    length: usize,
    mut act: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), DebugError>,
) -> Result<(), DebugError> {
    let mut done = 0;
    while done < length {
        let at = linear.wrapping_add(done as u64);
        let piece = ((4096 - at % 4096) as usize).min(length - done);
        act(at, done..done + piece)?;
        done += piece;
    }
    Ok(())
}

impl<O: Owner> Target for TdTarget<'_, O> {
    type Arch = TdArch;
    type Error = HostError;

    fn base_ops(&mut self) -> BaseOps<'_, TdArch, HostError> {
        BaseOps::MultiThread(self)
    }
    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl<O: Owner> TargetDescriptionXmlOverride for TdTarget<'_, O> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.layout.description().as_bytes().get(offset..))
            .unwrap_or_default();
        let length = length.min(buf.len()).min(rest.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

impl<O: Owner> MultiThreadBase for TdTarget<'_, O> {
    fn read_registers(&mut self, regs: &mut TdRegisters, tid: Tid) -> TargetResult<(), Self> {
        let registers: Vec<_> = self.layout.registers().collect();
        regs.bytes.clear();
        for register in registers {
            let mut bytes = vec![0; register.bytes()];
            match self.read_value(index(tid), register, &mut bytes) {
                Ok(()) => regs.bytes.extend(bytes.into_iter().map(Some)),
                Err(DebugError::Host(error)) if is_fatal(&error) => {
                    return Err(TargetError::Fatal(error));
                }
                Err(_) => regs.bytes.extend(bytes.iter().map(|_| None)),
            }
        }
        Ok(())
    }

    fn write_registers(&mut self, regs: &TdRegisters, tid: Tid) -> TargetResult<(), Self> {
        let parts = registers::split(regs, &self.layout).ok_or(TargetError::NonFatal)?;
        for (register, bytes) in parts {
            let known: Option<Vec<u8>> = bytes.iter().copied().collect();
            if let Some(bytes) = known {
                self.write_value(index(tid), register, &bytes)?;
            }
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        // GDB reads ahead where nothing is: no reason to tell anybody.
        match self.read_memory(index(tid), start, data) {
            Ok(done) => Ok(done),
            Err(DebugError::Host(error)) if is_fatal(&error) => Err(TargetError::Fatal(error)),
            Err(_) => Err(TargetError::NonFatal),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let done = self.write_memory(index(tid), start, data);
        done.map_err(|why| self.failed("writing memory", why))
    }

    fn list_active_threads(
        &mut self,
        thread_is_active: &mut dyn FnMut(Tid),
    ) -> Result<(), HostError> {
        (0..self.vcpus.len()).for_each(|vcpu| thread_is_active(tid(vcpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl<O: Owner> SingleRegisterAccess<Tid> for TdTarget<'_, O> {
    fn read_register(
        &mut self,
        tid: Tid,
        reg: TdRegId,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let register = self.layout.register(reg.0).ok_or(TargetError::NonFatal)?;
        let buf = buf
            .get_mut(..register.bytes())
            .ok_or(TargetError::NonFatal)?;
        let done = self.read_value(index(tid), register, buf);
        done.map_err(|why| self.failed(&format!("reading {}", register.name), why))?;
        Ok(register.bytes())
    }

    fn write_register(&mut self, tid: Tid, reg: TdRegId, val: &[u8]) -> TargetResult<(), Self> {
        let register = self.layout.register(reg.0).ok_or(TargetError::NonFatal)?;
        if val.len() != register.bytes() {
            return Err(TargetError::NonFatal);
        }
        self.write_value(index(tid), register, val)
    }
}

impl<O: Owner> ThreadExtraInfo for TdTarget<'_, O> {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, HostError> {
        let text = format!("vCPU {}", index(tid));
        let length = text.len().min(buf.len());
        buf[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl<O: Owner> MonitorCmd for TdTarget<'_, O> {
    fn handle_monitor_cmd(
        &mut self,
        cmd: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), HostError> {
        let command = String::from_utf8_lossy(cmd).into_owned();
        out.write_raw(monitor::answer(self, &command).as_bytes());
        Ok(())
    }
}
