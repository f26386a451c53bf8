//! The stack: PUSH, POP, ENTER, LEAVE and the pushes and pops of other families.

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags;
use crate::operand::{Address, cut, segment_of};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};
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

/// Bytes that this PUSH, POP, CALL or RET moves.
pub fn word(insn: &Instruction) -> usize {
    insn.stack_pointer_increment().unsigned_abs() as usize
}

pub fn push<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let value = cpu.read_operand(insn, 0)?;
    let segment = insn.op_kind(0) == OpKind::Register && insn.op_register(0).is_segment_register();
    if segment && word(insn) == 4 {
        // PUSH of a segment register with a 32-bit operand size writes only 16 bits.
        let pointer = cpu.reg(4).wrapping_sub(4);
        let address = cpu.stack_address(pointer, 2, Access::Write)?;
        cpu.store_sized(address, 2, value)?;
        cpu.set_stack_pointer(pointer);
        return Ok(());
    }
    cpu.push_sized(word(insn), value)
}

pub fn pop<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = word(insn);
    let value = cpu.peek_sized(bytes, 0)?;
    let old = cpu.reg(4);
    if insn.op_kind(0) == OpKind::Register && insn.op_register(0).is_segment_register() {
        let seg = segment_of(insn.op_register(0));
        cpu.load_segment(seg, value as u16)?;
        cpu.set_stack_pointer(old.wrapping_add(bytes as u64));
        if seg == Seg::Ss {
            cpu.block_by_mov_ss();
        }
        return Ok(());
    }
    // RSP moves before the destination's address is computed and before it is written.
    cpu.set_stack_pointer(old.wrapping_add(bytes as u64));
    let written = cpu.write_operand(insn, 0, value);
    if written.is_err() {
        cpu.gpr[4] = old;
    }
    written
}

/// PUSHA and POPA.
pub fn all<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = if matches!(insn.code(), Code::Pushaw | Code::Popaw) {
        2
    } else {
        4
    };
    let old = cpu.reg(4);
    if matches!(insn.mnemonic(), Mnemonic::Pusha | Mnemonic::Pushad) {
        for register in 0..8 {
            let value = if register == 4 {
                old
            } else {
                cpu.reg(register)
            };
            if let Err(fault) = cpu.push_sized(bytes, value) {
                cpu.gpr[4] = old;
                return Err(fault);
            }
        }
        return Ok(());
    }
    let mut values = [0; 8];
    for (place, value) in values.iter_mut().enumerate() {
        *value = cpu.peek_sized(bytes, (place * bytes) as u64)?;
    }
    for (place, value) in values.into_iter().enumerate() {
        let register = 7 - place as u8;
        match (register, bytes) {
            (4, _) => {}
            (_, 2) => cpu.set_reg(register, value as u16),
            _ => cpu.set_reg(register, value as u32),
        }
    }
    cpu.set_stack_pointer(old.wrapping_add(8 * bytes as u64));
    Ok(())
}

pub fn pushf<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    // RF and VM read as 0.
    let value = cpu.rflags() & !(flags::RF | flags::VM);
    cpu.push_sized(word(insn), value)
}

pub fn popf<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = word(insn);
    let value = cpu.pop_sized(bytes)?;
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if bytes > 2 {
        mask |= flags::AC | flags::ID;
    }
    if cpu.cpl == 0 {
        mask |= flags::IOPL;
    }
    if cpu.cpl <= cpu.iopl() {
        mask |= flags::IF;
    }
    let mut new = cpu.rflags() & !mask | value & mask;
    new &= !flags::RF;
    cpu.set_rflags(new);
    Ok(())
}

pub fn enter<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = match insn.code() {
        Code::Enterw_imm16_imm8 => 2,
        Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    };
    let level = u64::from(insn.immediate8_2nd() & 31);
    let old = (cpu.reg(4), cpu.reg(5));
    let result = (|| {
        cpu.push_sized(bytes, cut(old.1, bytes))?;
        let frame = cpu.reg(4);
        for n in 1..=level {
            let value = if n == level {
                cut(frame, bytes)
            } else {
                let pointer = old.1.wrapping_sub(n * bytes as u64);
                let address = cpu.stack_address(pointer, bytes, Access::Read)?;
                cpu.load_sized(address, bytes)?
            };
            cpu.push_sized(bytes, value)?;
        }
        let top = cpu.reg(4).wrapping_sub(u64::from(insn.immediate16()));
        // The new top must be writable, though nothing is written.
        let address = cpu.stack_address(top, bytes, Access::Write)?;
        cpu.probe_write(address.linear, bytes, true)?;
        cpu.set_stack_pointer(top);
        match bytes {
            2 => cpu.set_reg(5, frame as u16),
            4 => cpu.set_reg(5, frame as u32),
            _ => cpu.gpr[5] = frame,
        }
        Ok(())
    })();
    if result.is_err() {
        cpu.gpr[4] = old.0;
        cpu.gpr[5] = old.1;
    }
    result
}

pub fn leave<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = match insn.code() {
        Code::Leavew => 2,
        Code::Leaved => 4,
        _ => 8,
    };
    let address = cpu.stack_address(cpu.reg(5), bytes, Access::Read)?;
    let value = cpu.load_sized(address, bytes)?;
    cpu.set_stack_pointer(cpu.reg(5).wrapping_add(bytes as u64));
    match bytes {
        2 => cpu.set_reg(5, value as u16),
        4 => cpu.set_reg(5, value as u32),
        _ => cpu.gpr[5] = value,
    }
    Ok(())
}
