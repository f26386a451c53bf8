//! Counts, products, quotients, LEA, conversions and exchanges.

use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{NOT_BELOW, R15, RAX, RBX};
use crate::translate::block::{Builder, Step, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::copy::{aligned, copy, emit, part, point_at_r15};
use crate::translate::select::{Flags, Result, flags_die, operand_size};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// BSF, BSR, TZCNT, LZCNT: only the flags in `mask` (of LAHF's byte) change.
pub(super) fn count(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
    mask: u8,
) -> Result {
    b.lose_flags();
    copy(b, insn, Flags::Keeps)?;
    if flags_die(rest) {
        b.wrote_flags();
        return Ok(Step::Next);
    }
    b.asm.bytes(&[0x9F]); // lahf
    b.asm.bytes(&[0x44, 0x8B, 0x7D, at::FLAGS as u8]); // mov r15d, [rbp + FLAGS]
    b.asm.bytes(&[0x41, 0x81, 0xE7]); // and r15d, the others and OF
    b.asm.u32(u32::from(!mask) << 8 | 1);
    b.asm.bytes(&[0x25]); // and eax, mask
    b.asm.u32(u32::from(mask) << 8);
    b.asm.bytes(&[0x44, 0x09, 0xF8]); // or eax, r15d
    b.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]);
    b.stored_flags();
    Ok(Step::Next)
}

/// DIV of 32 and 64 bits, unless it faults. The flags stay as they are.
pub(super) fn divide(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = operand_size(insn, 0);
    if size < 4 {
        return Err(Unsupported);
    }
    let mut new = *insn;
    b.lose_flags();
    if insn.op_kind(0) == OpKind::Memory {
        b.operand(insn, false, size)?;
        if size == 8 {
            b.asm.load(R15, R15, 0);
        } else {
            b.asm.bytes(&[0x45, 0x8B, 0x3F]); // mov r15d, [r15]
        }
    } else {
        let guest = gpr_of(insn.op_register(0)).0;
        let host = b.value(guest, R15);
        b.asm.mov(R15, host);
    }
    new.set_op_kind(0, OpKind::Register);
    new.set_op_register(0, part(R15, size));
    // The quotient fits exactly when the upper half is less than the divisor, which therefore is not 0.
    if size == 8 {
        b.asm.bytes(&[0x4C, 0x39, 0xFA]); // cmp rdx, r15
    } else {
        b.asm.bytes(&[0x44, 0x39, 0xFA]); // cmp edx, r15d
    }
    b.leave_if(NOT_BELOW);
    b.asm.mov(RAX, RBX);
    emit(b, &new)?;
    b.asm.mov(RBX, RAX);
    Ok(Step::Next)
}

pub(super) fn lea(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = insn.op_register(0).size();
    let guest = gpr_of(insn.op_register(0)).0;
    b.effective(insn, R15)?;
    match (size, HOST[usize::from(guest)]) {
        (8, _) => b.set(guest, R15),
        (4, Some(host)) => {
            // mov r32, r15d
            b.asm
                .bytes(&[0x44 | host >> 3, 0x89, 0xC0 | 7 << 3 | host & 7]);
        }
        (4, None) => {
            b.asm.bytes(&[0x44, 0x89, 0xF8]); // mov eax, r15d
            b.asm.put(at::gpr(guest), RAX);
        }
        _ => return Err(Unsupported),
    }
    Ok(Step::Next)
}

/// Guest RAX is host RBX, guest RDX is host RDX.
pub(super) fn convert(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    match insn.mnemonic() {
        Mnemonic::Cdqe => b.asm.bytes(&[0x48, 0x63, 0xDB]), // movsxd rbx, ebx
        Mnemonic::Cwde => b.asm.bytes(&[0x0F, 0xBF, 0xDB]), // movsx ebx, bx
        Mnemonic::Cbw => b.asm.bytes(&[0x66, 0x0F, 0xBE, 0xDB]), // movsx bx, bl
        other => {
            b.asm.mov(RAX, RBX);
            match other {
                Mnemonic::Cdq => b.asm.bytes(&[0x99]),
                Mnemonic::Cqo => b.asm.bytes(&[0x48, 0x99]),
                _ => b.asm.bytes(&[0x66, 0x99]),
            }
        }
    }
    Ok(Step::Next)
}

/// MUL and IMUL of the accumulator.
pub(super) fn multiply(b: &mut Builder<'_>, insn: &Instruction, rest: &[Instruction]) -> Result {
    let mut new = *insn;
    let size = operand_size(insn, 0);
    match insn.op_kind(0) {
        OpKind::Memory => {
            b.operand(insn, false, size)?;
            point_at_r15(&mut new);
        }
        _ => {
            let (guest, shift) = gpr_of(insn.op_register(0));
            if shift != 0 {
                return Err(Unsupported);
            }
            let host = b.value(guest, R15);
            new.set_op_register(0, part(host, size));
        }
    }
    b.asm.mov(RAX, RBX);
    emit(b, &new)?;
    b.asm.mov(RBX, RAX);
    b.wrote_flags();
    if !flags_die(rest) {
        product_flags(b, RBX, size);
    }
    Ok(Step::Next)
}

/// After a multiplication CF and OF are the host's; SF, ZF and PF follow the low half of the product, AF is clear.
pub(super) fn product_flags(b: &mut Builder<'_>, low: u8, size: usize) {
    b.asm.bytes(&[0x0F, 0x90, 0xC0]); // seto al
    let prefix = 0x40 | (low >> 3) << 2 | low >> 3;
    let register = 0xC0 | (low & 7) << 3 | low & 7;
    match size {
        1 => b.asm.bytes(&[prefix, 0x84, register]),
        2 => b.asm.bytes(&[0x66, prefix, 0x85, register]),
        4 => b.asm.bytes(&[prefix, 0x85, register]),
        _ => b.asm.bytes(&[prefix | 8, 0x85, register]),
    }
    b.asm.bytes(&[0x9F, 0x08, 0xC4]); // lahf; or ah, al
    b.asm.bytes(&[0x89, 0x45, at::FLAGS as u8]);
    b.stored_flags();
}

pub(super) fn compare_exchange(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = operand_size(insn, 0);
    if insn.op_kind(0) != OpKind::Memory {
        return Err(Unsupported);
    }
    let (guest, shift) = gpr_of(insn.op_register(1));
    let Some(host) = HOST[usize::from(guest)] else {
        return Err(Unsupported);
    };
    if shift != 0 {
        return Err(Unsupported);
    }
    b.operand(insn, true, size)?;
    if insn.has_lock_prefix() {
        aligned(b, size);
    }
    let mut new = *insn;
    point_at_r15(&mut new);
    new.set_op_register(1, part(host, size));
    b.asm.mov(RAX, RBX);
    emit(b, &new)?;
    b.asm.mov(RBX, RAX);
    b.wrote_flags();
    Ok(Step::Next)
}
