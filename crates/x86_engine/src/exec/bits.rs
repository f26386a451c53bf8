//! Bit tests, scans and counts, BMI1 and BMI2 bit fields, BSWAP, CRC32.

use crate::alu;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::{CF, ZF};
use crate::operand::cut;
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::{Access, RamPage};

/// BT, BTS, BTR, BTC. A register offset reaches any bit of memory.
pub fn test<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let bits = bytes as u64 * 8;
    let offset = cpu.read_operand(insn, 1)?;
    let mnemonic = insn.mnemonic();
    let mask = 1u64 << (offset & (bits - 1));
    let change = move |value: u64| {
        let new = match mnemonic {
            Mnemonic::Bts => value | mask,
            Mnemonic::Btr => value & !mask,
            Mnemonic::Btc => value ^ mask,
            _ => value,
        };
        (new, value & mask != 0)
    };
    let was = if insn.op_kind(0) == OpKind::Memory {
        let access = if mnemonic == Mnemonic::Bt {
            Access::Read
        } else {
            Access::Write
        };
        let mut place = cpu.effective(insn);
        if insn.op_kind(1) == OpKind::Register {
            let signed = match bytes {
                2 => i64::from(offset as i16),
                4 => i64::from(offset as i32),
                _ => offset as i64,
            };
            let step = (signed >> bits.trailing_zeros()).wrapping_mul(bytes as i64);
            place = place.wrapping_add(step as u64);
            place = cut(place, cpu.address_size(insn));
        }
        let seg = crate::operand::segment_of(insn.memory_segment());
        let address = cpu.in_segment(seg, place, bytes, access)?;
        if mnemonic == Mnemonic::Bt {
            change(cpu.load_sized(address, bytes)?).1
        } else {
            cpu.update_sized(address, bytes, insn.has_lock_prefix(), change)?
        }
    } else if mnemonic == Mnemonic::Bt {
        cpu.read_operand(insn, 0)? & mask != 0
    } else {
        cpu.update_operand(insn, false, change)?
    };
    cpu.flags.set_cf(was);
    Ok(())
}

/// BSF, BSR, TZCNT, LZCNT, POPCNT.
pub fn count<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let bits = bytes as u32 * 8;
    let value = cpu.read_operand(insn, 1)?;
    let leading = value.leading_zeros() - (64 - bits);
    match insn.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr => {
            if value == 0 {
                // The destination keeps its value, 32-bit forms included.
                cpu.flags.set(ZF, ZF);
                return Ok(());
            }
            let result = if insn.mnemonic() == Mnemonic::Bsf {
                value.trailing_zeros()
            } else {
                bits - 1 - leading
            };
            cpu.flags.set(ZF, 0);
            cpu.write_operand(insn, 0, u64::from(result))
        }
        Mnemonic::Popcnt => {
            cpu.flags
                .set(crate::flags::ARITHMETIC, if value == 0 { ZF } else { 0 });
            cpu.write_operand(insn, 0, u64::from(value.count_ones()))
        }
        other => {
            let result = if other == Mnemonic::Tzcnt {
                value.trailing_zeros().min(bits)
            } else {
                leading
            };
            let mut flags = 0;
            if value == 0 {
                flags |= CF;
            }
            if result == 0 {
                flags |= ZF;
            }
            cpu.flags.set(CF | ZF, flags);
            cpu.write_operand(insn, 0, u64::from(result))
        }
    }
}

/// ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT.
pub fn fields<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let bits = bytes as u64 * 8;
    let a = cpu.read_operand(insn, 1)?;
    let b = if insn.op_count() > 2 {
        cpu.read_operand(insn, 2)?
    } else {
        0
    };
    let mut cf = false;
    let mut sets_flags = true;
    let result = match insn.mnemonic() {
        Mnemonic::Andn => !a & b,
        Mnemonic::Bextr => {
            let start = b & 0xFF;
            let length = b >> 8 & 0xFF;
            let shifted = if start >= bits { 0 } else { a >> start };
            if length >= 64 {
                shifted
            } else {
                shifted & ((1 << length) - 1)
            }
        }
        Mnemonic::Blsi => {
            cf = a != 0;
            a & a.wrapping_neg()
        }
        Mnemonic::Blsmsk => {
            cf = a == 0;
            a ^ a.wrapping_sub(1)
        }
        Mnemonic::Blsr => {
            cf = a == 0;
            a & a.wrapping_sub(1)
        }
        Mnemonic::Bzhi => {
            let n = b & 0xFF;
            cf = n >= bits;
            if n >= bits { a } else { a & ((1 << n) - 1) }
        }
        Mnemonic::Pdep => {
            sets_flags = false;
            alu::pdep(a, b)
        }
        _ => {
            sets_flags = false;
            alu::pext(a, b)
        }
    };
    if sets_flags {
        match bytes {
            4 => cpu.flags.set_result(result as u32, cf, false),
            _ => cpu.flags.set_result(result, cf, false),
        }
    }
    cpu.write_operand(insn, 0, result)
}

pub fn bswap<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let value = cpu.read_operand(insn, 0)?;
    let result = match Cpu::<P>::operand_size(insn, 0) {
        8 => value.swap_bytes(),
        4 => u64::from((value as u32).swap_bytes()),
        // Undefined by the manual; processors clear the register.
        _ => 0,
    };
    cpu.write_operand(insn, 0, result)
}

pub fn crc32<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 1);
    let value = cpu.read_operand(insn, 1)?;
    let crc = cpu.read_operand(insn, 0)? as u32;
    cpu.write_operand(insn, 0, u64::from(alu::crc32c(crc, value, bytes)))
}
