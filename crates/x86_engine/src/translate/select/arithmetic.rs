//! Counts, products, quotients, LEA, conversions and exchanges.

use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{NOT_ABOVE, NOT_BELOW, NOT_EQUAL, R10, R15, RAX, RBX};
use crate::translate::block::{Builder, Done, Step, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::copy::{Hosts, aligned, copy, emit, part, point_at_r15};
use crate::translate::select::{Flags, Result, flags_die, operand_size};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

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

/// The value of operand 0 in R15, zero-extended (or more, of a register). RAX and the host's flags are lost.
fn to_r15(b: &mut Builder<'_>, insn: &Instruction, size: usize) -> Done {
    if insn.op_kind(0) == OpKind::Memory {
        b.operand(insn, false, size)?;
        match size {
            1 => b.asm.bytes(&[0x45, 0x0F, 0xB6, 0x3F]), // movzx r15d, byte [r15]
            2 => b.asm.bytes(&[0x45, 0x0F, 0xB7, 0x3F]), // movzx r15d, word [r15]
            4 => b.asm.bytes(&[0x45, 0x8B, 0x3F]),       // mov r15d, [r15]
            _ => b.asm.load(R15, R15, 0),
        }
        return Ok(());
    }
    b.lose_flags();
    let (guest, shift) = gpr_of(insn.op_register(0));
    let host = b.value(guest, R15);
    if shift == 0 {
        b.asm.mov(R15, host);
    } else {
        b.asm.rotate_right(R15, host, 8);
    }
    Ok(())
}

/// DIV, unless it faults. The flags stay as they are.
pub(super) fn divide(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = operand_size(insn, 0);
    to_r15(b, insn, size)?;
    // The quotient fits exactly when the upper half is less than the divisor, which therefore is not 0.
    match size {
        1 => {
            b.asm.bytes(&[0x45, 0x0F, 0xB6, 0xFF]); // movzx r15d, r15b
            b.asm.bytes(&[0x41, 0xC1, 0xE7, 8]); // shl r15d, 8
            b.asm.bytes(&[0x66, 0x44, 0x39, 0xFB]); // cmp bx, r15w
        }
        2 => b.asm.bytes(&[0x66, 0x44, 0x39, 0xFA]), // cmp dx, r15w
        4 => b.asm.bytes(&[0x44, 0x39, 0xFA]),       // cmp edx, r15d
        _ => b.asm.bytes(&[0x4C, 0x39, 0xFA]),       // cmp rdx, r15
    }
    b.leave_if(NOT_BELOW);
    if size == 1 {
        b.asm.bytes(&[0x41, 0xC1, 0xEF, 8]); // shr r15d, 8
    }
    quotient(b, insn, size)
}

/// IDIV of 16 to 64 bits where the dividend is a sign-extended RAX and the divisor neither 0 nor -1, so that it
/// cannot fault. The flags stay as they are.
pub(super) fn divide_signed(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = operand_size(insn, 0);
    if size == 1 {
        return Err(Unsupported);
    }
    to_r15(b, insn, size)?;
    b.asm.lea(RAX, Some(R15), None, 1);
    match size {
        2 => b.asm.bytes(&[0x66, 0x83, 0xF8, 1]), // cmp ax, 1
        4 => b.asm.bytes(&[0x83, 0xF8, 1]),       // cmp eax, 1
        _ => b.asm.alu_imm(7, RAX, 1),
    }
    b.leave_if(NOT_ABOVE);
    b.asm.mov(RAX, RBX);
    match size {
        2 => b.asm.bytes(&[0x66, 0xC1, 0xF8, 15, 0x66, 0x39, 0xD0]), // sar ax, 15; cmp ax, dx
        4 => b.asm.bytes(&[0xC1, 0xF8, 31, 0x39, 0xD0]),             // sar eax, 31; cmp eax, edx
        _ => b.asm.bytes(&[0x48, 0xC1, 0xF8, 63, 0x48, 0x39, 0xD0]), // sar rax, 63; cmp rax, rdx
    }
    b.leave_if(NOT_EQUAL);
    quotient(b, insn, size)
}

/// The division itself, by R15.
fn quotient(b: &mut Builder<'_>, insn: &Instruction, size: usize) -> Result {
    let mut new = *insn;
    new.set_op_kind(0, OpKind::Register);
    new.set_op_register(0, part(R15, size));
    b.asm.mov(RAX, RBX);
    emit(b, &new)?;
    b.asm.mov(RBX, RAX);
    Ok(Step::Next)
}

pub(super) fn lea(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = insn.op_register(0).size();
    let guest = gpr_of(insn.op_register(0)).0;
    match (size, HOST[usize::from(guest)]) {
        (8, Some(host)) => b.effective(insn, host)?,
        (4, Some(host)) => {
            b.effective(insn, host)?;
            b.asm.cut(host);
        }
        (2, home) => {
            b.effective(insn, R15)?;
            let host = home.unwrap_or(RAX);
            if home.is_none() {
                b.asm.get(RAX, at::gpr(guest));
            }
            // mov r16, r15w
            b.asm
                .bytes(&[0x66, 0x44 | host >> 3, 0x89, 0xC0 | 7 << 3 | host & 7]);
            b.set(guest, host);
        }
        (_, None) => {
            b.effective(insn, R15)?;
            if size == 4 {
                b.asm.cut(R15);
            }
            b.asm.put(at::gpr(guest), R15);
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
            let mut host = b.value(guest, R15);
            if shift != 0 {
                b.asm.rotate_right(R15, host, 8);
                host = R15;
            }
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

/// CMPXCHG.
pub(super) fn compare_exchange(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = operand_size(insn, 0);
    let mut new = *insn;
    if insn.op_kind(0) == OpKind::Memory {
        b.operand(insn, true, size)?;
        if insn.has_lock_prefix() {
            aligned(b, size);
        }
        point_at_r15(&mut new);
    } else if insn.has_lock_prefix() {
        return Err(Unsupported);
    }
    let mut hosts = Hosts::new(insn);
    hosts.hold_rax();
    b.asm.mov(RAX, RBX);
    for n in 0..2 {
        if insn.op_kind(n) == OpKind::Register {
            new.set_op_register(n, hosts.take(b, insn.op_register(n))?);
        }
    }
    emit(b, &new)?;
    b.asm.mov(RBX, RAX);
    hosts.put_back(b, insn, 1);
    b.wrote_flags();
    Ok(Step::Next)
}

/// CMPXCHG8B and CMPXCHG16B: ZF alone changes.
pub(super) fn compare_exchange_wide(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let wide = insn.mnemonic() == Mnemonic::Cmpxchg16b;
    let size = if wide { 16 } else { 8 };
    b.operand(insn, true, size)?;
    if wide || insn.has_lock_prefix() {
        aligned(b, size);
    }
    b.restore_flags();
    let mut new = *insn;
    point_at_r15(&mut new);
    // Guest RBX is in R10, RCX and RDX are where the instruction wants them.
    b.asm.mov(RAX, RBX);
    b.asm.mov(RBX, R10);
    emit(b, &new)?;
    b.asm.mov(RBX, RAX);
    b.wrote_flags();
    Ok(Step::Next)
}

/// BT, BTS, BTR, BTC with the offset in a register, which reaches any bit of memory: CF alone changes.
pub(super) fn bit_of_memory(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = operand_size(insn, 1);
    let guest = gpr_of(insn.op_register(1)).0;
    b.bit_operand(insn, guest, insn.mnemonic() != Mnemonic::Bt, size)?;
    if insn.has_lock_prefix() {
        aligned(b, size);
    }
    let host = b.value(guest, RAX);
    b.asm.mov(RAX, host);
    b.asm.bytes(&[0x83, 0xE0, size as u8 * 8 - 1]); // and eax, the bits of the unit
    let mut new = *insn;
    point_at_r15(&mut new);
    new.set_op_register(1, part(RAX, size));
    emit(b, &new)?;
    b.asm.bytes(&[0x0F, 0x92, 0xC0]); // setc al
    b.asm.bytes(&[0x80, 0x65, at::FLAGS as u8 + 1, 0xFE]); // and byte [rbp + FLAGS + 1], ~CF
    b.asm.bytes(&[0x08, 0x45, at::FLAGS as u8 + 1]); // or [rbp + FLAGS + 1], al
    b.stored_flags();
    Ok(Step::Next)
}

/// LAHF: the frame has the byte.
pub(super) fn load_flags(b: &mut Builder<'_>) -> Result {
    b.save_flags();
    b.asm.bytes(&[0x8A, 0x7D, at::FLAGS as u8 + 1]); // mov bh, [rbp + FLAGS + 1]
    Ok(Step::Next)
}

/// SAHF: OF stays.
pub(super) fn store_flags(b: &mut Builder<'_>) -> Result {
    b.lose_flags();
    b.asm.bytes(&[0x0F, 0xB6, 0xC7]); // movzx eax, bh
    b.asm.bytes(&[0x24, 0xD5, 0x0C, 2]); // and al, the flags; or al, 2
    b.asm.bytes(&[0x88, 0x45, at::FLAGS as u8 + 1]); // mov [rbp + FLAGS + 1], al
    b.stored_flags();
    Ok(Step::Next)
}

/// XLATB: AL from [RBX + AL].
pub(super) fn look_up_byte(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    if insn.memory_base() != Register::RBX {
        return Err(Unsupported);
    }
    b.lose_flags();
    let retry = b.asm.here();
    b.asm.bytes(&[0x44, 0x0F, 0xB6, 0xFB]); // movzx r15d, bl
    b.asm.lea(R15, Some(R15), Some((R10, 0)), 0);
    b.add_segment(insn);
    b.check(retry, false, 1);
    b.asm.bytes(&[0x41, 0x8A, 0x1F]); // mov bl, [r15]
    Ok(Step::Next)
}
