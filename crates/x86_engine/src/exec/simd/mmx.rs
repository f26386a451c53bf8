//! MMX: the 64-bit registers that lie in the x87 registers' significands.
//!
//! Most operations are those of the 128-bit forms on the low half; packing, horizontal and high-unpacking ones take
//! both operands as one 128-bit vector.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86_arch::{Access, RamPage};

use super::Handler;
use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::float::Format;
use crate::operand::{Address, segment_of};
use crate::simd::lanes::Lane;
use crate::simd::{float, integer, shift, shuffle};

/// FSW's exception summary: an x87 exception is pending.
const ES: u16 = 1 << 7;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    Some(match mnemonic {
        Movd | Movq | Movntq | Movq2dq | Movdq2q => moves,
        Pmovmskb | Pextrw => to_register,
        Pinsrw | Pshufw | Palignr => with_immediate,
        Maskmovq => masked_bytes,
        Cvtpi2ps | Cvtpi2pd => from_integers,
        Cvtps2pi | Cvttps2pi | Cvtpd2pi | Cvttpd2pi => to_integers,
        _ if shift::shift(mnemonic).is_some() => shifts,
        _ if integer::binary(mnemonic).is_some() => binary,
        _ if integer::unary(mnemonic).is_some() => unary,
        _ => return None,
    })
}

fn is_mm(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).is_mm()
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// #UD, #NM or #MF unless MMX can be used now.
    fn need_mmx(&self) -> Result<(), Fault> {
        let cr0 = self.cr0();
        if cr0 & bits::CR0_EM != 0 {
            return Err(Fault::UD);
        }
        if cr0 & bits::CR0_TS != 0 {
            return Err(Fault::NM);
        }
        if self.vcpu.regs.fpu.fsw & ES != 0 {
            return Err(Fault::MF);
        }
        Ok(())
    }

    /// Every MMX instruction makes all registers valid and the stack start at register 0.
    fn enter_mmx(&mut self) {
        let fpu = &mut self.vcpu.regs.fpu;
        fpu.fsw &= !(7 << 11);
        fpu.ftw = 0xFF;
    }

    fn mm(&self, register: Register) -> u64 {
        self.vcpu.regs.fpu.st[register.number() & 7] as u64
    }

    /// The exponent and sign of a written register read as ones.
    fn set_mm(&mut self, register: Register, value: u64) {
        self.enter_mmx();
        self.vcpu.regs.fpu.st[register.number() & 7] = 0xFFFF << 64 | u128::from(value);
    }

    /// An MMX register, a general-purpose register or memory.
    fn read_mm(&mut self, instruction: &Instruction, operand: u32) -> Result<u64, Fault> {
        if is_mm(instruction, operand) {
            return Ok(self.mm(instruction.op_register(operand)));
        }
        self.read_operand(instruction, operand)
    }
}

fn binary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_mmx()?;
    let mnemonic = instruction.mnemonic();
    let low = match mnemonic {
        Punpckhbw => Punpcklbw,
        Punpckhwd => Punpcklwd,
        Punpckhdq => Punpckldq,
        other => other,
    };
    let f = integer::binary(low).ok_or(Fault::UD)?;
    let b = u128::from(cpu.read_mm(instruction, 1)?);
    let destination = instruction.op_register(0);
    let a = u128::from(cpu.mm(destination));
    let result = match mnemonic {
        Packsswb | Packssdw | Packuswb | Phaddw | Phaddd | Phaddsw | Phsubw | Phsubd | Phsubsw => {
            f(a | b << 64, 0)
        }
        Punpckhbw | Punpckhwd | Punpckhdq => f(a, b) >> 64,
        Pshufb => f(a, b & 0x8787_8787_8787_8787),
        _ => f(a, b),
    };
    cpu.set_mm(destination, result as u64);
    Ok(())
}

fn unary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_mmx()?;
    let f = integer::unary(instruction.mnemonic()).ok_or(Fault::UD)?;
    let source = cpu.read_mm(instruction, 1)?;
    cpu.set_mm(instruction.op_register(0), f(source.into()) as u64);
    Ok(())
}

fn shifts<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_mmx()?;
    let f = shift::shift(instruction.mnemonic()).ok_or(Fault::UD)?;
    let count = match instruction.op_kind(1) {
        OpKind::Immediate8 => instruction.immediate8().into(),
        _ => cpu.read_mm(instruction, 1)?,
    };
    let destination = instruction.op_register(0);
    let value = f(cpu.mm(destination).into(), count);
    cpu.set_mm(destination, value as u64);
    Ok(())
}

fn moves<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_mmx()?;
    let source = match instruction.op_kind(1) {
        OpKind::Register if instruction.op_register(1).is_xmm() => {
            cpu.vector(instruction.op_register(1))[0] as u64
        }
        _ => cpu.read_mm(instruction, 1)?,
    };
    if is_mm(instruction, 0) {
        cpu.set_mm(instruction.op_register(0), source);
        return Ok(());
    }
    if instruction.op_kind(0) == OpKind::Register && instruction.op_register(0).is_xmm() {
        cpu.write_vector(instruction, [source.into(), 0]);
    } else {
        cpu.write_operand(instruction, 0, source)?;
    }
    cpu.enter_mmx();
    Ok(())
}

fn to_register<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_mmx()?;
    let source = cpu.mm(instruction.op_register(1));
    let value = if instruction.mnemonic() == Mnemonic::Pextrw {
        source >> (16 * (instruction.immediate8() & 3)) & 0xFFFF
    } else {
        (0..8).fold(0, |mask, i| mask | (source >> (8 * i + 7) & 1) << i)
    };
    cpu.enter_mmx();
    cpu.write_integer(instruction, value);
    Ok(())
}

fn with_immediate<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_mmx()?;
    let n = instruction.immediate8();
    let source = cpu.read_mm(instruction, 1)?;
    let destination = instruction.op_register(0);
    let old = cpu.mm(destination);
    let result = match instruction.mnemonic() {
        Mnemonic::Pinsrw => {
            let shift = 16 * (n & 3);
            old & !(0xFFFF << shift) | (source & 0xFFFF) << shift
        }
        Mnemonic::Palignr => {
            let both = u128::from(old) << 64 | u128::from(source);
            both.checked_shr(8 * u32::from(n)).unwrap_or(0) as u64
        }
        _ => {
            let f = shuffle::unary_immediate(Mnemonic::Pshuflw).ok_or(Fault::UD)?;
            f(0, source.into(), n, 0) as u64
        }
    };
    cpu.set_mm(destination, result);
    Ok(())
}

fn masked_bytes<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_mmx()?;
    let (source, mask) = (
        cpu.mm(instruction.op_register(1)),
        cpu.mm(instruction.op_register(2)),
    );
    let offset = match instruction.op_kind(0) {
        OpKind::MemorySegDI => cpu.register(Register::DI),
        OpKind::MemorySegEDI => cpu.register(Register::EDI),
        _ => cpu.register(Register::RDI),
    };
    // The registers are MMX's even when a store faults.
    cpu.enter_mmx();
    let chosen = |i: usize| u8::get(mask.into(), i) & 0x80 != 0;
    if (0..8).any(chosen) {
        let segment = segment_of(instruction.memory_segment());
        let Address { linear, stack } = cpu.in_segment(segment, offset, 8, Access::Write)?;
        for i in (0..8).filter(|&i| chosen(i)) {
            cpu.probe_write(cpu.wrap(linear.wrapping_add(i as u64)), 1, stack)?;
        }
        for i in (0..8).filter(|&i| chosen(i)) {
            let at = cpu.wrap(linear.wrapping_add(i as u64));
            cpu.store_in(at, u8::get(source.into(), i), stack)?;
        }
    }
    Ok(())
}

/// CVTPI2PS keeps the upper half of the destination. A memory source leaves the x87 state alone.
fn from_integers<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let single = instruction.mnemonic() == Mnemonic::Cvtpi2ps;
    let uses_mmx = is_mm(instruction, 1);
    if uses_mmx {
        cpu.need_mmx()?;
    }
    let source = cpu.read_mm(instruction, 1)?;
    let mut context = cpu.float_context();
    let (low, high) = (i64::from(source as i32), i64::from((source >> 32) as i32));
    let old = cpu.vector(instruction.op_register(0))[0];
    let result = if single {
        let low = float::from_integer(low, Format::SINGLE, &mut context);
        let high = float::from_integer(high, Format::SINGLE, &mut context);
        old >> 64 << 64 | u128::from(high << 32 | low)
    } else {
        let low = float::from_integer(low, Format::DOUBLE, &mut context);
        let high = float::from_integer(high, Format::DOUBLE, &mut context);
        u128::from(high) << 64 | u128::from(low)
    };
    if uses_mmx {
        cpu.enter_mmx();
    }
    cpu.finish_float(&context)?;
    cpu.write_vector(instruction, [result, 0]);
    Ok(())
}

fn to_integers<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    cpu.need_mmx()?;
    let source = cpu.read_vector(instruction, 1)?[0];
    let mnemonic = instruction.mnemonic();
    let truncate = matches!(mnemonic, Cvttps2pi | Cvttpd2pi);
    let mut context = cpu.float_context();
    let mut result = 0;
    for i in 0..2 {
        let element = if matches!(mnemonic, Cvtps2pi | Cvttps2pi) {
            float::to_integer(
                u32::get(source, i).into(),
                32,
                truncate,
                Format::SINGLE,
                &mut context,
            )
        } else {
            float::to_integer(
                u64::get(source, i),
                32,
                truncate,
                Format::DOUBLE,
                &mut context,
            )
        };
        result |= element << (32 * i);
    }
    // The registers are MMX's even when the conversion faults.
    cpu.enter_mmx();
    cpu.finish_float(&context)?;
    cpu.set_mm(instruction.op_register(0), result);
    Ok(())
}
