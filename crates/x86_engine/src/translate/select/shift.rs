//! Shifts, double shifts, rotations through CF.

use crate::operand::gpr_of;
use crate::translate::asm::{R15, RAX};
use crate::translate::block::{Builder, Done, Step, Unsupported};
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

/// RCL and RCR of 8 and 16 bits by a constant. Where the manual leaves OF undefined it follows the last rotation by one
/// bit, as for the larger operands; what is left of a count of 9 or 17 may be none, which the interpreter deals with.
pub(super) fn rotate_through_carry(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let bits = operand_size(insn, 0) as u32 * 8;
    let mut new = *insn;
    if insn.op_kind(1) != OpKind::Immediate8 {
        return Err(Unsupported);
    }
    let count = u32::from(insn.immediate8()) % 32 % (bits + 1);
    if count == 0 {
        return Err(Unsupported);
    }
    new.set_immediate8(count as u8);
    copy(b, &new, Flags::Changes)?;
    Ok(Step::Next)
}

/// SHLD and SHRD on registers. OF tells whether the sign changed, also where the manual leaves it undefined.
pub(super) fn double_shift(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
) -> Result {
    let size = operand_size(insn, 0);
    let bits = if size == 8 { 63 } else { 31 };
    if insn.op_kind(0) != OpKind::Register {
        return Err(Unsupported);
    }
    let (guest, _) = gpr_of(insn.op_register(0));
    if insn.op_kind(2) != OpKind::Immediate8 {
        // By CL: the count has to be there afterwards.
        if size == 2 || guest == 1 {
            return Err(Unsupported);
        }
        b.lose_flags();
        sign_of_difference(b, insn, guest, size)?;
        b.asm.bytes(&[0xF6, 0xC1, bits]); // test cl, bits
        b.asm.bytes(&[0x0F, 0x44, 0x45, at::FLAGS as u8]); // cmovz eax, [rbp + FLAGS]
        b.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]);
        b.stored_flags();
        return Ok(Step::Next);
    }
    let count = insn.immediate8() & bits;
    if count == 0 {
        copy(b, insn, Flags::Keeps)?;
        return Ok(Step::Next);
    }
    if size == 2 && count > 15 {
        return Err(Unsupported);
    }
    if flags_die(rest) {
        copy(b, insn, Flags::Writes)?;
        return Ok(Step::Next);
    }
    sign_of_difference(b, insn, guest, size)?;
    b.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]);
    b.stored_flags();
    Ok(Step::Next)
}

/// Emits the double shift; EAX holds the flags as the frame has them, OF by the signs before and after, AF clear.
fn sign_of_difference(b: &mut Builder<'_>, insn: &Instruction, guest: u8, size: usize) -> Done {
    let field = at::SPARE + 16;
    let host = b.value(guest, RAX);
    b.asm.put(field, host);
    copy(b, insn, Flags::Keeps)?;
    b.asm.bytes(&[0x9F]); // lahf
    let host = b.value(guest, R15);
    let rex = 0x40 | u8::from(size == 8) << 3 | (host >> 3) << 2;
    if size == 2 {
        b.asm.bytes(&[0x66]);
    }
    b.asm.bytes(&[rex, 0x31, 0x85 | (host & 7) << 3]); // xor [rbp + field], the result
    b.asm.u32(field as u32);
    b.asm.bytes(&[0x0F, 0x98, 0xC0]); // sets al
    b.asm.bytes(&[0x80, 0xE4, 0xEF]); // and ah, ~AF
    Ok(())
}
