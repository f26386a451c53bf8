//! Shifts, double shifts.

use crate::operand::gpr_of;
use crate::translate::block::{Builder, Step, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::copy::copy;
use crate::translate::select::{Flags, Result, flags_die, operand_size};
use iced_x86::{Instruction, OpKind};

/// SHL, SHR, SAR. By a constant all flags change or none; by CL that is seen when it runs.
pub(super) fn shift(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let bits = if operand_size(insn, 0) == 8 { 63 } else { 31 };
    if insn.op_kind(1) == OpKind::Immediate8 {
        if insn.immediate8() & bits == 0 {
            copy(b, insn, Flags::Keeps)?;
        } else {
            copy(b, insn, Flags::Writes)?;
            b.shifted_flags();
        }
        return Ok(Step::Next);
    }
    b.lose_flags();
    if insn.op_kind(0) == OpKind::Register && gpr_of(insn.op_register(0)).0 == 1 {
        // The count is gone afterwards.
        b.asm.bytes(&[0x41, 0x89, 0xCF]); // mov r15d, ecx
        copy(b, insn, Flags::Keeps)?;
        b.asm.bytes(&[0x9F, 0x0F, 0x90, 0xC0, 0x80, 0xE4, 0xEF]);
        b.asm.bytes(&[0x41, 0xF6, 0xC7, bits]); // test r15b, bits
        b.asm.bytes(&[0x0F, 0x44, 0x45, at::FLAGS as u8]);
        b.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]);
        b.stored_flags();
        return Ok(Step::Next);
    }
    copy(b, insn, Flags::Keeps)?;
    b.asm.bytes(&[0x9F, 0x0F, 0x90, 0xC0]); // lahf; seto al
    b.asm.bytes(&[0x80, 0xE4, 0xEF]); // and ah, ~AF
    b.asm.bytes(&[0xF6, 0xC1, bits]); // test cl, bits
    b.asm.bytes(&[0x0F, 0x44, 0x45, at::FLAGS as u8]); // cmovz eax, [rbp + FLAGS]
    b.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]);
    b.stored_flags();
    Ok(Step::Next)
}

/// SHLD and SHRD by a constant, on registers: OF is the interpreter's rule where the manual leaves it undefined.
pub(super) fn double_shift(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
) -> Result {
    let size = operand_size(insn, 0);
    let bits = if size == 8 { 63 } else { 31 };
    if insn.op_kind(2) != OpKind::Immediate8
        || insn.immediate8() & bits == 0
        || size == 2
        || !flags_die(rest)
    {
        return Err(Unsupported);
    }
    copy(b, insn, Flags::Writes)?;
    Ok(Step::Next)
}
