//! Operations that work within 128-bit lanes, and those permutations across lanes that read two vectors.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::Handler;
use super::operand::{Vector, first_source, is_vex, low};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::simd::lanes::{Lane, build};
use crate::simd::{integer, sha, shift, shuffle};

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    let immediate = instruction.op_count() > 0
        && instruction.op_kind(instruction.op_count() - 1) == OpKind::Immediate8;
    Some(match mnemonic {
        _ if shift::shift(mnemonic).is_some() => shifts,
        _ if immediate && shuffle::binary_immediate(mnemonic).is_some() => binary_immediate,
        _ if immediate && shuffle::unary_immediate(mnemonic).is_some() => unary_immediate,
        _ if !immediate && integer::binary(mnemonic).is_some() => binary,
        _ if integer::unary(mnemonic).is_some() => unary,
        _ if shuffle::extend(mnemonic, 0).is_some() => extend,
        Sha1rnds4 | Sha1nexte | Sha1msg1 | Sha1msg2 | Sha256rnds2 | Sha256msg1 | Sha256msg2 => hash,
        Vpermq | Vpermpd | Vpermd | Vpermps | Vperm2f128 | Vperm2i128 => across,
        Pblendvb | Blendvps | Blendvpd | Vpblendvb | Vblendvps | Vblendvpd => blend,
        Ptest | Vptest | Vtestps | Vtestpd => test,
        _ => return None,
    })
}

fn binary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let f = integer::binary(instruction.mnemonic()).ok_or(Fault::UD)?;
    let k = first_source(instruction);
    let second = cpu.read_vector(instruction, k + 1)?;
    let first = cpu.vector(instruction.op_register(k));
    cpu.write_vector(
        instruction,
        [f(first[0], second[0]), f(first[1], second[1])],
    );
    Ok(())
}

fn unary<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let f = integer::unary(instruction.mnemonic()).ok_or(Fault::UD)?;
    let source = cpu.read_vector(instruction, 1)?;
    cpu.write_vector(instruction, source.map(f));
    Ok(())
}

fn shifts<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let f = shift::shift(instruction.mnemonic()).ok_or(Fault::UD)?;
    let k = first_source(instruction);
    let count = match instruction.op_kind(k + 1) {
        OpKind::Immediate8 => instruction.immediate8().into(),
        _ => low::<u64>(cpu.read_vector(instruction, k + 1)?),
    };
    let first = cpu.vector(instruction.op_register(k));
    cpu.write_vector(instruction, first.map(|lane| f(lane, count)));
    Ok(())
}

fn binary_immediate<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let f = shuffle::binary_immediate(instruction.mnemonic()).ok_or(Fault::UD)?;
    let (k, n) = (first_source(instruction), instruction.immediate8());
    let second = cpu.read_vector(instruction, k + 1)?;
    let first = cpu.vector(instruction.op_register(k));
    cpu.write_vector(
        instruction,
        [f(first[0], second[0], n, 0), f(first[1], second[1], n, 1)],
    );
    Ok(())
}

fn unary_immediate<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let f = shuffle::unary_immediate(instruction.mnemonic()).ok_or(Fault::UD)?;
    let n = instruction.immediate8();
    let source = cpu.read_vector(instruction, 1)?;
    cpu.write_vector(instruction, [f(0, source[0], n, 0), f(0, source[1], n, 1)]);
    Ok(())
}

fn extend<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let source = cpu.read_vector(instruction, 1)?[0];
    let result = shuffle::extend(instruction.mnemonic(), source).ok_or(Fault::UD)?;
    cpu.write_vector(instruction, result);
    Ok(())
}

fn hash<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let b = cpu.read_vector(instruction, 1)?[0];
    let a = cpu.vector(instruction.op_register(0))[0];
    let result = match instruction.mnemonic() {
        Mnemonic::Sha1rnds4 => sha::sha1_rounds(a, b, instruction.immediate8()),
        Mnemonic::Sha1nexte => sha::sha1_next_e(a, b),
        Mnemonic::Sha1msg1 => sha::sha1_message1(a, b),
        Mnemonic::Sha1msg2 => sha::sha1_message2(a, b),
        Mnemonic::Sha256rnds2 => sha::sha256_rounds(a, b, cpu.vcpu.regs.fpu.ymm[0][0]),
        Mnemonic::Sha256msg1 => sha::sha256_message1(a, b),
        _ => sha::sha256_message2(a, b),
    };
    cpu.write_vector(instruction, [result, 0]);
    Ok(())
}

fn across<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let result = match instruction.mnemonic() {
        Vpermq | Vpermpd => {
            shuffle::permute_quadwords(cpu.read_vector(instruction, 1)?, instruction.immediate8())
        }
        mnemonic => {
            let second = cpu.read_vector(instruction, 2)?;
            let first = cpu.vector(instruction.op_register(1));
            match mnemonic {
                Vpermd | Vpermps => shuffle::permute_doublewords(first, second),
                _ => shuffle::permute_halves(first, second, instruction.immediate8()),
            }
        }
    };
    cpu.write_vector(instruction, result);
    Ok(())
}

fn blend<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let k = first_source(instruction);
    let second = cpu.read_vector(instruction, k + 1)?;
    let first = cpu.vector(instruction.op_register(k));
    // The legacy form's mask is XMM0.
    let mask = if is_vex(instruction) {
        cpu.vector(instruction.op_register(3))
    } else {
        cpu.vcpu.regs.fpu.ymm[0]
    };
    fn choose<T: Lane>(a: u128, b: u128, mask: u128, negative: impl Fn(T) -> bool) -> u128 {
        build(|i| T::get(if negative(T::get(mask, i)) { b } else { a }, i))
    }
    let result: Vector = [0, 1].map(|i| match instruction.mnemonic() {
        Pblendvb | Vpblendvb => choose(first[i], second[i], mask[i], |x: i8| x < 0),
        Blendvps | Vblendvps => choose(first[i], second[i], mask[i], |x: i32| x < 0),
        _ => choose(first[i], second[i], mask[i], |x: i64| x < 0),
    });
    cpu.write_vector(instruction, result);
    Ok(())
}

/// ZF: no bit of both; CF: no bit of the second alone. VTESTPS and VTESTPD look at sign bits only.
fn test<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use crate::flags::{ARITHMETIC, CF, ZF};
    cpu.need_vectors(instruction)?;
    let second = cpu.read_vector(instruction, 1)?;
    let first = cpu.vector(instruction.op_register(0));
    let looked_at = match instruction.mnemonic() {
        Mnemonic::Vtestps => 0x8000_0000_8000_0000_8000_0000_8000_0000,
        Mnemonic::Vtestpd => 0x8000_0000_0000_0000_8000_0000_0000_0000,
        _ => u128::MAX,
    };
    let (mut both, mut second_alone) = (0, 0);
    for i in 0..super::operand::lanes(instruction) {
        both |= first[i] & second[i] & looked_at;
        second_alone |= !first[i] & second[i] & looked_at;
    }
    let zf = if both == 0 { ZF } else { 0 };
    let cf = if second_alone == 0 { CF } else { 0 };
    cpu.flags.set(ARITHMETIC, zf | cf);
    Ok(())
}
