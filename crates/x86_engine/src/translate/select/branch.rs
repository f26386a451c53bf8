//! Jumps, calls and returns.

use crate::operand::gpr_of;
use crate::translate::asm::{ABOVE, EQUAL, NOT_EQUAL, R15, RAX, RCX};
use crate::translate::block::{Builder, Done, STACK, Step, Unsupported, next_of};
use crate::translate::entry::at;
use crate::translate::select::{Known, Result};
use iced_x86::{Code, Instruction, OpKind};

/// Branch targets outside the 48-bit canonical range need the full check.
fn is_plain(target: u64) -> bool {
    target.wrapping_add(1 << 47) >> 48 == 0
}

/// Whether a direct branch is one whose target a block may go on at.
pub fn leads_to_target(insn: &Instruction) -> bool {
    let jumps = insn.is_jcc_short_or_near() || insn.is_jmp_short_or_near();
    jumps && !operand_is_short(insn) && is_plain(insn.near_branch64())
}

pub(super) fn conditional_branch(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
    code: u8,
    known: Known<'_>,
) -> Result {
    let target = insn.near_branch64();
    if !leads_to_target(insn) {
        return Err(Unsupported);
    }
    if !b.live {
        b.restore_flags();
    }
    if next_of(insn, rest) != insn.next_ip() {
        // Another round of a loop.
        b.leave_block_if(code ^ 1, insn.next_ip());
        return Ok(Step::Next);
    }
    if b.branch_if(code, target, known) {
        return Ok(Step::Next);
    }
    b.go(insn.next_ip(), known);
    Ok(Step::End)
}

/// JRCXZ, JECXZ and LOOP.
pub(super) fn counted_branch(b: &mut Builder<'_>, insn: &Instruction, known: Known<'_>) -> Result {
    let target = insn.near_branch64();
    if !is_plain(target) {
        return Err(Unsupported);
    }
    let (narrow, counts) = match insn.code() {
        Code::Jrcxz_rel8_64 => (false, false),
        Code::Jecxz_rel8_64 => (true, false),
        Code::Loop_rel8_64_RCX => (false, true),
        Code::Loop_rel8_64_ECX => (true, true),
        _ => return Err(Unsupported),
    };
    b.lose_flags();
    if counts {
        b.asm.lea(RCX, Some(RCX), None, -1);
        if narrow {
            b.asm.cut(RCX);
        }
    }
    if narrow {
        b.asm.bytes(&[0x85, 0xC9]); // test ecx, ecx
    } else {
        b.asm.bytes(&[0x48, 0x85, 0xC9]); // test rcx, rcx
    }
    let code = if counts { NOT_EQUAL } else { EQUAL };
    if b.branch_if(code, target, known) {
        return Ok(Step::Next);
    }
    b.go(insn.next_ip(), known);
    Ok(Step::End)
}

/// Branches with 16-bit operands cut the instruction pointer.
fn operand_is_short(insn: &Instruction) -> bool {
    insn.op_kind(0) != OpKind::NearBranch64
}

pub(super) fn transfer(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
    known: Known<'_>,
) -> Result {
    if !rest.is_empty() {
        return Ok(Step::Next);
    }
    b.flush_vectors();
    match insn.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
            let target = insn.near_branch64();
            if !is_plain(target) {
                return Err(Unsupported);
            }
            b.save_flags();
            b.go(target, known);
        }
        Code::Call_rel32_64 => {
            let target = insn.near_branch64();
            if !is_plain(target) {
                return Err(Unsupported);
            }
            b.stack(-8, true, 8);
            b.asm.mov_imm(RAX, insn.next_ip());
            b.asm.store(R15, 0, RAX);
            b.asm.lea(STACK, Some(STACK), None, -8);
            b.go(target, known);
        }
        Code::Retnq | Code::Retnq_imm16 => {
            b.stack(0, false, 8);
            b.asm.load(R15, R15, 0);
            let misses = b.look_up();
            let extra = match insn.code() {
                Code::Retnq => 0,
                _ => i32::from(insn.immediate16()),
            };
            b.asm.lea(STACK, Some(STACK), None, 8 + extra);
            b.jump_found();
            b.interpret_at(misses);
        }
        Code::Jmp_rm64 => {
            target_to_r15(b, insn)?;
            let misses = b.look_up();
            b.jump_found();
            b.interpret_at(misses);
        }
        Code::Call_rm64 => {
            target_to_r15(b, insn)?;
            b.asm.put(at::SPARE + 8, R15);
            b.asm.mov(RAX, R15);
            b.asm.bytes(&[0x48, 0xC1, 0xF8, 47]); // sar rax, 47
            b.asm.alu_imm(0, RAX, 1);
            b.asm.alu_imm(7, RAX, 1);
            b.leave_if(ABOVE);
            b.stack(-8, true, 8);
            b.asm.mov_imm(RAX, insn.next_ip());
            b.asm.store(R15, 0, RAX);
            b.asm.lea(STACK, Some(STACK), None, -8);
            b.asm.get(R15, at::SPARE + 8);
            let misses = b.look_up();
            b.jump_found();
            b.continue_at(misses);
        }
        _ => return Err(Unsupported),
    }
    Ok(Step::End)
}

/// The target of an indirect branch in R15, the flags saved.
fn target_to_r15(b: &mut Builder<'_>, insn: &Instruction) -> Done {
    if insn.op_kind(0) == OpKind::Memory {
        b.operand(insn, false, 8)?;
        b.asm.load(R15, R15, 0);
    } else {
        b.lose_flags();
        let guest = gpr_of(insn.op_register(0)).0;
        let host = b.value(guest, R15);
        b.asm.mov(R15, host);
    }
    Ok(())
}
