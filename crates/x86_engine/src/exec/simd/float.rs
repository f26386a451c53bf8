//! SSE and AVX floating-point arithmetic, comparison and rounding, and FMA3.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::Handler;
use super::operand::{Vector, first_source, is_vex, lanes};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::ARITHMETIC;
use crate::float::Context;
use crate::simd::float::{self, PD, PS, SD, SS, Shape};
use crate::simd::fma;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    Some(match mnemonic {
        Cmpsd if instruction.is_string_instruction() => return None,
        _ if float::binary(mnemonic).is_some() => binary,
        _ if float::unary(mnemonic).is_some() => unary,
        _ if float::pairwise(mnemonic).is_some() => pairwise,
        _ if fma::spelling(mnemonic).is_some() => fused,
        _ if comparison_shape(mnemonic).is_some() => compare,
        _ if rounding_shape(mnemonic).is_some() => round,
        Dpps | Dppd | Vdpps | Vdppd => dot_product,
        Comiss | Comisd | Ucomiss | Ucomisd | Vcomiss | Vcomisd | Vucomiss | Vucomisd => {
            compare_flags
        }
        _ => return None,
    })
}

/// Applies `f` to each 128-bit lane, takes the exceptions, writes the result.
fn each_lane<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
    mut f: impl FnMut(usize, &mut Context) -> u128,
) -> Result<(), Fault> {
    let mut context = cpu.float_context();
    let mut result: Vector = [0; 2];
    for (i, lane) in result.iter_mut().enumerate().take(lanes(instruction)) {
        *lane = f(i, &mut context);
    }
    cpu.finish_float(&context)?;
    cpu.write_vector(instruction, result);
    Ok(())
}

fn two_sources<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(Vector, Vector), Fault> {
    cpu.need_vectors(instruction)?;
    let k = first_source(instruction);
    let second = cpu.read_vector(instruction, k + 1)?;
    Ok((cpu.vector(instruction.op_register(k)), second))
}

fn binary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let (a, b) = two_sources(cpu, instruction)?;
    let (shape, f) = float::binary(instruction.mnemonic()).ok_or(Fault::UD)?;
    each_lane(cpu, instruction, |i, context| {
        shape.apply(a[i], b[i], |x, y| f(x, y, shape.format, context))
    })
}

/// Packed forms have one source. Scalar VEX forms have two: the first gives the upper elements.
fn unary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let (shape, f) = float::unary(instruction.mnemonic()).ok_or(Fault::UD)?;
    let (a, b) = sources_of_unary(cpu, instruction, shape)?;
    each_lane(cpu, instruction, |i, context| {
        shape.apply(a[i], b[i], |x, y| f(x, y, shape.format, context))
    })
}

fn sources_of_unary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
    shape: Shape,
) -> Result<(Vector, Vector), Fault> {
    if !shape.packed {
        return two_sources(cpu, instruction);
    }
    cpu.need_vectors(instruction)?;
    let source = cpu.read_vector(instruction, 1)?;
    Ok((source, source))
}

fn pairwise<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let (a, b) = two_sources(cpu, instruction)?;
    let (shape, kind) = float::pairwise(instruction.mnemonic()).ok_or(Fault::UD)?;
    each_lane(cpu, instruction, |i, context| {
        float::apply_pairwise(shape, kind, a[i], b[i], context)
    })
}

fn fused<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let (order, kind, shape) = fma::spelling(instruction.mnemonic()).ok_or(Fault::UD)?;
    let third = cpu.read_vector(instruction, 2)?;
    let first = cpu.vector(instruction.op_register(0));
    let second = cpu.vector(instruction.op_register(1));
    each_lane(cpu, instruction, |i, context| {
        fma::apply(order, kind, shape, [first[i], second[i], third[i]], context)
    })
}

fn comparison_shape(mnemonic: Mnemonic) -> Option<Shape> {
    use Mnemonic::*;
    Some(match mnemonic {
        Cmpps | Vcmpps => PS,
        Cmppd | Vcmppd => PD,
        Cmpss | Vcmpss => SS,
        Cmpsd | Vcmpsd => SD,
        _ => return None,
    })
}

fn compare<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let (a, b) = two_sources(cpu, instruction)?;
    let shape = comparison_shape(instruction.mnemonic()).ok_or(Fault::UD)?;
    // The legacy forms know eight predicates.
    let control = instruction.immediate8() & if is_vex(instruction) { 31 } else { 7 };
    each_lane(cpu, instruction, |i, context| {
        shape.apply(a[i], b[i], |x, y| {
            float::compare(x, y, control, shape.format, context)
        })
    })
}

fn compare_flags<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let mnemonic = instruction.mnemonic();
    let shape = if matches!(mnemonic, Comiss | Ucomiss | Vcomiss | Vucomiss) {
        SS
    } else {
        SD
    };
    let signalling = matches!(mnemonic, Comiss | Comisd | Vcomiss | Vcomisd);
    let b = cpu.read_vector(instruction, 1)?;
    let a = cpu.vector(instruction.op_register(0));
    let mut context = cpu.float_context();
    let (x, y) = (shape.get(a[0], 0), shape.get(b[0], 0));
    let flags = float::compare_flags(x, y, signalling, shape.format, &mut context);
    cpu.finish_float(&context)?;
    cpu.flags.set(ARITHMETIC, flags);
    Ok(())
}

fn rounding_shape(mnemonic: Mnemonic) -> Option<Shape> {
    use Mnemonic::*;
    Some(match mnemonic {
        Roundps | Vroundps => PS,
        Roundpd | Vroundpd => PD,
        Roundss | Vroundss => SS,
        Roundsd | Vroundsd => SD,
        _ => return None,
    })
}

fn round<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let shape = rounding_shape(instruction.mnemonic()).ok_or(Fault::UD)?;
    let (a, b) = sources_of_unary(cpu, instruction, shape)?;
    let control = instruction.immediate8();
    each_lane(cpu, instruction, |i, context| {
        shape.apply(a[i], b[i], |_, y| {
            float::round_to_integral(y, control, shape.format, context)
        })
    })
}

fn dot_product<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let (a, b) = two_sources(cpu, instruction)?;
    let shape = if matches!(instruction.mnemonic(), Mnemonic::Dpps | Mnemonic::Vdpps) {
        PS
    } else {
        PD
    };
    debug_assert!(instruction.op_kind(instruction.op_count() - 1) == OpKind::Immediate8);
    let control = instruction.immediate8();
    let mut context = cpu.float_context();
    let result = float::dot_products(a, b, lanes(instruction), control, shape, &mut context);
    cpu.finish_float(&context)?;
    cpu.write_vector(instruction, result);
    Ok(())
}
