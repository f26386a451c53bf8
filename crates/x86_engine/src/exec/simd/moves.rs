//! Whole and half vector moves, broadcasts, insertions and extractions.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::Handler;
use super::operand::{is_vex, lanes, low};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::simd::lanes::{Lane, build};

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    let string_or_control = instruction.op_count() == 0;
    Some(match instruction.mnemonic() {
        // MOVSD and MOVQ are also other things; the string instruction is not ours.
        Movsd if instruction.is_string_instruction() => return None,
        Movaps | Movapd | Movups | Movupd | Movdqa | Movdqu | Lddqu | Movntps | Movntpd
        | Movntdq | Movntdqa | Vmovaps | Vmovapd | Vmovups | Vmovupd | Vmovdqa | Vmovdqu
        | Vlddqu | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa => whole,
        Movss | Vmovss | Movsd | Vmovsd => scalar,
        Movlps | Movlpd | Movhps | Movhpd | Movhlps | Movlhps | Vmovlps | Vmovlpd | Vmovhps
        | Vmovhpd | Vmovhlps | Vmovlhps => half,
        Vpbroadcastb | Vpbroadcastw | Vpbroadcastd | Vpbroadcastq | Vbroadcastss | Vbroadcastsd
        | Vbroadcastf128 | Vbroadcasti128 => broadcast,
        Vinsertf128 | Vinserti128 => insert_half,
        Vextractf128 | Vextracti128 => extract_half,
        Insertps | Vinsertps => insert_single,
        Vzeroupper | Vzeroall if string_or_control => zero,
        _ => return None,
    })
}

fn whole<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let value = cpu.read_vector_or_store(instruction)?;
    if let Some(value) = value {
        cpu.write_vector(instruction, value);
    }
    Ok(())
}

/// From memory the rest is zero; between registers it is the first source's.
fn scalar<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    if instruction.op_kind(0) == OpKind::Memory {
        return cpu.store_vector(instruction, cpu.vector(instruction.op_register(1)));
    }
    if instruction.op_kind(1) == OpKind::Memory {
        let value = cpu.read_vector(instruction, 1)?;
        cpu.write_vector(instruction, value);
        return Ok(());
    }
    let k = u32::from(is_vex(instruction));
    let first = cpu.vector(instruction.op_register(k))[0];
    let second = cpu.vector(instruction.op_register(k + 1))[0];
    let mask = if matches!(instruction.mnemonic(), Movss | Vmovss) {
        u128::from(u32::MAX)
    } else {
        u128::from(u64::MAX)
    };
    cpu.write_vector(instruction, [first & !mask | second & mask, 0]);
    Ok(())
}

fn half<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let high = matches!(
        instruction.mnemonic(),
        Movhps | Movhpd | Movlhps | Vmovhps | Vmovhpd | Vmovlhps
    );
    if instruction.op_kind(0) == OpKind::Memory {
        let value = cpu.vector(instruction.op_register(1))[0];
        return cpu.store_vector(instruction, [if high { value >> 64 } else { value }, 0]);
    }
    let k = u32::from(is_vex(instruction));
    let second = cpu.read_vector(instruction, k + 1)?[0];
    let first = cpu.vector(instruction.op_register(k))[0];
    let from_high = matches!(instruction.mnemonic(), Movhlps | Vmovhlps);
    let taken = u128::from(u64::get(second, usize::from(from_high)));
    let low_half = u128::from(u64::MAX);
    let result = if high {
        first & low_half | taken << 64
    } else {
        first & !low_half | taken
    };
    cpu.write_vector(instruction, [result, 0]);
    Ok(())
}

fn broadcast<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let source = cpu.read_vector(instruction, 1)?;
    let lane = match instruction.mnemonic() {
        Vpbroadcastb => build(|_| low::<u8>(source)),
        Vpbroadcastw => build(|_| low::<u16>(source)),
        Vpbroadcastd | Vbroadcastss => build(|_| low::<u32>(source)),
        Vpbroadcastq | Vbroadcastsd => build(|_| low::<u64>(source)),
        _ => source[0],
    };
    cpu.write_vector(instruction, [lane; 2]);
    Ok(())
}

fn insert_half<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let inserted = cpu.read_vector(instruction, 2)?[0];
    let mut result = cpu.vector(instruction.op_register(1));
    result[usize::from(instruction.immediate8() & 1)] = inserted;
    cpu.write_vector(instruction, result);
    Ok(())
}

fn extract_half<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let value = cpu.vector(instruction.op_register(1))[usize::from(instruction.immediate8() & 1)];
    if instruction.op_kind(0) == OpKind::Memory {
        return cpu.store_vector(instruction, [value, 0]);
    }
    // The source is a YMM register, the destination an XMM register: its upper half is cleared.
    cpu.vcpu.regs.fpu.ymm[instruction.op_register(0).number() & 15] = [value, 0];
    Ok(())
}

fn insert_single<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let k = u32::from(is_vex(instruction));
    let control = instruction.immediate8();
    let source = cpu.read_vector(instruction, k + 1)?[0];
    let from = if instruction.op_kind(k + 1) == OpKind::Memory {
        0
    } else {
        usize::from(control >> 6)
    };
    let element = u32::get(source, from);
    let first = cpu.vector(instruction.op_register(k))[0];
    let result = build(|i| match i {
        _ if control >> i & 1 != 0 => 0,
        _ if i == usize::from(control >> 4 & 3) => element,
        _ => u32::get(first, i),
    });
    cpu.write_vector(instruction, [result, 0]);
    Ok(())
}

fn zero<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let all = instruction.mnemonic() == Mnemonic::Vzeroall;
    // Outside 64-bit mode only the first eight are touched.
    let count = if cpu.is_64() { 16 } else { 8 };
    for register in &mut cpu.vcpu.regs.fpu.ymm[..count] {
        register[1] = 0;
        if all {
            register[0] = 0;
        }
    }
    Ok(())
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// The source, or nothing when it went to memory.
    fn read_vector_or_store(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Option<super::operand::Vector>, Fault> {
        if instruction.op_kind(0) == OpKind::Memory {
            debug_assert!(lanes(instruction) * 16 == instruction.memory_size().size());
            self.store_vector(instruction, self.vector(instruction.op_register(1)))?;
            return Ok(None);
        }
        Ok(Some(self.read_vector(instruction, 1)?))
    }
}
