//! Shifts and rotates, double shifts, and the BMI2 forms without flags.

use crate::alu;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::Flags;
use crate::width::Width;
use iced_x86::{Instruction, Mnemonic};
use x86_arch::RamPage;

fn compute<W: Width>(mnemonic: Mnemonic, f: &mut Flags, a: W, n: u64) -> W {
    match mnemonic {
        Mnemonic::Shl | Mnemonic::Sal => alu::shl(f, a, n),
        Mnemonic::Shr => alu::shr(f, a, n),
        Mnemonic::Sar => alu::sar(f, a, n),
        Mnemonic::Rol => alu::rol(f, a, n),
        Mnemonic::Ror => alu::ror(f, a, n),
        Mnemonic::Rcl => alu::rcl(f, a, n),
        _ => alu::rcr(f, a, n),
    }
}

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let mnemonic = insn.mnemonic();
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let n = cpu.read_operand(insn, 1)?;
    let before = cpu.flags;
    cpu.flags = cpu.update_operand(insn, false, |a| {
        let mut f = before;
        let new = match bytes {
            1 => compute(mnemonic, &mut f, a as u8, n).zext(),
            2 => compute(mnemonic, &mut f, a as u16, n).zext(),
            4 => compute(mnemonic, &mut f, a as u32, n).zext(),
            _ => compute(mnemonic, &mut f, a, n),
        };
        (new, f)
    })?;
    Ok(())
}

/// SHLD and SHRD.
pub fn double<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let left = insn.mnemonic() == Mnemonic::Shld;
    let bytes = Cpu::<P>::operand_size(insn, 0);
    let b = cpu.read_operand(insn, 1)?;
    let n = cpu.read_operand(insn, 2)?;
    let before = cpu.flags;
    cpu.flags = cpu.update_operand(insn, false, |a| {
        let mut f = before;
        let f_ref = &mut f;
        let new = match (bytes, left) {
            (2, true) => alu::shld(f_ref, a as u16, b as u16, n).zext(),
            (2, false) => alu::shrd(f_ref, a as u16, b as u16, n).zext(),
            (4, true) => alu::shld(f_ref, a as u32, b as u32, n).zext(),
            (4, false) => alu::shrd(f_ref, a as u32, b as u32, n).zext(),
            (_, true) => alu::shld(f_ref, a, b, n),
            (_, false) => alu::shrd(f_ref, a, b, n),
        };
        (new, f)
    })?;
    Ok(())
}

/// RORX, SARX, SHLX, SHRX.
pub fn without_flags<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let wide = Cpu::<P>::operand_size(insn, 0) == 8;
    let a = cpu.read_operand(insn, 1)?;
    let n = cpu.read_operand(insn, 2)? as u32 & if wide { 63 } else { 31 };
    let result = match insn.mnemonic() {
        Mnemonic::Rorx if wide => a.rotate_right(n),
        Mnemonic::Rorx => u64::from((a as u32).rotate_right(n)),
        Mnemonic::Sarx if wide => ((a as i64) >> n) as u64,
        Mnemonic::Sarx => ((a as i32) >> n) as u32 as u64,
        Mnemonic::Shlx => a << n,
        _ => a >> n,
    };
    cpu.write_operand(insn, 0, result)
}
