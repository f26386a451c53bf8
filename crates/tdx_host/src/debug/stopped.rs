//! A stopped vCPU within reach of its debugger.

use coco_regs::{Exit, ExitWords, GprFile, GprSet};
use tdx_call::{HostMemory, SeamcallLp};
use x86_arch::Gpr;

use super::{DebugContext, DebugError, DebugMemory, DebugReg};
use crate::Vcpu;

/// A stopped vCPU of a DEBUG TD, its TD's memory, and the processor that it is associated with.
#[derive(Debug)]
pub struct Stopped<'a, M, L> {
    pub memory: DebugMemory<'a, M>,
    pub lp: &'a mut L,
    pub vcpu: &'a Vcpu,
    pub context: &'a mut DebugContext,
}

impl<M: HostMemory, L: SeamcallLp> Stopped<'_, M, L> {
    /// The register's value.
    pub fn get(&mut self, reg: DebugReg) -> Result<u64, DebugError> {
        let value = self.context.get(self.lp, self.vcpu, reg);
        value.map_err(|why| self.blame(reg, why))
    }

    /// Changes the register when the vCPU runs again; the module is not asked whether it may be.
    pub fn set(&mut self, reg: DebugReg, value: u64) {
        self.context.set(reg, value);
    }

    /// Changes the register at once, so that the caller learns whether the module takes it.
    pub fn write(&mut self, reg: DebugReg, value: u64) -> Result<(), DebugError> {
        let done = self.context.write(self.lp, self.vcpu, reg, value);
        done.map_err(|why| self.blame(reg, why))
    }

    /// To a production TD's registers the module says what it says of a read-only field: neither is writable.
    fn blame(&self, reg: DebugReg, why: DebugError) -> DebugError {
        match why {
            DebugError::ReadOnly { .. } if !self.memory.td.config().is_debug() => {
                DebugError::ProductionTd {
                    what: reg.to_string(),
                }
            }
            why => why,
        }
    }

    /// The stop as an exit that lends every general-purpose register by a window, as other exits lend theirs. What
    /// `act` wrote the guest finds when it runs again.
    pub fn with_exit<T>(
        &mut self,
        words: ExitWords,
        act: impl FnOnce(&mut Exit<'_>) -> T,
    ) -> Result<T, DebugError> {
        let mut file = GprFile::default();
        for reg in Gpr::ALL {
            file[reg] = self.get(DebugReg::Gpr(reg))?;
        }
        let mut exit = Exit::debug(words, &mut file);
        let done = act(&mut exit);
        let written = match &exit {
            Exit::Debug(_, all) => all.written(),
            _ => GprSet::NONE,
        };
        for reg in Gpr::ALL.into_iter().filter(|reg| written.contains(*reg)) {
            self.set(DebugReg::Gpr(reg), file[reg]);
        }
        Ok(done)
    }

    /// Writes what was changed: the vCPU may run.
    pub fn flush(&mut self) -> Result<(), DebugError> {
        self.context.flush(self.lp, self.vcpu)
    }

    /// The guest physical address behind a linear one.
    pub fn translate(&mut self, linear: u64) -> Result<u64, DebugError> {
        self.memory
            .translate(self.lp, self.vcpu, self.context, linear)
    }

    /// Reads linear memory; gives how many bytes could be reached, an error if none.
    pub fn read_memory(&mut self, linear: u64, to: &mut [u8]) -> Result<usize, DebugError> {
        self.memory
            .read(self.lp, self.vcpu, self.context, linear, to)
    }

    /// Writes linear memory, whatever its page tables say of writing.
    pub fn write_memory(&mut self, linear: u64, from: &[u8]) -> Result<(), DebugError> {
        self.memory
            .write(self.lp, self.vcpu, self.context, linear, from)
    }

    /// Words of linear memory, all of them or an error.
    pub(super) fn read_words<const N: usize>(
        &mut self,
        linear: u64,
    ) -> Result<[u64; N], DebugError> {
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            let at = linear.wrapping_add(8 * i as u64);
            let mut bytes = [0; 8];
            let reached = self.read_memory(at, &mut bytes)?;
            if reached < bytes.len() {
                return Err(DebugError::NotMapped {
                    linear: at,
                    reached,
                });
            }
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }
}
