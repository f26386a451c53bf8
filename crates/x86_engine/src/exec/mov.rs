//! Data movement: MOV, MOVZX, MOVSX, CMOVcc, SETcc, LEA, XCHG, MOVBE, conversions, direct stores.

use crate::cpu::{Cpu, Mode};
use crate::engine::MOV_SS_SHADOW;
use crate::fault::Fault;
use crate::operand::segment_of;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86_arch::vmx::Seg;
use x86_arch::{Access, RamPage};

/// MOV between general registers, memory, immediates and segment registers.
pub fn mov<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    if insn.op_kind(0) == OpKind::Register && insn.op_register(0).is_segment_register() {
        return to_segment(cpu, insn);
    }
    if insn.op_kind(1) == OpKind::Register && insn.op_register(1).is_segment_register() {
        let selector = cpu.register(insn.op_register(1));
        return if insn.op_kind(0) == OpKind::Memory {
            cpu.write_memory(insn, 2, selector)
        } else {
            cpu.write_operand(insn, 0, selector)
        };
    }
    let value = cpu.read_operand(insn, 1)?;
    cpu.write_operand(insn, 0, value)
}

fn to_segment<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let register = insn.op_register(0);
    if register == Register::CS {
        return Err(Fault::UD);
    }
    let selector = if insn.op_kind(1) == OpKind::Memory {
        cpu.read_memory(insn, 2)?
    } else {
        cpu.read_operand(insn, 1)?
    };
    let seg = segment_of(register);
    cpu.load_segment(seg, selector as u16)?;
    if seg == Seg::Ss {
        cpu.block_by_mov_ss();
    }
    Ok(())
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    pub(crate) fn block_by_mov_ss(&mut self) {
        self.vcpu.regs.interruptibility |= MOV_SS_SHADOW;
        self.attention = true;
    }
}

/// MOVZX, MOVSX, MOVSXD.
pub fn extend<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 1);
    let value = cpu.read_operand(insn, 1)?;
    let value = match (insn.mnemonic(), bytes) {
        (Mnemonic::Movzx, _) => value,
        (_, 1) => value as i8 as u64,
        (_, 2) => value as i16 as u64,
        _ => value as i32 as u64,
    };
    cpu.write_operand(insn, 0, value)
}

pub fn conditional<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
    code: u8,
) -> Result<(), Fault> {
    let met = cpu.flags.condition(code);
    // The source is read, and a 32-bit destination zero-extended, whether or not the condition holds.
    let source = cpu.read_operand(insn, 1)?;
    let value = if met {
        source
    } else {
        cpu.read_operand(insn, 0)?
    };
    cpu.write_operand(insn, 0, value)
}

pub fn set<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
    code: u8,
) -> Result<(), Fault> {
    let value = u64::from(cpu.flags.condition(code));
    cpu.write_operand(insn, 0, value)
}

pub fn lea<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let value = cpu.effective(insn);
    cpu.write_operand(insn, 0, value)
}

/// XCHG with memory is locked whatever its prefix says.
pub fn xchg<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let source = cpu.read_operand(insn, 1)?;
    let old = cpu.update_operand(insn, true, |old| (source, old))?;
    cpu.write_operand(insn, 1, old)
}

pub fn movbe<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let value = cpu.read_operand(insn, 1)?.swap_bytes() >> (64 - bytes * 8);
    cpu.write_operand(insn, 0, value)
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub fn convert<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let a = cpu.reg(0);
    match insn.mnemonic() {
        Mnemonic::Cbw => cpu.set_reg(0, a as i8 as u16),
        Mnemonic::Cwde => cpu.set_reg(0, a as i16 as u32),
        Mnemonic::Cdqe => cpu.gpr[0] = a as i32 as u64,
        Mnemonic::Cwd => cpu.set_reg(2, (a as i16 >> 15) as u16),
        Mnemonic::Cdq => cpu.set_reg(2, (a as i32 >> 31) as u32),
        _ => cpu.gpr[2] = (a as i64 >> 63) as u64,
    }
    Ok(())
}

pub fn xlat<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = insn.memory_base().size();
    let offset = crate::operand::cut(cpu.reg(3).wrapping_add(cpu.reg(0) & 0xFF), bytes);
    let seg = segment_of(insn.memory_segment());
    let address = cpu.in_segment(seg, offset, 1, Access::Read)?;
    let value = cpu.load_sized(address, 1)?;
    cpu.set_reg(0, value as u8);
    Ok(())
}

/// MOVDIR64B: 64 bytes from memory to the address in a register (ES, or DS in 64-bit mode, no override).
pub fn movdir64b<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let to = cpu.register(insn.op_register(0));
    let to = cpu.in_segment(Seg::Es, to, 64, Access::Write)?;
    if to.linear & 63 != 0 {
        return Err(Fault::GP0);
    }
    let from = cpu.address(insn, 64, Access::Read)?;
    let mut line = [0; 64];
    cpu.load_bytes(from.linear, &mut line, from.stack)?;
    cpu.store_bytes(to.linear, &line, to.stack)
}

/// LDS, LES, LFS, LGS, LSS.
pub fn far_pointer<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let register = insn.op_register(0);
    let bytes = register.size();
    let address = cpu.address(insn, bytes + 2, Access::Read)?;
    let offset = cpu.load_sized(address, bytes)?;
    let linear = cpu.wrap(address.linear.wrapping_add(bytes as u64));
    let selector = cpu.load_in::<u16>(linear, address.stack)?;
    let seg = match insn.mnemonic() {
        Mnemonic::Les => Seg::Es,
        Mnemonic::Lss => Seg::Ss,
        Mnemonic::Lfs => Seg::Fs,
        Mnemonic::Lgs => Seg::Gs,
        _ => Seg::Ds,
    };
    if seg == Seg::Ds && cpu.mode == Mode::Bits64 {
        return Err(Fault::UD);
    }
    cpu.load_segment(seg, selector)?;
    cpu.set_register(register, offset);
    Ok(())
}
