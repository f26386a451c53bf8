//! AVX2 gathers: each element of the result is loaded through its own index.

use iced_x86::{Instruction, Mnemonic, Register};
use x86_arch::{Access, RamPage};

use super::Handler;
use super::operand::Vector;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::operand::segment_of;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Vpgatherdd | Vgatherdps | Vpgatherdq | Vgatherdpd | Vpgatherqd | Vgatherqps
        | Vpgatherqq | Vgatherqpd => gather,
        _ => return None,
    })
}

/// Bits `[bits * index, +bits)` of a vector.
fn element(vector: Vector, bits: usize, index: usize) -> u64 {
    let per_lane = 128 / bits;
    (vector[index / per_lane] >> (bits * (index % per_lane)) & ((1 << bits) - 1)) as u64
}

fn replace(vector: &mut Vector, bits: usize, index: usize, value: u64) {
    let per_lane = 128 / bits;
    let shift = bits * (index % per_lane);
    let lane = &mut vector[index / per_lane];
    *lane = *lane & !(((1u128 << bits) - 1) << shift) | u128::from(value) << shift;
}

/// Elements are loaded from the lowest up; a fault leaves the mask elements already passed cleared, so that the
/// instruction can be restarted.
fn gather<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let (destination, index, mask) = (
        instruction.op_register(0),
        instruction.memory_index(),
        instruction.op_register(2),
    );
    let (d, x, m) = (
        destination.number() & 15,
        index.number() & 15,
        mask.number() & 15,
    );
    if d == x || d == m || x == m {
        return Err(Fault::UD);
    }
    let mnemonic = instruction.mnemonic();
    let bits = if matches!(mnemonic, Vpgatherdd | Vgatherdps | Vpgatherqd | Vgatherqps) {
        32
    } else {
        64
    };
    let index_bits = if matches!(mnemonic, Vpgatherdd | Vgatherdps | Vpgatherdq | Vgatherdpd) {
        32
    } else {
        64
    };
    let count = (destination.size() * 8 / bits).min(index.size() * 8 / index_bits);
    let base = instruction.memory_base();
    let narrow = base.size() == 4
        || base == Register::None && instruction.memory_displ_size() == 4
        || !cpu.is_64();
    let start = if base == Register::None {
        0
    } else {
        cpu.register(base)
    };
    let start = start.wrapping_add(instruction.memory_displacement64());
    let indices = cpu.vector(index);
    for i in 0..count {
        if element(cpu.vcpu.regs.fpu.ymm[m], bits, i) >> (bits - 1) & 1 == 0 {
            replace(&mut cpu.vcpu.regs.fpu.ymm[m], bits, i, 0);
            continue;
        }
        let raw = element(indices, index_bits, i);
        let index = if index_bits == 32 {
            raw as i32 as u64
        } else {
            raw
        };
        let offset =
            start.wrapping_add(index.wrapping_mul(u64::from(instruction.memory_index_scale())));
        let offset = if narrow { offset & 0xFFFF_FFFF } else { offset };
        let segment = segment_of(instruction.memory_segment());
        let address = cpu.in_segment(segment, offset, bits / 8, Access::Read)?;
        let value = cpu.load_wide(address, bits / 8)? as u64;
        let ymm = &mut cpu.vcpu.regs.fpu.ymm;
        replace(&mut ymm[d], bits, i, value);
        replace(&mut ymm[m], bits, i, 0);
    }
    // Elements beyond the count are zero, and the mask is used up.
    let ymm = &mut cpu.vcpu.regs.fpu.ymm;
    ymm[m] = [0; 2];
    for i in count..256 / bits {
        replace(&mut ymm[d], bits, i, 0);
    }
    Ok(())
}
