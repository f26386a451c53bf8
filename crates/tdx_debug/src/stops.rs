//! Breakpoints and watchpoints as GDB sets them.

use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints as BreakpointsExt, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};

use tdx_host::debug::{DebugError, HardwareBreakpoint, Watch};

use crate::owner::Owner;
use crate::target::TdTarget;

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
        let done = self.with(self.current, |stopped, kept| {
            kept.breakpoints.insert(stopped, addr)
        });
        match done {
            Ok(()) => Ok(true),
            Err(why @ (DebugError::NotMapped { .. } | DebugError::NoPage { .. })) => {
                self.owner.tell(&format!("a breakpoint: {why}"));
                Ok(false)
            }
            Err(why) => Err(self.failed("a breakpoint", why)),
        }
    }
    fn remove_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        let done = self.with(self.current, |stopped, kept| {
            kept.breakpoints.remove(&stopped.memory, stopped.lp, addr)
        });
        done.map_err(|why| self.failed("taking a breakpoint away", why))
    }
}

impl<O: Owner> TdTarget<'_, O> {
    fn watch(&mut self, breakpoint: HardwareBreakpoint) -> TargetResult<bool, Self> {
        match self.breakpoints.watch(breakpoint) {
            Ok(()) => Ok(true),
            Err(why) => {
                self.owner.tell(&format!("a hardware breakpoint: {why}"));
                Ok(false)
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchpoint_is_aligned_and_of_a_size_that_the_processor_knows() {
        assert!(watchpoint(0x1000, 8, WatchKind::Write).is_some());
        assert!(watchpoint(0x1004, 8, WatchKind::Write).is_none());
        assert!(watchpoint(0x1000, 3, WatchKind::ReadWrite).is_none());
        assert!(watchpoint(0x1000, 4, WatchKind::Read).is_none());
    }
}
