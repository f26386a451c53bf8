//! Moves between vectors and general-purpose registers: MOVD, MOVQ, PINSR, PEXTR, masks of sign bits.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::Handler;
use super::operand::{is_vex, lanes};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::simd::lanes::Lane;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Movd | Vmovd | Movq | Vmovq => move_low,
        Pinsrb | Pinsrw | Pinsrd | Pinsrq | Vpinsrb | Vpinsrw | Vpinsrd | Vpinsrq => insert,
        Pextrb | Pextrw | Pextrd | Pextrq | Extractps | Vpextrb | Vpextrw | Vpextrd | Vpextrq
        | Vextractps => extract,
        Pmovmskb | Movmskps | Movmskpd | Vpmovmskb | Vmovmskps | Vmovmskpd => sign_mask,
        _ => return None,
    })
}

fn is_vector(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register
        && instruction.op_register(operand).is_vector_register()
}

/// The low 32 or 64 bits; a vector destination gets zeros above.
fn move_low<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let quad = matches!(instruction.mnemonic(), Movq | Vmovq);
    let mask = if quad { u64::MAX } else { 0xFFFF_FFFF };
    if is_vector(instruction, 0) {
        let value = if is_vector(instruction, 1) {
            cpu.vector(instruction.op_register(1))[0] as u64
        } else {
            cpu.read_integer(instruction, 1)?
        };
        cpu.write_vector(instruction, [u128::from(value & mask), 0]);
        return Ok(());
    }
    let value = cpu.vector(instruction.op_register(1))[0] as u64 & mask;
    if instruction.op_kind(0) == OpKind::Memory {
        return cpu.store_vector(instruction, [value.into(), 0]);
    }
    cpu.write_integer(instruction, value);
    Ok(())
}

/// log2 of the element's bytes.
fn element(mnemonic: Mnemonic) -> u32 {
    use Mnemonic::*;
    match mnemonic {
        Pinsrb | Vpinsrb | Pextrb | Vpextrb => 0,
        Pinsrw | Vpinsrw | Pextrw | Vpextrw => 1,
        Pinsrq | Vpinsrq | Pextrq | Vpextrq => 3,
        _ => 2,
    }
}

/// Element width in bits and the shift to the element that the immediate names.
fn place(instruction: &Instruction) -> (u32, u32) {
    let log = element(instruction.mnemonic());
    let index = u32::from(instruction.immediate8()) & ((16 >> log) - 1);
    (8 << log, index * (8 << log))
}

fn insert<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let k = u32::from(is_vex(instruction));
    let value = cpu.read_integer(instruction, k + 1)?;
    let (bits, shift) = place(instruction);
    let mask = ((1u128 << bits) - 1) << shift;
    let first = cpu.vector(instruction.op_register(k))[0];
    cpu.write_vector(
        instruction,
        [first & !mask | u128::from(value) << shift & mask, 0],
    );
    Ok(())
}

fn extract<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let (bits, shift) = place(instruction);
    let value = cpu.vector(instruction.op_register(1))[0] >> shift & ((1u128 << bits) - 1);
    if instruction.op_kind(0) == OpKind::Memory {
        return cpu.store_vector(instruction, [value, 0]);
    }
    cpu.write_integer(instruction, value as u64);
    Ok(())
}

fn sign_mask<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let source = cpu.vector(instruction.op_register(1));
    fn signs<T: Lane>(v: u128, negative: impl Fn(T) -> bool) -> u64 {
        (0..T::COUNT).fold(0, |mask, i| mask | u64::from(negative(T::get(v, i))) << i)
    }
    let mut mask = 0;
    for (i, lane) in source.iter().enumerate().take(lanes(instruction)) {
        mask |= match instruction.mnemonic() {
            Pmovmskb | Vpmovmskb => signs(*lane, |x: i8| x < 0) << (16 * i),
            Movmskps | Vmovmskps => signs(*lane, |x: i32| x < 0) << (4 * i),
            _ => signs(*lane, |x: i64| x < 0) << (2 * i),
        };
    }
    cpu.write_integer(instruction, mask);
    Ok(())
}
