//! Breakpoints and watchpoints of a DEBUG TD: INT3 in private memory, and the debug-address registers.

use std::collections::BTreeMap;

use tdx_call::{HostMemory, SeamcallLp};

use super::{DebugError, DebugMemory, Stopped, memory};

const INT3: u8 = 0xCC;

/// What a debug-address register watches for: the R/W field of DR7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    Execute,
    Write,
    /// Reads and writes; the processor knows no reads alone.
    Access,
}

/// One use of DR0 to DR3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardwareBreakpoint {
    pub linear: u64,
    /// 1, 2, 4 or 8 bytes, aligned; 1 for execution.
    pub len: u8,
    pub watch: Watch,
}

/// All breakpoints of a TD. The hardware ones are every vCPU's.
#[derive(Clone, Default, Debug)]
pub struct Breakpoints {
    /// By guest physical address: the byte that INT3 stands on, and the linear address it was asked for.
    software: BTreeMap<u64, (u8, u64)>,
    hardware: [Option<HardwareBreakpoint>; 4],
}

impl Breakpoints {
    pub fn new() -> Breakpoints {
        Breakpoints::default()
    }

    /// Puts an INT3 at a linear address, as the page tables of the vCPU map it now.
    pub fn insert<M: HostMemory, L: SeamcallLp>(
        &mut self,
        stopped: &mut Stopped<'_, M, L>,
        linear: u64,
    ) -> Result<(), DebugError> {
        let gpa = stopped.translate(linear)?;
        if self.software.contains_key(&gpa) {
            return Ok(());
        }
        let mut byte = [0];
        let no_page = |error| memory::no_page(linear, gpa, error);
        let (memory, lp) = (&stopped.memory, &mut *stopped.lp);
        memory.read_gpa(lp, gpa, &mut byte).map_err(no_page)?;
        memory.write_gpa(lp, gpa, &[INT3]).map_err(no_page)?;
        self.software.insert(gpa, (byte[0], linear));
        Ok(())
    }

    /// Takes the INT3 away again; false when there was none. A byte that the guest has since written stays.
    pub fn remove<L: SeamcallLp, M: HostMemory>(
        &mut self,
        memory: &DebugMemory<'_, M>,
        lp: &mut L,
        linear: u64,
    ) -> Result<bool, DebugError> {
        let found = self.software.iter().find(|(_, (_, at))| *at == linear);
        let Some((&gpa, &(byte, _))) = found else {
            return Ok(false);
        };
        self.software.remove(&gpa);
        restore(memory, lp, gpa, byte)?;
        Ok(true)
    }

    /// Takes everything away.
    pub fn clear<L: SeamcallLp, M: HostMemory>(
        &mut self,
        memory: &DebugMemory<'_, M>,
        lp: &mut L,
    ) -> Result<(), DebugError> {
        self.hardware = [None; 4];
        let mut first = Ok(());
        for (gpa, (byte, _)) in std::mem::take(&mut self.software) {
            let done = restore(memory, lp, gpa, byte);
            first = first.and(done);
        }
        first
    }

    /// Whether an INT3 of ours stands at a guest physical address.
    pub fn stands_on(&self, gpa: u64) -> bool {
        self.software.contains_key(&gpa)
    }

    /// Replaces our INT3s in bytes that were read from `gpa` on by what they stand on.
    pub fn hide(&self, gpa: u64, bytes: &mut [u8]) {
        let end = gpa + bytes.len() as u64;
        for (at, (byte, _)) in self.software.range(gpa..end) {
            bytes[(at - gpa) as usize] = *byte;
        }
    }

    /// Tells the breakpoints what the debugger is about to write at `gpa`: under an INT3 the write is remembered,
    /// and `bytes` becomes what may really be written.
    pub fn write_under(&mut self, gpa: u64, bytes: &mut [u8]) {
        let end = gpa + bytes.len() as u64;
        for (at, (byte, _)) in self.software.range_mut(gpa..end) {
            *byte = std::mem::replace(&mut bytes[(at - gpa) as usize], INT3);
        }
    }

    /// Takes a free debug-address register.
    pub fn watch(&mut self, breakpoint: HardwareBreakpoint) -> Result<(), DebugError> {
        if self.hardware.contains(&Some(breakpoint)) {
            return Ok(());
        }
        let free = self.hardware.iter_mut().find(|place| place.is_none());
        *free.ok_or(DebugError::NoDebugRegister)? = Some(breakpoint);
        Ok(())
    }

    /// Gives the debug-address register back; false when none was taken for it.
    pub fn unwatch(&mut self, breakpoint: HardwareBreakpoint) -> bool {
        let place = self
            .hardware
            .iter_mut()
            .find(|place| **place == Some(breakpoint));
        place.map(|place| *place = None).is_some()
    }

    /// The breakpoint that DR6 (or the exit qualification of a #DB) names.
    pub fn hit(&self, dr6: u64) -> Option<HardwareBreakpoint> {
        (0..4)
            .find(|i| dr6 & 1 << i != 0)
            .and_then(|i| self.hardware[i])
    }

    /// DR0 to DR3 and DR7: these breakpoints, and in the registers left free the stepper's stops at code.
    pub fn registers(&self, code: impl Iterator<Item = u64>) -> [u64; 5] {
        let mut all = self.hardware;
        let free = all.iter_mut().filter(|place| place.is_none());
        for (place, linear) in free.zip(code) {
            *place = Some(HardwareBreakpoint {
                linear,
                len: 1,
                watch: Watch::Execute,
            });
        }
        let linear = |n: usize| all[n].map_or(0, |b| b.linear);
        [linear(0), linear(1), linear(2), linear(3), dr7(&all)]
    }
}

fn restore<L: SeamcallLp, M: HostMemory>(
    memory: &DebugMemory<'_, M>,
    lp: &mut L,
    gpa: u64,
    byte: u8,
) -> Result<(), DebugError> {
    let mut now = [0];
    memory.read_gpa(lp, gpa, &mut now)?;
    if now[0] == INT3 {
        memory.write_gpa(lp, gpa, &[byte])?;
    }
    Ok(())
}

/// DR7 (SDM volume 3, 19.2.4): global enable, R/W and LEN of each; bit 10 is always 1.
fn dr7(hardware: &[Option<HardwareBreakpoint>; 4]) -> u64 {
    let mut dr7 = 0x400;
    for (i, breakpoint) in hardware.iter().enumerate() {
        let Some(breakpoint) = breakpoint else {
            continue;
        };
        let rw = match breakpoint.watch {
            Watch::Execute => 0,
            Watch::Write => 1,
            Watch::Access => 3,
        };
        let len = match (breakpoint.watch, breakpoint.len) {
            (Watch::Execute, _) | (_, 0 | 1) => 0,
            (_, 2) => 1,
            (_, 8..) => 2,
            _ => 3,
        };
        dr7 |= 2 << (2 * i) | (rw | len << 2) << (16 + 4 * i);
    }
    dr7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dr7_holds_kind_and_length_of_each_register() {
        let write8 = HardwareBreakpoint {
            linear: 0x1000,
            len: 8,
            watch: Watch::Write,
        };
        let execute = HardwareBreakpoint {
            linear: 0x2000,
            len: 1,
            watch: Watch::Execute,
        };
        let access4 = HardwareBreakpoint {
            linear: 0x3000,
            len: 4,
            watch: Watch::Access,
        };
        assert_eq!(dr7(&[None; 4]), 0x400);
        assert_eq!(
            dr7(&[Some(write8), None, None, None]),
            0x400 | 2 | 0x9 << 16
        );
        assert_eq!(dr7(&[None, Some(execute), None, None]), 0x400 | 8);
        assert_eq!(
            dr7(&[None, None, None, Some(access4)]),
            0x400 | 0x80 | 0xF << 28
        );
    }

    #[test]
    fn four_registers_are_all_there_are() {
        let mut breakpoints = Breakpoints::new();
        let at = |linear| HardwareBreakpoint {
            linear,
            len: 1,
            watch: Watch::Execute,
        };
        for linear in 0..4 {
            breakpoints.watch(at(linear)).expect("a free register");
        }
        breakpoints.watch(at(3)).expect("the same again takes none");
        assert_eq!(breakpoints.watch(at(9)), Err(DebugError::NoDebugRegister));
        assert!(breakpoints.unwatch(at(2)) && !breakpoints.unwatch(at(2)));
        breakpoints.watch(at(9)).expect("a free register");
        assert_eq!(breakpoints.hit(4), Some(at(9)));
        assert_eq!(
            breakpoints.hit(0x4000),
            None,
            "a single step names no register"
        );
    }

    #[test]
    fn a_step_takes_the_registers_that_are_free() {
        let mut breakpoints = Breakpoints::new();
        for linear in [1, 2, 3] {
            breakpoints
                .watch(HardwareBreakpoint {
                    linear,
                    len: 1,
                    watch: Watch::Execute,
                })
                .expect("a free register");
        }
        assert_eq!(
            breakpoints.registers([0x10, 0x20].into_iter()),
            [1, 2, 3, 0x10, 0x4AA]
        );
        assert_eq!(
            Breakpoints::new().registers(std::iter::empty()),
            [0, 0, 0, 0, 0x400]
        );
    }

    #[test]
    fn reads_do_not_show_the_int3s_and_writes_go_under_them() {
        let mut breakpoints = Breakpoints::new();
        breakpoints.software.insert(0x1002, (0x55, 0xFFFF_0002));
        let mut read = [1, 2, INT3, 4];
        breakpoints.hide(0x1000, &mut read);
        assert_eq!(read, [1, 2, 0x55, 4]);
        let mut written = [9, 8, 7];
        breakpoints.write_under(0x1001, &mut written);
        assert_eq!(written, [9, INT3, 7]);
        breakpoints.hide(0x1002, &mut written[1..2]);
        assert_eq!(written, [9, 8, 7]);
    }
}
