//! ADD, ADC, SUB, SBB, CMP, INC, DEC, NEG, AND, OR, XOR, NOT, TEST, ADCX, ADOX.

use crate::alu;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::Flags;
use crate::width::Width;
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

fn compute<W: Width>(mnemonic: Mnemonic, f: &mut Flags, a: W, b: W) -> W {
    match mnemonic {
        Mnemonic::Add => alu::add(f, a, b),
        Mnemonic::Adc => alu::adc(f, a, b),
        Mnemonic::Sub | Mnemonic::Cmp => alu::sub(f, a, b),
        Mnemonic::Sbb => alu::sbb(f, a, b),
        Mnemonic::And | Mnemonic::Test => alu::and(f, a, b),
        Mnemonic::Or => alu::or(f, a, b),
        Mnemonic::Xor => alu::xor(f, a, b),
        Mnemonic::Inc => alu::inc(f, a),
        Mnemonic::Dec => alu::dec(f, a),
        Mnemonic::Neg => alu::neg(f, a),
        _ => !a,
    }
}

fn compute_sized(mnemonic: Mnemonic, f: &mut Flags, a: u64, b: u64, bytes: usize) -> u64 {
    match bytes {
        1 => compute(mnemonic, f, a as u8, b as u8).zext(),
        2 => compute(mnemonic, f, a as u16, b as u16).zext(),
        4 => compute(mnemonic, f, a as u32, b as u32).zext(),
        _ => compute(mnemonic, f, a, b),
    }
}

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let mnemonic = insn.mnemonic();
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let b = if insn.op_count() > 1 {
        cpu.read_operand(insn, 1)?
    } else {
        0
    };
    if matches!(mnemonic, Mnemonic::Cmp | Mnemonic::Test) {
        let a = cpu.read_operand(insn, 0)?;
        compute_sized(mnemonic, &mut cpu.flags, a, b, bytes);
        return Ok(());
    }
    let before = cpu.flags;
    cpu.flags = cpu.update_operand(insn, false, |a| {
        let mut f = before;
        let new = compute_sized(mnemonic, &mut f, a, b, bytes);
        (new, f)
    })?;
    Ok(())
}

/// ADCX and ADOX: addition with CF or OF alone as the carry.
pub fn carry_chain<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let b = cpu.read_operand(insn, 1)?;
    let a = cpu.read_operand(insn, 0)?;
    let with_cf = insn.mnemonic() == Mnemonic::Adcx;
    let carry = if with_cf {
        cpu.flags.cf()
    } else {
        cpu.flags.of()
    };
    let (sum, out) = if Cpu::<P>::operand_size(insn, 0) == 4 {
        let (sum, out, _) = (a as u32).add_carry(b as u32, carry);
        (sum.zext(), out)
    } else {
        let (sum, out, _) = a.add_carry(b, carry);
        (sum, out)
    };
    if with_cf {
        cpu.flags.set_cf(out);
    } else {
        cpu.flags.set_of(out);
    }
    cpu.write_operand(insn, 0, sum)
}

/// XADD and CMPXCHG.
pub fn exchange<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let source = cpu.read_operand(insn, 1)?;
    if insn.mnemonic() == Mnemonic::Xadd {
        let before = cpu.flags;
        // With the same register twice, the sum is what stays.
        if insn.op_kind(0) == OpKind::Register {
            let a = cpu.read_operand(insn, 0)?;
            let sum = compute_sized(Mnemonic::Add, &mut cpu.flags, a, source, bytes);
            cpu.set_register(insn.op_register(1), a);
            cpu.set_register(insn.op_register(0), sum);
            return Ok(());
        }
        let (old, f) = cpu.update_operand(insn, false, |a| {
            let mut f = before;
            let sum = compute_sized(Mnemonic::Add, &mut f, a, source, bytes);
            (sum, (a, f))
        })?;
        cpu.set_register(insn.op_register(1), old);
        cpu.flags = f;
        return Ok(());
    }
    let expected = crate::operand::cut(cpu.reg(0), bytes);
    let old = if insn.op_kind(0) == OpKind::Register {
        // When they differ the register stays as it is, its upper half included.
        let register = insn.op_register(0);
        let old = cpu.register(register);
        if old == expected {
            cpu.set_register(register, source);
        }
        old
    } else {
        cpu.update_operand(insn, false, |a| (if a == expected { source } else { a }, a))?
    };
    compute_sized(Mnemonic::Cmp, &mut cpu.flags, expected, old, bytes);
    if old != expected {
        match bytes {
            1 => cpu.set_reg(0, old as u8),
            2 => cpu.set_reg(0, old as u16),
            4 => cpu.set_reg(0, old as u32),
            _ => cpu.set_reg(0, old),
        }
    }
    Ok(())
}

/// CMPXCHG8B and CMPXCHG16B.
pub fn exchange_wide<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let zf = if insn.mnemonic() == Mnemonic::Cmpxchg8b {
        let expected = cpu.reg(0) & 0xFFFF_FFFF | cpu.reg(2) << 32;
        let new = cpu.reg(3) & 0xFFFF_FFFF | cpu.reg(1) << 32;
        let address = cpu.address(insn, 8, x86_arch::Access::Write)?;
        let old = cpu.update_sized(address, 8, insn.has_lock_prefix(), |a| {
            (if a == expected { new } else { a }, a)
        })?;
        if old != expected {
            cpu.set_reg(0, old as u32);
            cpu.set_reg(2, (old >> 32) as u32);
        }
        old == expected
    } else {
        let expected = u128::from(cpu.reg(0)) | u128::from(cpu.reg(2)) << 64;
        let new = u128::from(cpu.reg(3)) | u128::from(cpu.reg(1)) << 64;
        let address = cpu.address(insn, 16, x86_arch::Access::Write)?;
        match cpu.compare_exchange_u128(address.linear, expected, new, address.stack)? {
            Ok(_) => true,
            Err(old) => {
                cpu.gpr[0] = old as u64;
                cpu.gpr[2] = (old >> 64) as u64;
                false
            }
        }
    };
    let bits = if zf { crate::flags::ZF } else { 0 };
    cpu.flags.set(crate::flags::ZF, bits);
    Ok(())
}
