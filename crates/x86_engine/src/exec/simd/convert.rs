//! Conversions between integers and floating point, and between precisions.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::Handler;
use super::operand::{Vector, is_vex};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::float::Format;
use crate::simd::float;
use crate::simd::lanes::Lane;

const SINGLE: Format = Format::SINGLE;
const DOUBLE: Format = Format::DOUBLE;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Cvtdq2ps | Vcvtdq2ps | Cvtps2dq | Vcvtps2dq | Cvttps2dq | Vcvttps2dq | Cvtdq2pd
        | Vcvtdq2pd | Cvtpd2dq | Vcvtpd2dq | Cvttpd2dq | Vcvttpd2dq | Cvtps2pd | Vcvtps2pd
        | Cvtpd2ps | Vcvtpd2ps | Vcvtph2ps => packed,
        Cvtss2sd | Vcvtss2sd | Cvtsd2ss | Vcvtsd2ss | Cvtsi2ss | Vcvtsi2ss | Cvtsi2sd
        | Vcvtsi2sd => to_scalar,
        Cvtss2si | Vcvtss2si | Cvttss2si | Vcvttss2si | Cvtsd2si | Vcvtsd2si | Cvttsd2si
        | Vcvttsd2si => to_register,
        Vcvtps2ph => to_halves,
        _ => return None,
    })
}

/// Elements of `bits` bits in a 256-bit vector.
fn get(vector: Vector, bits: usize, index: usize) -> u64 {
    let per_lane = 128 / bits;
    let lane = vector[index / per_lane & 1] >> (bits * (index % per_lane));
    (lane & ((1 << bits) - 1)) as u64
}
fn put(vector: &mut Vector, bits: usize, index: usize, value: u64) {
    let per_lane = 128 / bits;
    vector[index / per_lane & 1] |= u128::from(value) << (bits * (index % per_lane));
}

/// Bytes of the source operand.
fn source_size(instruction: &Instruction, operand: u32) -> usize {
    match instruction.op_kind(operand) {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op_register(operand).size(),
    }
}

fn packed<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let mnemonic = instruction.mnemonic();
    let source = cpu.read_vector(instruction, 1)?;
    let (from, to) = match mnemonic {
        Cvtdq2ps | Vcvtdq2ps | Cvtps2dq | Vcvtps2dq | Cvttps2dq | Vcvttps2dq => (32, 32),
        Cvtdq2pd | Vcvtdq2pd | Cvtps2pd | Vcvtps2pd => (32, 64),
        Vcvtph2ps => (16, 32),
        _ => (64, 32),
    };
    // As many elements as the wider side has.
    let size = if to > from {
        instruction.op_register(0).size()
    } else {
        source_size(instruction, 1)
    };
    let count = size * 8 / from.max(to);
    let mut context = cpu.float_context();
    let mut result: Vector = [0; 2];
    for i in 0..count {
        let x = get(source, from, i);
        let element = match mnemonic {
            Cvtdq2ps | Vcvtdq2ps => float::from_integer(x as i32 as i64, SINGLE, &mut context),
            Cvtdq2pd | Vcvtdq2pd => float::from_integer(x as i32 as i64, DOUBLE, &mut context),
            Cvtps2dq | Vcvtps2dq => float::to_integer(x, 32, false, SINGLE, &mut context),
            Cvttps2dq | Vcvttps2dq => float::to_integer(x, 32, true, SINGLE, &mut context),
            Cvtpd2dq | Vcvtpd2dq => float::to_integer(x, 32, false, DOUBLE, &mut context),
            Cvttpd2dq | Vcvttpd2dq => float::to_integer(x, 32, true, DOUBLE, &mut context),
            Cvtps2pd | Vcvtps2pd => float::convert(x, SINGLE, DOUBLE, &mut context),
            Vcvtph2ps => float::from_half(x as u16, &mut context).into(),
            _ => float::convert(x, DOUBLE, SINGLE, &mut context),
        };
        put(&mut result, to, i, element);
    }
    cpu.finish_float(&context)?;
    cpu.write_vector(instruction, result);
    Ok(())
}

/// The result replaces the low element; the rest is the first source's.
fn to_scalar<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let k = u32::from(is_vex(instruction));
    let mut context = cpu.float_context();
    let single = matches!(
        instruction.mnemonic(),
        Cvtsd2ss | Vcvtsd2ss | Cvtsi2ss | Vcvtsi2ss
    );
    let format = if single { SINGLE } else { DOUBLE };
    let element = match instruction.mnemonic() {
        Cvtss2sd | Vcvtss2sd => {
            let x = cpu.read_vector(instruction, k + 1)?;
            float::convert(get(x, 32, 0), SINGLE, DOUBLE, &mut context)
        }
        Cvtsd2ss | Vcvtsd2ss => {
            let x = cpu.read_vector(instruction, k + 1)?;
            float::convert(get(x, 64, 0), DOUBLE, SINGLE, &mut context)
        }
        _ => {
            let x = cpu.read_integer(instruction, k + 1)?;
            let x = if source_size(instruction, k + 1) == 8 {
                x as i64
            } else {
                i64::from(x as i32)
            };
            float::from_integer(x, format, &mut context)
        }
    };
    cpu.finish_float(&context)?;
    let bits = if single { 32 } else { 64 };
    let first = cpu.vector(instruction.op_register(k))[0];
    cpu.write_vector(
        instruction,
        [first >> bits << bits | u128::from(element), 0],
    );
    Ok(())
}

fn to_register<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let source = cpu.read_vector(instruction, 1)?;
    let mut context = cpu.float_context();
    let mnemonic = instruction.mnemonic();
    let truncate = matches!(mnemonic, Cvttss2si | Vcvttss2si | Cvttsd2si | Vcvttsd2si);
    let bits = 8 * instruction.op_register(0).size() as u32;
    let value = if matches!(mnemonic, Cvtss2si | Vcvtss2si | Cvttss2si | Vcvttss2si) {
        float::to_integer(get(source, 32, 0), bits, truncate, SINGLE, &mut context)
    } else {
        float::to_integer(get(source, 64, 0), bits, truncate, DOUBLE, &mut context)
    };
    cpu.finish_float(&context)?;
    cpu.write_integer(instruction, value);
    Ok(())
}

fn to_halves<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let source = cpu.vector(instruction.op_register(1));
    let mut context = cpu.float_context();
    let mut result: Vector = [0; 2];
    for i in 0..instruction.op_register(1).size() / 4 {
        let half = float::to_half(
            u32::get(source[i / 4], i % 4),
            instruction.immediate8(),
            &mut context,
        );
        put(&mut result, 16, i, half.into());
    }
    if instruction.op_kind(0) == OpKind::Memory {
        // A page fault comes before the exceptions of the arithmetic are seen.
        let size = instruction.memory_size().size();
        let address = self::probe(cpu, instruction, size)?;
        cpu.finish_float(&context)?;
        return cpu.store_bytes(
            address.linear,
            &result[0].to_le_bytes()[..size],
            address.stack,
        );
    }
    cpu.finish_float(&context)?;
    cpu.write_vector(instruction, result);
    Ok(())
}

fn probe<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
    size: usize,
) -> Result<crate::operand::Address, Fault> {
    let address = cpu.address(instruction, size, x86_arch::Access::Write)?;
    cpu.probe_write(address.linear, size, address.stack)?;
    Ok(address)
}
