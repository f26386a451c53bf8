//! Masked loads and stores, and MXCSR to and from memory.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86_arch::{Access, RamPage};

use super::Handler;
use super::operand::{Vector, lanes};
use crate::cpu::{Cpu, Mode};
use crate::fault::Fault;
use crate::operand::{Address, segment_of};
use crate::simd::lanes::Lane;
use crate::simd::xstate::MXCSR_MASK;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Vmaskmovps | Vpmaskmovd | Vmaskmovpd | Vpmaskmovq => masked_move,
        Maskmovdqu | Vmaskmovdqu => masked_bytes,
        Ldmxcsr | Vldmxcsr => load_control,
        Stmxcsr | Vstmxcsr => store_control,
        _ => return None,
    })
}

/// Elements whose mask has its sign bit set are moved; the others are not accessed at all.
fn masked_move<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let size = if matches!(instruction.mnemonic(), Vmaskmovps | Vpmaskmovd) {
        4
    } else {
        8
    };
    let mask = cpu.vector(instruction.op_register(1));
    let store = instruction.op_kind(0) == OpKind::Memory;
    let access = if store { Access::Write } else { Access::Read };
    let per_lane = 16 / size;
    let chosen = |i: usize| mask[i / per_lane] >> (8 * size * (i % per_lane + 1) - 1) & 1 != 0;
    let count = lanes(instruction) * per_lane;
    let mut result: Vector = [0; 2];
    let source = if store {
        cpu.vector(instruction.op_register(2))
    } else {
        [0; 2]
    };
    if (0..count).any(chosen) {
        // The first chosen element's address stands for the segment checks.
        let Address { linear, stack } = cpu.address(instruction, 1, access)?;
        let at = |i: usize| linear.wrapping_add((i * size) as u64);
        if store {
            for i in (0..count).filter(|&i| chosen(i)) {
                cpu.probe_write(cpu.wrap(at(i)), size, stack)?;
            }
        }
        for i in (0..count).filter(|&i| chosen(i)) {
            let shift = 8 * size * (i % per_lane);
            let address = Address {
                linear: cpu.wrap(at(i)),
                stack,
            };
            if store {
                cpu.store_bytes(
                    address.linear,
                    &(source[i / per_lane] >> shift).to_le_bytes()[..size],
                    stack,
                )?;
            } else {
                result[i / per_lane] |= cpu.load_wide(address, size)? << shift;
            }
        }
    }
    if !store {
        cpu.write_vector(instruction, result);
    }
    Ok(())
}

fn masked_bytes<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let source = cpu.vector(instruction.op_register(1))[0];
    let mask = cpu.vector(instruction.op_register(2))[0];
    let offset = match instruction.op_kind(0) {
        OpKind::MemorySegDI => cpu.register(Register::DI),
        OpKind::MemorySegEDI => cpu.register(Register::EDI),
        _ => cpu.register(Register::RDI),
    };
    let chosen = |i: usize| u8::get(mask, i) & 0x80 != 0;
    if !(0..16).any(chosen) {
        return Ok(());
    }
    let segment = segment_of(instruction.memory_segment());
    let Address { linear, stack } = cpu.in_segment(segment, offset, 16, Access::Write)?;
    for i in (0..16).filter(|&i| chosen(i)) {
        cpu.probe_write(cpu.wrap(linear.wrapping_add(i as u64)), 1, stack)?;
    }
    for i in (0..16).filter(|&i| chosen(i)) {
        let at = cpu.wrap(linear.wrapping_add(i as u64));
        cpu.store_in(at, u8::get(source, i), stack)?;
    }
    Ok(())
}

fn load_control<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    let value = cpu.read_vector(instruction, 0)?[0] as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(Fault::GP0);
    }
    cpu.vcpu.regs.fpu.mxcsr = value;
    Ok(())
}

fn store_control<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    cpu.need_vectors(instruction)?;
    debug_assert!(cpu.mode != Mode::Bits16 || instruction.op_count() == 1);
    let value = cpu.vcpu.regs.fpu.mxcsr;
    cpu.store_vector(instruction, [value.into(), 0])
}
