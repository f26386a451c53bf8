//! An instruction as itself, on the registers and the address that stand for its operands.

use crate::operand::{gpr_of, is_immediate};
use crate::translate::HOST;
use crate::translate::asm::{NOT_EQUAL, R15, RAX, RBX};
use crate::translate::block::{Builder, Done, Unsupported};
use crate::translate::entry::at;
use crate::translate::select::Flags;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// The part of a host register that an operand of this size names.
pub fn part(host: u8, size: usize) -> Register {
    let number = u32::from(host);
    match size {
        1 => match number {
            0..4 => Register::AL + number,
            // After AL to BL come AH to BH.
            _ => Register::SPL + (number - 4),
        },
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

/// Forms that exist only for the accumulator as those for any register; the operands are the same.
fn general(code: Code) -> Code {
    macro_rules! accumulator {
        ($($al:ident $ax:ident $eax:ident $rax:ident => $r8:ident $r16:ident $r32:ident $r64:ident;)*) => {
            match code {
                $(Code::$al => Code::$r8, Code::$ax => Code::$r16, Code::$eax => Code::$r32, Code::$rax => Code::$r64,)*
                Code::Xchg_r16_AX => Code::Xchg_rm16_r16,
                Code::Xchg_r32_EAX => Code::Xchg_rm32_r32,
                Code::Xchg_r64_RAX => Code::Xchg_rm64_r64,
                other => other,
            }
        };
    }
    accumulator! {
        Add_AL_imm8 Add_AX_imm16 Add_EAX_imm32 Add_RAX_imm32 => Add_rm8_imm8 Add_rm16_imm16 Add_rm32_imm32 Add_rm64_imm32;
        Or_AL_imm8 Or_AX_imm16 Or_EAX_imm32 Or_RAX_imm32 => Or_rm8_imm8 Or_rm16_imm16 Or_rm32_imm32 Or_rm64_imm32;
        Adc_AL_imm8 Adc_AX_imm16 Adc_EAX_imm32 Adc_RAX_imm32 => Adc_rm8_imm8 Adc_rm16_imm16 Adc_rm32_imm32 Adc_rm64_imm32;
        Sbb_AL_imm8 Sbb_AX_imm16 Sbb_EAX_imm32 Sbb_RAX_imm32 => Sbb_rm8_imm8 Sbb_rm16_imm16 Sbb_rm32_imm32 Sbb_rm64_imm32;
        And_AL_imm8 And_AX_imm16 And_EAX_imm32 And_RAX_imm32 => And_rm8_imm8 And_rm16_imm16 And_rm32_imm32 And_rm64_imm32;
        Sub_AL_imm8 Sub_AX_imm16 Sub_EAX_imm32 Sub_RAX_imm32 => Sub_rm8_imm8 Sub_rm16_imm16 Sub_rm32_imm32 Sub_rm64_imm32;
        Xor_AL_imm8 Xor_AX_imm16 Xor_EAX_imm32 Xor_RAX_imm32 => Xor_rm8_imm8 Xor_rm16_imm16 Xor_rm32_imm32 Xor_rm64_imm32;
        Cmp_AL_imm8 Cmp_AX_imm16 Cmp_EAX_imm32 Cmp_RAX_imm32 => Cmp_rm8_imm8 Cmp_rm16_imm16 Cmp_rm32_imm32 Cmp_rm64_imm32;
        Test_AL_imm8 Test_AX_imm16 Test_EAX_imm32 Test_RAX_imm32 => Test_rm8_imm8 Test_rm16_imm16 Test_rm32_imm32 Test_rm64_imm32;
        Mov_AL_moffs8 Mov_AX_moffs16 Mov_EAX_moffs32 Mov_RAX_moffs64 => Mov_r8_rm8 Mov_r16_rm16 Mov_r32_rm32 Mov_r64_rm64;
        Mov_moffs8_AL Mov_moffs16_AX Mov_moffs32_EAX Mov_moffs64_RAX => Mov_rm8_r8 Mov_rm16_r16 Mov_rm32_r32 Mov_rm64_r64;
    }
}

/// Whether the memory operand is written (and perhaps read).
fn writes_memory(insn: &Instruction) -> bool {
    use Mnemonic::*;
    match insn.mnemonic() {
        Cmp | Test | Bt | Push | Call | Jmp | Mul | Imul => false,
        Xchg => true,
        _ => insn.op_kind(0) == OpKind::Memory,
    }
}

/// Whether operand `n` names CL as a shift count: guest RCX lives there.
fn is_count(insn: &Instruction, n: u32) -> bool {
    use Mnemonic::*;
    n + 1 == insn.op_count()
        && n > 0
        && insn.op_register(n) == Register::CL
        && matches!(
            insn.mnemonic(),
            Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr
        )
}

/// The instruction itself on the registers and the address that stand for its operands.
pub(super) fn copy(b: &mut Builder<'_>, insn: &Instruction, flags: Flags) -> Done {
    let mut new = *insn;
    new.set_code(general(insn.code()));
    new.set_has_rep_prefix(false);
    new.set_has_repne_prefix(false);
    let mut memory = false;
    for n in 0..insn.op_count() {
        match insn.op_kind(n) {
            OpKind::Register if insn.op_register(n).is_gpr() => {}
            OpKind::Memory => memory = true,
            kind if is_immediate(kind) => {}
            _ => return Err(Unsupported),
        }
    }
    if memory {
        if matches!(
            insn.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        ) && insn.op_kind(1) == OpKind::Register
        {
            // The offset reaches any bit of memory.
            return Err(Unsupported);
        }
        let size = insn.memory_size().size();
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(Unsupported);
        }
        b.operand(insn, writes_memory(insn), size)?;
        if insn.has_lock_prefix() || insn.mnemonic() == Mnemonic::Xchg {
            aligned(b, size);
        }
        point_at_r15(&mut new);
    } else if insn.has_lock_prefix() {
        return Err(Unsupported);
    }
    // Only now: it needs RAX.
    if flags == Flags::Reads || flags == Flags::Changes {
        b.restore_flags();
    }
    let mut spares = [(0, 0); 2];
    let mut used = 0;
    let free = if memory { 1 } else { 2 };
    let mut high = false;
    let mut extended = memory;
    for n in 0..insn.op_count() {
        if insn.op_kind(n) != OpKind::Register || is_count(insn, n) {
            continue;
        }
        let register = insn.op_register(n);
        let (guest, shift) = gpr_of(register);
        let size = register.size();
        let host = match HOST[usize::from(guest)] {
            Some(host) => host,
            None => match spares[..used].iter().find(|(g, _)| *g == guest) {
                Some((_, host)) => *host,
                None if used < free => {
                    let host = [RAX, R15][used];
                    spares[used] = (guest, host);
                    used += 1;
                    b.asm.get(host, at::gpr(guest));
                    host
                }
                None => return Err(Unsupported),
            },
        };
        let register = if shift == 8 {
            high = true;
            match host {
                RBX => Register::BH,
                1 => Register::CH,
                2 => Register::DH,
                _ => return Err(Unsupported),
            }
        } else {
            extended |= host >= 8 || size == 8 || size == 1 && host >= 4;
            part(host, size)
        };
        new.set_op_register(n, register);
    }
    if high && extended {
        return Err(Unsupported);
    }
    emit(b, &new)?;
    let last = match insn.mnemonic() {
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Mulx => 2,
        _ => 1,
    };
    for n in 0..insn.op_count().min(last) {
        if insn.op_kind(n) == OpKind::Register {
            let guest = gpr_of(insn.op_register(n)).0;
            if let Some((_, host)) = spares[..used].iter().find(|(g, _)| *g == guest) {
                b.asm.put(at::gpr(guest), *host);
            }
        }
    }
    if flags == Flags::Writes || flags == Flags::Changes {
        b.wrote_flags();
    }
    Ok(())
}

/// An access that has to be atomic is the interpreter's when it is not aligned. The host's flags are lost.
pub(super) fn aligned(b: &mut Builder<'_>, size: usize) {
    if size > 1 {
        b.asm.bytes(&[0x41, 0xF6, 0xC7, size as u8 - 1]); // test r15b, size - 1
        b.leave_if(NOT_EQUAL);
    }
}

/// Makes [R15] the memory operand.
pub fn point_at_r15(new: &mut Instruction) {
    new.set_memory_base(Register::R15);
    new.set_memory_index(Register::None);
    new.set_memory_index_scale(1);
    new.set_memory_displacement64(0);
    new.set_memory_displ_size(0);
    new.set_segment_prefix(Register::None);
}

pub fn emit(b: &mut Builder<'_>, insn: &Instruction) -> Done {
    let buffer = std::mem::take(&mut b.asm.code);
    let length = buffer.len();
    b.encoder.set_buffer(buffer);
    let done = b.encoder.encode(insn, 0);
    b.asm.code = b.encoder.take_buffer();
    match done {
        Ok(_) => Ok(()),
        Err(_) => {
            b.asm.code.truncate(length);
            Err(Unsupported)
        }
    }
}
