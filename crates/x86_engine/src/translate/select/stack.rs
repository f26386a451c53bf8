//! PUSH, POP, LEAVE.

use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{R15, RAX};
use crate::translate::block::{Builder, STACK, Step, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::Result;
use iced_x86::{Code, Instruction, OpKind};

pub(super) fn push(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    match insn.code() {
        Code::Push_r64 | Code::Push_rm64 if insn.op_kind(0) == OpKind::Register => {
            let guest = gpr_of(insn.op_register(0)).0;
            b.stack(-8, true, 8);
            let host = b.value(guest, RAX);
            b.asm.store(R15, 0, host);
        }
        Code::Push_rm64 => {
            b.operand(insn, false, 8)?;
            b.asm.load(RAX, R15, 0);
            b.asm.put(at::SPARE + 8, RAX);
            b.stack(-8, true, 8);
            b.asm.get(RAX, at::SPARE + 8);
            b.asm.store(R15, 0, RAX);
        }
        Code::Pushq_imm8 | Code::Pushq_imm32 => {
            b.stack(-8, true, 8);
            b.asm.mov_imm(RAX, insn.immediate(0));
            b.asm.store(R15, 0, RAX);
        }
        _ => return Err(Unsupported),
    }
    b.asm.lea(STACK, Some(STACK), None, -8);
    Ok(Step::Next)
}

pub(super) fn pop(b: &mut Builder<'_>, insn: &Instruction) -> Result {
    if insn.op_kind(0) != OpKind::Register || !matches!(insn.code(), Code::Pop_r64 | Code::Pop_rm64)
    {
        return Err(Unsupported);
    }
    let guest = gpr_of(insn.op_register(0)).0;
    b.stack(0, false, 8);
    b.asm.lea(STACK, Some(STACK), None, 8);
    match HOST[usize::from(guest)] {
        Some(host) => b.asm.load(host, R15, 0),
        None => {
            b.asm.load(RAX, R15, 0);
            b.asm.put(at::gpr(guest), RAX);
        }
    }
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
