//! MUL, IMUL, DIV, IDIV, MULX and the decimal adjustments.

use crate::alu;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::{AF, CF};
use iced_x86::{Instruction, Mnemonic};
use x86_arch::RamPage;

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let mnemonic = insn.mnemonic();
    if mnemonic == Mnemonic::Mulx {
        return mulx(cpu, insn);
    }
    if mnemonic == Mnemonic::Imul && insn.op_count() > 1 {
        return imul(cpu, insn);
    }
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let b = cpu.read_operand(insn, 0)?;
    match mnemonic {
        Mnemonic::Mul => mul(cpu, bytes, b),
        Mnemonic::Imul => imul_wide(cpu, bytes, b),
        Mnemonic::Div => return div(cpu, bytes, b),
        _ => return idiv(cpu, bytes, b),
    }
    Ok(())
}

fn imul<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let (first, second) = if insn.op_count() == 3 { (1, 2) } else { (0, 1) };
    let a = cpu.read_operand(insn, first)?;
    let b = cpu.read_operand(insn, second)?;
    let f = &mut cpu.flags;
    let result = match Cpu::<P>::operand_size(insn, 0) {
        2 => u64::from(alu::imul(f, a as u16, b as u16)),
        4 => u64::from(alu::imul(f, a as u32, b as u32)),
        _ => alu::imul(f, a, b),
    };
    cpu.write_operand(insn, 0, result)
}

/// Writes a double-width product to AX, DX:AX, EDX:EAX or RDX:RAX.
fn set_product<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, product: u128) {
    match bytes {
        1 => cpu.set_reg(0, product as u16),
        2 => {
            cpu.set_reg(0, product as u16);
            cpu.set_reg(2, (product >> 16) as u16);
        }
        4 => {
            cpu.set_reg(0, product as u32);
            cpu.set_reg(2, (product >> 32) as u32);
        }
        _ => {
            cpu.gpr[0] = product as u64;
            cpu.gpr[2] = (product >> 64) as u64;
        }
    }
}

fn mul<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, b: u64) {
    let a = crate::operand::cut(cpu.reg(0), bytes);
    let product = u128::from(a) * u128::from(b);
    let high = product >> (bytes * 8) != 0;
    set_flags(cpu, bytes, product as u64, high);
    set_product(cpu, bytes, product);
}

fn imul_wide<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, b: u64) {
    let a = sign_extended(cpu.reg(0), bytes);
    let product = i128::from(a) * i128::from(sign_extended(b, bytes));
    let lost = product != i128::from(sign_extended(product as u64, bytes));
    set_flags(cpu, bytes, product as u64, lost);
    set_product(cpu, bytes, product as u128);
}

/// CF and OF tell whether the upper half matters; SF, ZF, PF follow the lower half (undefined by the manual).
fn set_flags<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, low: u64, lost: bool) {
    let f = &mut cpu.flags;
    match bytes {
        1 => f.set_result(low as u8, lost, lost),
        2 => f.set_result(low as u16, lost, lost),
        4 => f.set_result(low as u32, lost, lost),
        _ => f.set_result(low, lost, lost),
    }
}

fn sign_extended(value: u64, bytes: usize) -> i64 {
    match bytes {
        1 => i64::from(value as i8),
        2 => i64::from(value as i16),
        4 => i64::from(value as i32),
        _ => value as i64,
    }
}

fn dividend<P: RamPage + 'static>(cpu: &Cpu<'_, P>, bytes: usize) -> u128 {
    let (a, d) = (u128::from(cpu.reg(0)), u128::from(cpu.reg(2)));
    match bytes {
        1 => a & 0xFFFF,
        2 => a & 0xFFFF | (d & 0xFFFF) << 16,
        4 => a & 0xFFFF_FFFF | (d & 0xFFFF_FFFF) << 32,
        _ => a | d << 64,
    }
}

fn set_quotient<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, q: u64, r: u64) {
    match bytes {
        1 => cpu.set_reg(0, (q & 0xFF | (r & 0xFF) << 8) as u16),
        2 => {
            cpu.set_reg(0, q as u16);
            cpu.set_reg(2, r as u16);
        }
        4 => {
            cpu.set_reg(0, q as u32);
            cpu.set_reg(2, r as u32);
        }
        _ => {
            cpu.gpr[0] = q;
            cpu.gpr[2] = r;
        }
    }
}

fn div<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, b: u64) -> Result<(), Fault> {
    if b == 0 {
        return Err(Fault::DE);
    }
    let a = dividend(cpu, bytes);
    // The common case without 128-bit division.
    let (q, r) = if a >> 64 == 0 {
        (u128::from(a as u64 / b), a as u64 % b)
    } else {
        (a / u128::from(b), (a % u128::from(b)) as u64)
    };
    if q >> (bytes * 8) != 0 {
        return Err(Fault::DE);
    }
    set_quotient(cpu, bytes, q as u64, r);
    Ok(())
}

fn idiv<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, bytes: usize, b: u64) -> Result<(), Fault> {
    let b = i128::from(sign_extended(b, bytes));
    if b == 0 {
        return Err(Fault::DE);
    }
    let shift = 128 - bytes as u32 * 16;
    let a = (dividend(cpu, bytes) << shift) as i128 >> shift;
    let (Some(q), Some(r)) = (a.checked_div(b), a.checked_rem(b)) else {
        return Err(Fault::DE);
    };
    if q != i128::from(sign_extended(q as u64, bytes)) {
        return Err(Fault::DE);
    }
    set_quotient(cpu, bytes, q as u64, r as u64);
    Ok(())
}

fn mulx<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let b = cpu.read_operand(insn, 2)?;
    let (low, high) = if Cpu::<P>::operand_size(insn, 0) == 8 {
        let product = u128::from(cpu.reg(2)) * u128::from(b);
        (product as u64, (product >> 64) as u64)
    } else {
        let product = (cpu.reg(2) & 0xFFFF_FFFF) * b;
        (product & 0xFFFF_FFFF, product >> 32)
    };
    // The high half wins when both destinations are the same register.
    cpu.write_operand(insn, 1, low)?;
    cpu.write_operand(insn, 0, high)
}

/// AAA, AAS, AAM, AAD, DAA, DAS.
pub fn decimal<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let al = cpu.reg(0) as u8;
    let ah = (cpu.reg(0) >> 8) as u8;
    let af = cpu.flags.af();
    let cf = cpu.flags.cf();
    match insn.mnemonic() {
        Mnemonic::Aam => {
            let base = insn.immediate8();
            if base == 0 {
                return Err(Fault::DE);
            }
            cpu.set_reg(0, u16::from(al % base) | u16::from(al / base) << 8);
            cpu.flags.set_logic(al % base);
        }
        Mnemonic::Aad => {
            let result = al.wrapping_add(ah.wrapping_mul(insn.immediate8()));
            cpu.set_reg(0, u16::from(result));
            cpu.flags.set_logic(result);
        }
        Mnemonic::Aaa | Mnemonic::Aas => {
            let adjust = al & 0xF > 9 || af;
            let ax = cpu.reg(0) as u16;
            let ax = match (adjust, insn.mnemonic()) {
                (true, Mnemonic::Aaa) => ax.wrapping_add(0x106),
                (true, _) => ax.wrapping_sub(0x106),
                _ => ax,
            };
            cpu.set_reg(0, ax & 0xFF0F);
            cpu.flags.set(CF | AF, if adjust { CF | AF } else { 0 });
        }
        other => {
            let add = other == Mnemonic::Daa;
            let mut result = al;
            let mut bits = 0;
            if al & 0xF > 9 || af {
                result = if add {
                    result.wrapping_add(6)
                } else {
                    result.wrapping_sub(6)
                };
                bits |= AF;
                if !add && al < 6 {
                    bits |= CF;
                }
            }
            if al > 0x99 || cf {
                result = if add {
                    result.wrapping_add(0x60)
                } else {
                    result.wrapping_sub(0x60)
                };
                bits |= CF;
            }
            if add && cf {
                bits |= CF;
            }
            cpu.set_reg(0, result);
            cpu.flags.set_logic(result);
            cpu.flags.set(CF | AF, bits);
        }
    }
    Ok(())
}
