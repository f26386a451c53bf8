//! The TD as gdbstub's target: registers, memory, breakpoints, and what to run next.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadResumeOps, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints as BreakpointsExt, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint,
    HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use tdx_host::HostError;
use tdx_host::debug::{
    self, Breakpoints, DebugContext, DebugError, DebugMemory, DebugReg, HardwareBreakpoint, Watch,
};

use crate::layout::{self, Source};
use crate::monitor;
use crate::owner::{Owner, Parts};
use crate::registers::{TdArch, TdRegId, TdRegisters};

/// What a vCPU does when the TD is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Continue,
    Step,
    /// Steps while RIP stays in the range.
    StepRange(u64, u64),
}

/// A TD under a debugger. The debugger's thread `n` is vCPU `n - 1`.
pub struct TdTarget<'a, O: Owner> {
    pub owner: &'a mut O,
    pub contexts: Vec<DebugContext>,
    pub breakpoints: Breakpoints,
    pub actions: Vec<Option<Action>>,
    /// The vCPU that stopped last: breakpoints are set through its page tables.
    pub current: usize,
}

pub fn tid(vcpu: usize) -> Tid {
    Tid::new(vcpu + 1).unwrap_or(Tid::MIN)
}

fn index(tid: Tid) -> usize {
    tid.get() - 1
}

/// A failure that the debugger survives: it sees an error for this request.
fn non_fatal(error: DebugError) -> TargetError<HostError> {
    match error {
        DebugError::Host(error) if is_fatal(&error) => TargetError::Fatal(error),
        _ => TargetError::NonFatal,
    }
}

/// Whether the module itself is gone.
fn is_fatal(error: &HostError) -> bool {
    matches!(error, HostError::NoSeam { .. })
}

const XSAVE_LEGACY: usize = 416;
/// XSTATE_BV and XCOMP_BV in the XSAVES image.
const XSTATE_BV: u16 = 64;
const XCOMP_BV: u16 = 65;
const AVX: u64 = 1 << 2;
const SSE: u64 = 1 << 1;
const X87: u64 = 1;
/// Where the compacted part begins, and AVX with it when it is there.
const COMPACTED: usize = 576;

impl<'a, O: Owner> TdTarget<'a, O> {
    pub fn new(owner: &'a mut O) -> Self {
        let vcpus = owner.parts().vcpus.len();
        TdTarget {
            owner,
            contexts: vec![DebugContext::new(); vcpus],
            breakpoints: Breakpoints::new(),
            actions: vec![None; vcpus],
            current: 0,
        }
    }

    /// Calls `act` with everything that concerns one vCPU.
    fn with<T>(
        &mut self,
        vcpu: usize,
        act: impl FnOnce(
            Parts<'_, O::Memory, O::Lp>,
            usize,
            &mut DebugContext,
            &mut Breakpoints,
        ) -> Result<T, DebugError>,
    ) -> Result<T, DebugError> {
        let lp = self.owner.lp_of(vcpu);
        let unknown = || HostError::VcpuInUse { index: vcpu as u32 };
        let context = self.contexts.get_mut(vcpu).ok_or_else(unknown)?;
        act(self.owner.parts(), lp, context, &mut self.breakpoints)
    }

    pub fn get(&mut self, vcpu: usize, reg: DebugReg) -> Result<u64, DebugError> {
        self.with(vcpu, |parts, lp, context, _| {
            context.get(&mut parts.lps[lp].seam, &parts.vcpus[vcpu], reg)
        })
    }

    pub fn put(&mut self, vcpu: usize, reg: DebugReg, value: u64) -> Result<(), DebugError> {
        self.with(vcpu, |parts, lp, context, _| {
            context.write(&mut parts.lps[lp].seam, &parts.vcpus[vcpu], reg, value)
        })
    }

    /// Makes #DB and #BP stop all vCPUs (or no longer), and takes all breakpoints away when they no longer do.
    pub fn attach(&mut self, on: bool) -> Result<(), DebugError> {
        if !on {
            self.with(self.current, |parts, lp, _, breakpoints| {
                let memory = DebugMemory {
                    host: parts.host,
                    td: parts.td,
                };
                breakpoints.clear(&memory, &mut parts.lps[lp].seam)
            })?;
        }
        for vcpu in 0..self.contexts.len() {
            self.with(vcpu, |parts, lp, context, breakpoints| {
                let seam = &mut parts.lps[lp].seam;
                let cpu = &parts.vcpus[vcpu];
                debug::enable_exits(context, seam, cpu, on)?;
                if !on {
                    breakpoints.load(context);
                    debug::set_single_step(context, seam, cpu, false)?;
                }
                context.flush(seam, cpu)
            })?;
        }
        Ok(())
    }

    /// Puts every vCPU into the state in which it is to run.
    pub fn prepare(&mut self) -> Result<(), DebugError> {
        for vcpu in 0..self.contexts.len() {
            let step = matches!(
                self.actions[vcpu],
                Some(Action::Step | Action::StepRange(..))
            );
            self.with(vcpu, |parts, lp, context, breakpoints| {
                let seam = &mut parts.lps[lp].seam;
                let cpu = &parts.vcpus[vcpu];
                debug::set_single_step(context, seam, cpu, step)?;
                breakpoints.load(context);
                context.flush(seam, cpu)
            })?;
        }
        Ok(())
    }

    /// Reads linear memory without the INT3s that stand in it.
    pub fn read_memory(
        &mut self,
        vcpu: usize,
        linear: u64,
        to: &mut [u8],
    ) -> Result<usize, DebugError> {
        self.with(vcpu, |parts, lp, context, breakpoints| {
            let memory = DebugMemory {
                host: parts.host,
                td: parts.td,
            };
            let (seam, cpu) = (&mut parts.lps[lp].seam, &parts.vcpus[vcpu]);
            let done = memory.read(seam, cpu, context, linear, to)?;
            for_each_page(linear, done, |at, range| {
                let gpa = memory.translate(seam, cpu, context, at)?;
                breakpoints.hide(gpa, &mut to[range]);
                Ok(())
            })?;
            Ok(done)
        })
    }

    fn write_memory(&mut self, vcpu: usize, linear: u64, from: &[u8]) -> Result<(), DebugError> {
        self.with(vcpu, |parts, lp, context, breakpoints| {
            let memory = DebugMemory {
                host: parts.host,
                td: parts.td,
            };
            let (seam, cpu) = (&mut parts.lps[lp].seam, &parts.vcpus[vcpu]);
            for_each_page(linear, from.len(), |at, range| {
                let gpa = memory.translate(seam, cpu, context, at)?;
                let mut bytes = from[range].to_vec();
                breakpoints.write_under(gpa, &mut bytes);
                memory.write(seam, cpu, context, at, &bytes)
            })
        })
    }

    /// Bytes of the XSAVES image; components in their initial configuration read as that.
    fn xsave(&mut self, vcpu: usize, offset: usize, to: &mut [u8]) -> Result<(), DebugError> {
        let live = self.get(vcpu, DebugReg::Xbuff(XSTATE_BV))?;
        let component = match offset {
            0..24 | 32..160 => X87,
            24..28 => u64::MAX,
            28..576 => SSE,
            _ => AVX,
        };
        if live & component == 0 {
            to.fill(0);
            if offset == 0 {
                // FCW's initial value.
                to[..2].copy_from_slice(&0x37Fu16.to_le_bytes());
            }
            return Ok(());
        }
        for (i, byte) in to.iter_mut().enumerate() {
            let at = offset + i;
            let word = self.get(vcpu, DebugReg::Xbuff((at / 8) as u16))?;
            *byte = word.to_le_bytes()[at % 8];
        }
        Ok(())
    }

    fn set_xsave(&mut self, vcpu: usize, offset: usize, from: &[u8]) -> Result<(), DebugError> {
        let mut now = vec![0; from.len()];
        self.xsave(vcpu, offset, &mut now)?;
        if now == from {
            return Ok(());
        }
        // The header is read-only: a component that is in its initial configuration stays in it.
        let live = self.get(vcpu, DebugReg::Xbuff(XSTATE_BV))?;
        let component = if offset < 160 && offset != 24 {
            X87
        } else if offset < 576 {
            SSE
        } else {
            AVX
        };
        if live & component == 0 {
            return Err(DebugError::ReadOnly {
                reg: DebugReg::Xbuff((offset / 8) as u16),
            });
        }
        for (i, byte) in from.iter().enumerate() {
            let at = offset + i;
            let reg = DebugReg::Xbuff((at / 8) as u16);
            let mut word = self.get(vcpu, reg)?.to_le_bytes();
            word[at % 8] = *byte;
            self.put(vcpu, reg, u64::from_le_bytes(word))?;
        }
        Ok(())
    }

    fn ymm_offset(&mut self, vcpu: usize, index: u8) -> Result<Option<usize>, DebugError> {
        let layout = self.get(vcpu, DebugReg::Xbuff(XCOMP_BV))?;
        Ok((layout & AVX != 0).then_some(COMPACTED + 16 * usize::from(index)))
    }

    fn read_source(
        &mut self,
        vcpu: usize,
        source: Source,
        to: &mut [u8],
    ) -> Result<(), DebugError> {
        match source {
            Source::Field(reg) => {
                let value = self.get(vcpu, reg)?.to_le_bytes();
                to.copy_from_slice(&value[..to.len()]);
                Ok(())
            }
            Source::Xsave(offset) => {
                // Words of 16 bits in the image are 32 bits to GDB.
                let offset = usize::from(offset);
                let kept = match offset {
                    0..8 | 12 | 20 => 2,
                    _ => to.len(),
                };
                to.fill(0);
                self.xsave(vcpu, offset, &mut to[..kept])
            }
            Source::YmmHigh(index) => match self.ymm_offset(vcpu, index)? {
                Some(offset) => self.xsave(vcpu, offset, to),
                None => {
                    to.fill(0);
                    Ok(())
                }
            },
            Source::Tags => {
                let mut image = [0; XSAVE_LEGACY];
                self.xsave(vcpu, 0, &mut image[..24])?;
                self.xsave(vcpu, 32, &mut image[32..160])?;
                to.fill(0);
                to[..2].copy_from_slice(&full_tags(&image).to_le_bytes());
                Ok(())
            }
        }
    }

    fn write_source(&mut self, vcpu: usize, source: Source, from: &[u8]) -> Result<(), DebugError> {
        match source {
            Source::Field(reg) => {
                let mut value = self.get(vcpu, reg)?.to_le_bytes();
                let before = value;
                value[..from.len()].copy_from_slice(from);
                if value == before {
                    return Ok(());
                }
                self.put(vcpu, reg, u64::from_le_bytes(value))
            }
            Source::Xsave(offset) => {
                let offset = usize::from(offset);
                let kept = match offset {
                    0..8 | 12 | 20 => 2,
                    _ => from.len(),
                };
                self.set_xsave(vcpu, offset, &from[..kept])
            }
            Source::YmmHigh(index) => match self.ymm_offset(vcpu, index)? {
                Some(offset) => self.set_xsave(vcpu, offset, from),
                None if from.iter().all(|byte| *byte == 0) => Ok(()),
                None => Err(DebugError::ReadOnly {
                    reg: DebugReg::Xbuff(XCOMP_BV),
                }),
            },
            // The tag word follows from the registers.
            Source::Tags => Ok(()),
        }
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

/// The x87 tag word from the abridged one of FXSAVE (SDM volume 1, 10.5.1.1).
fn full_tags(image: &[u8; XSAVE_LEGACY]) -> u16 {
    let top = usize::from(image[3] >> 3 & 7);
    let abridged = image[4];
    (0..8).fold(0, |tags, physical| {
        let tag = if abridged & 1 << physical == 0 {
            3
        } else {
            let stack = (physical + 8 - top) % 8;
            let value = &image[32 + 16 * stack..42 + 16 * stack];
            let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7FFF;
            let zero = value[..8].iter().all(|byte| *byte == 0);
            match exponent {
                0 if zero => 1,
                0 | 0x7FFF => 2,
                _ if value[7] & 0x80 == 0 => 2,
                _ => 0,
            }
        };
        tags | tag << (2 * physical)
    })
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
}

impl<O: Owner> MultiThreadBase for TdTarget<'_, O> {
    fn read_registers(&mut self, regs: &mut TdRegisters, tid: Tid) -> TargetResult<(), Self> {
        for (register, value) in layout::registers().zip(&mut regs.values) {
            let mut bytes = vec![0; usize::from(register.bits / 8)];
            *value = match self.read_source(index(tid), register.source, &mut bytes) {
                Ok(()) => Some(bytes),
                Err(DebugError::Host(error)) if is_fatal(&error) => {
                    return Err(TargetError::Fatal(error));
                }
                Err(_) => None,
            };
        }
        Ok(())
    }

    fn write_registers(&mut self, regs: &TdRegisters, tid: Tid) -> TargetResult<(), Self> {
        for (register, value) in layout::registers().zip(&regs.values) {
            if let Some(bytes) = value {
                self.write_source(index(tid), register.source, bytes)
                    .map_err(non_fatal)?;
            }
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        self.read_memory(index(tid), start, data).map_err(non_fatal)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        self.write_memory(index(tid), start, data)
            .map_err(non_fatal)
    }

    fn list_active_threads(
        &mut self,
        thread_is_active: &mut dyn FnMut(Tid),
    ) -> Result<(), HostError> {
        (0..self.contexts.len()).for_each(|vcpu| thread_is_active(tid(vcpu)));
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
        let register = layout::register(reg.0).ok_or(TargetError::NonFatal)?;
        let size = usize::from(register.bits / 8);
        let buf = buf.get_mut(..size).ok_or(TargetError::NonFatal)?;
        self.read_source(index(tid), register.source, buf)
            .map_err(non_fatal)?;
        Ok(size)
    }

    fn write_register(&mut self, tid: Tid, reg: TdRegId, val: &[u8]) -> TargetResult<(), Self> {
        let register = layout::register(reg.0).ok_or(TargetError::NonFatal)?;
        if val.len() != usize::from(register.bits / 8) {
            return Err(TargetError::NonFatal);
        }
        self.write_source(index(tid), register.source, val)
            .map_err(non_fatal)
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

impl<O: Owner> MultiThreadResume for TdTarget<'_, O> {
    fn resume(&mut self) -> Result<(), HostError> {
        // vCPUs without an action of their own stay where they are while another is stepped.
        match self.prepare() {
            Ok(()) => Ok(()),
            Err(DebugError::Host(error)) => Err(error),
            Err(_) => Ok(()),
        }
    }
    fn clear_resume_actions(&mut self) -> Result<(), HostError> {
        self.actions.fill(None);
        Ok(())
    }
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), HostError> {
        self.actions[index(tid)] = Some(Action::Continue);
        Ok(())
    }
    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }
    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<O: Owner> MultiThreadSchedulerLocking for TdTarget<'_, O> {
    /// vCPUs that were given no action stand still anyway.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), HostError> {
        Ok(())
    }
}

impl<O: Owner> MultiThreadSingleStep for TdTarget<'_, O> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), HostError> {
        self.actions[index(tid)] = Some(Action::Step);
        Ok(())
    }
}

impl<O: Owner> MultiThreadRangeStepping for TdTarget<'_, O> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), HostError> {
        self.actions[index(tid)] = Some(Action::StepRange(start, end));
        Ok(())
    }
}

impl<O: Owner> BreakpointsExt for TdTarget<'_, O> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl<O: Owner> SwBreakpoint for TdTarget<'_, O> {
    fn add_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        let vcpu = self.current;
        let done = self.with(vcpu, |parts, lp, context, breakpoints| {
            let memory = DebugMemory {
                host: parts.host,
                td: parts.td,
            };
            let (seam, cpu) = (&mut parts.lps[lp].seam, &parts.vcpus[vcpu]);
            breakpoints.insert(&memory, seam, cpu, context, addr)
        });
        match done {
            Ok(()) => Ok(true),
            Err(DebugError::NotMapped { .. } | DebugError::NoPage { .. }) => Ok(false),
            Err(error) => Err(non_fatal(error)),
        }
    }
    fn remove_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        let done = self.with(self.current, |parts, lp, _, breakpoints| {
            let memory = DebugMemory {
                host: parts.host,
                td: parts.td,
            };
            breakpoints.remove(&memory, &mut parts.lps[lp].seam, addr)
        });
        done.map_err(non_fatal)
    }
}

impl<O: Owner> TdTarget<'_, O> {
    fn watch(&mut self, breakpoint: HardwareBreakpoint) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.watch(breakpoint).is_ok())
    }
}

fn watchpoint(addr: u64, len: u64, kind: WatchKind) -> Option<HardwareBreakpoint> {
    let fits = matches!(len, 1 | 2 | 4 | 8) && addr.is_multiple_of(len);
    let watch = match kind {
        WatchKind::Write => Watch::Write,
        WatchKind::ReadWrite => Watch::Access,
        // The processor cannot watch for reads alone.
        WatchKind::Read => return None,
    };
    fits.then_some(HardwareBreakpoint {
        linear: addr,
        len: len as u8,
        watch,
    })
}

fn execution(addr: u64) -> HardwareBreakpoint {
    HardwareBreakpoint {
        linear: addr,
        len: 1,
        watch: Watch::Execute,
    }
}

impl<O: Owner> HwBreakpoint for TdTarget<'_, O> {
    fn add_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.watch(execution(addr))
    }
    fn remove_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.unwatch(execution(addr)))
    }
}

impl<O: Owner> HwWatchpoint for TdTarget<'_, O> {
    fn add_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        watchpoint(addr, len, kind).map_or(Ok(false), |w| self.watch(w))
    }
    fn remove_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(watchpoint(addr, len, kind).is_some_and(|w| self.breakpoints.unwatch(w)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_word_is_spelled_out() {
        let mut image = [0u8; XSAVE_LEGACY];
        assert_eq!(full_tags(&image), 0xFFFF, "all empty");
        // TOP 7, physical register 7 holds 1.0 as ST0, 0 holds 0.0 as ST1, 1 an infinity as ST2.
        image[3] = 7 << 3;
        image[4] = 0x83;
        image[32..42].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F]);
        image[64..74].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x7F]);
        assert_eq!(full_tags(&image), 0b00_11_11_11_11_11_10_01);
    }

    #[test]
    fn a_watchpoint_is_aligned_and_of_a_size_that_the_processor_knows() {
        assert!(watchpoint(0x1000, 8, WatchKind::Write).is_some());
        assert!(watchpoint(0x1004, 8, WatchKind::Write).is_none());
        assert!(watchpoint(0x1000, 3, WatchKind::ReadWrite).is_none());
        assert!(watchpoint(0x1000, 4, WatchKind::Read).is_none());
    }
}
