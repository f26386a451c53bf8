//! The stack: PUSH, POP, ENTER, LEAVE and the pushes and pops of other families.

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::operand::{Address, cut};
use x86_arch::vmx::Seg;
use x86_arch::{Access, RamPage};

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Bytes of the stack pointer.
    pub fn stack_width(&self) -> usize {
        if self.is_64() {
            8
        } else if self.segment(Seg::Ss).access & 1 << 14 != 0 {
            4
        } else {
            2
        }
    }

    pub fn set_stack_pointer(&mut self, value: u64) {
        match self.stack_width() {
            8 => self.gpr[4] = value,
            4 => self.set_reg(4, value as u32),
            _ => self.set_reg(4, value as u16),
        }
    }

    pub(crate) fn stack_address(
        &self,
        pointer: u64,
        bytes: usize,
        access: Access,
    ) -> Result<Address, Fault> {
        self.in_segment(Seg::Ss, cut(pointer, self.stack_width()), bytes, access)
    }

    /// Pushes a word of 2, 4 or 8 bytes; RSP moves only when the store succeeded.
    pub fn push_sized(&mut self, bytes: usize, value: u64) -> Result<(), Fault> {
        let pointer = self.reg(4).wrapping_sub(bytes as u64);
        let address = self.stack_address(pointer, bytes, Access::Write)?;
        self.store_sized(address, bytes, value)?;
        self.set_stack_pointer(pointer);
        Ok(())
    }

    /// The word `offset` bytes above the top of the stack; RSP stays.
    pub fn peek_sized(&mut self, bytes: usize, offset: u64) -> Result<u64, Fault> {
        let pointer = self.reg(4).wrapping_add(offset);
        let address = self.stack_address(pointer, bytes, Access::Read)?;
        self.load_sized(address, bytes)
    }

    pub fn pop_sized(&mut self, bytes: usize) -> Result<u64, Fault> {
        let value = self.peek_sized(bytes, 0)?;
        self.set_stack_pointer(self.reg(4).wrapping_add(bytes as u64));
        Ok(value)
    }
}
