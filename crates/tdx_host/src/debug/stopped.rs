//! A stopped vCPU within reach of its debugger.

use tdx_call::{HostMemory, SeamcallLp};

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
        self.context.get(self.lp, self.vcpu, reg)
    }

    /// Changes the register when the vCPU runs again; the module is not asked whether it may be.
    pub fn set(&mut self, reg: DebugReg, value: u64) {
        self.context.set(reg, value);
    }

    /// Changes the register at once, so that the caller learns whether the module takes it.
    pub fn write(&mut self, reg: DebugReg, value: u64) -> Result<(), DebugError> {
        self.context.write(self.lp, self.vcpu, reg, value)
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
