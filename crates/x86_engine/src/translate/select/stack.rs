//! PUSH, POP, LEAVE.

use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{R15, RAX};
use crate::translate::block::{Builder, STACK, Step, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::Result;
use iced_x86::{Code, Instruction, OpKind, Register};

/// PUSH of a register, a number or memory, 8 or 2 bytes.
pub(super) fn push(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = match insn.code() {
        Code::Push_r64 | Code::Push_rm64 | Code::Pushq_imm8 | Code::Pushq_imm32 => 8,
        Code::Push_r16 | Code::Push_rm16 | Code::Pushw_imm8 | Code::Push_imm16 => 2,
        _ => return Err(Unsupported),
    };
    let host = match insn.op_kind(0) {
        OpKind::Register => {
            let guest = gpr_of(insn.op_register(0)).0;
            b.stack(-size, true, size as usize);
            b.value(guest, RAX)
        }
        OpKind::Memory => {
            b.operand(insn, false, size as usize)?;
            load(b, RAX, size);
            b.asm.put(at::SPARE + 8, RAX);
            b.stack(-size, true, size as usize);
            b.asm.get(RAX, at::SPARE + 8);
            RAX
        }
        _ => {
            b.stack(-size, true, size as usize);
            b.asm.mov_imm(RAX, insn.immediate(0));
            RAX
        }
    };
    store(b, host, size);
    b.asm.lea(STACK, Some(STACK), None, -size);
    Ok(Step::Next)
}

/// `mov host, [r15]`, 8 bytes, or 2 into the low half of the low half.
fn load(b: &mut Builder<'_>, host: u8, size: i32) {
    match size {
        8 => b.asm.load(host, R15, 0),
        _ => b
            .asm
            .bytes(&[0x66, 0x41 | (host >> 3) << 2, 0x8B, 7 | (host & 7) << 3]),
    }
}

/// `mov [r15], host`, 8 or 2 bytes.
fn store(b: &mut Builder<'_>, host: u8, size: i32) {
    match size {
        8 => b.asm.store(R15, 0, host),
        _ => b
            .asm
            .bytes(&[0x66, 0x41 | (host >> 3) << 2, 0x89, 7 | (host & 7) << 3]),
    }
}

/// POP to a register or memory, 8 or 2 bytes.
pub(super) fn pop(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    let size = match insn.code() {
        Code::Pop_r64 | Code::Pop_rm64 => 8,
        Code::Pop_r16 | Code::Pop_rm16 => 2,
        _ => return Err(Unsupported),
    };
    b.stack(0, false, size as usize);
    if insn.op_kind(0) == OpKind::Memory {
        load(b, RAX, size);
        b.asm.put(at::SPARE + 8, RAX);
        // The address is computed with the new RSP, which is not there before the store succeeded.
        let mut new = *insn;
        if matches!(insn.memory_base(), Register::RSP | Register::ESP) {
            let displacement = insn.memory_displacement64();
            new.set_memory_displacement64(displacement.wrapping_add(size as u64));
        }
        b.operand(&new, true, size as usize)?;
        b.asm.get(RAX, at::SPARE + 8);
        store(b, RAX, size);
        b.asm.lea(STACK, Some(STACK), None, size);
        return Ok(Step::Next);
    }
    let guest = gpr_of(insn.op_register(0)).0;
    b.asm.lea(STACK, Some(STACK), None, size);
    let host = match HOST[usize::from(guest)] {
        Some(host) => host,
        None if size == 8 => RAX,
        None => b.value(guest, RAX),
    };
    load(b, host, size);
    b.set(guest, host);
    Ok(Step::Next)
}

/// LEAVE: RSP becomes RBP + 8, and RBP what lay at its old value.
pub(super) fn leave(b: &mut Builder<'_>) -> Result {
    let Some(rbp) = HOST[5] else {
        return Err(Unsupported);
    };
    b.lose_flags();
    let retry = b.asm.here();
    b.asm.mov(R15, rbp);
    b.check(retry, false, 8);
    b.asm.lea(STACK, Some(rbp), None, 8);
    b.asm.load(rbp, R15, 0);
    Ok(Step::Next)
}
