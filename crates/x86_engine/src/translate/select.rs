//! Guest instructions as host instructions: most are themselves with other operands.

use crate::exec::condition_of;
use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{ABOVE, NOT_BELOW, NOT_EQUAL, R15, RAX, RBX};
use crate::translate::block::{Builder, Done, STACK, Step, Unsupported};
use crate::translate::entry::at;
use crate::translate::vectors;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// How an instruction deals with the arithmetic flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    Keeps,
    Reads,
    /// Writes all six, whatever they were.
    Writes,
    /// Writes some, or none in some cases, or depends on them.
    Changes,
}

type Known<'a> = &'a dyn Fn(u16) -> Option<u64>;
type Result = core::result::Result<Step, Unsupported>;

/// The flags of instructions that are copied; `None` for all others.
fn flags_of(insn: &Instruction) -> Option<Flags> {
    use Mnemonic::*;
    Some(match insn.mnemonic() {
        Add | Sub | And | Or | Xor | Cmp | Test | Neg | Xadd => Flags::Writes,
        Adc | Sbb | Inc | Dec | Bt | Bts | Btr | Btc | Rol | Ror => Flags::Changes,
        // What the others do to OF is up to the processor.
        Rcl | Rcr if operand_size(insn, 0) >= 4 => Flags::Changes,
        Mov | Movzx | Movsx | Movsxd | Movnti | Not | Xchg | Bswap | Movbe | Rorx | Sarx | Shlx
        | Shrx | Pdep | Pext | Mulx => Flags::Keeps,
        Andn | Blsi | Blsmsk | Blsr | Bzhi | Popcnt => Flags::Writes,
        _ => match condition_of(insn) {
            Some(_) if insn.is_jcc_short_or_near() => return None,
            Some(_) if insn.op_count() == 1 || insn.op_register(0).is_gpr() => Flags::Reads,
            _ => return None,
        },
    })
}

/// Whether nobody will see the flags that come before `rest`: they are overwritten before anything reads them,
/// faults or leaves the block.
fn flags_die(rest: &[Instruction]) -> bool {
    for insn in rest {
        // An instruction that may be left to the interpreter ends the block.
        let plain = insn.op_count() < 3
            && (0..insn.op_count()).all(|n| match insn.op_kind(n) {
                OpKind::Memory => false,
                OpKind::Register => gpr_of(insn.op_register(n)).1 == 0,
                _ => true,
            });
        match flags_of(insn) {
            _ if !plain => return false,
            Some(Flags::Keeps) => {}
            Some(Flags::Writes) => return true,
            _ if insn.mnemonic() == Mnemonic::Lea => {}
            _ => return false,
        }
    }
    false
}

/// Translates one instruction, behind which `rest` may come.
pub fn instruction(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
    known: Known<'_>,
) -> Result {
    use Mnemonic::*;
    if let Some(flags) = flags_of(insn) {
        copy(b, insn, flags)?;
        return Ok(Step::Next);
    }
    match insn.mnemonic() {
        Shl | Sal | Shr | Sar => return shift(b, insn),
        Bsf | Bsr => return count(b, insn, rest, 0x40),
        Tzcnt | Lzcnt => return count(b, insn, rest, 0x41),
        Imul if insn.op_count() > 1 => {
            copy(b, insn, Flags::Writes)?;
            if !flags_die(rest) {
                let guest = gpr_of(insn.op_register(0)).0;
                let low = b.value(guest, R15);
                product_flags(b, low, operand_size(insn, 0));
            }
            return Ok(Step::Next);
        }
        Lea => return lea(b, insn),
        Lfence => return Ok(Step::Next),
        Mfence | Sfence => {
            emit(b, insn)?;
            return Ok(Step::Next);
        }
        Shld | Shrd => return double_shift(b, insn, rest),
        Div => return divide(b, insn),
        Nop | Endbr64 | Endbr32 | Prefetch | Prefetchw | Prefetchnta | Prefetcht0 | Prefetcht1
        | Prefetcht2 => return Ok(Step::Next),
        Cdqe | Cwde | Cbw | Cdq | Cqo | Cwd => return convert(b, insn),
        Mul | Imul => return multiply(b, insn, rest),
        Cmpxchg => return compare_exchange(b, insn),
        Push => return push(b, insn),
        Pop => return pop(b, insn),
        Leave if insn.code() == Code::Leaveq => return leave(b),
        Call | Jmp | Ret => return transfer(b, insn, known),
        _ => {}
    }
    match condition_of(insn) {
        Some(code) if insn.is_jcc_short_or_near() => conditional_branch(b, insn, code, known),
        _ => {
            vectors::instruction(b, insn)?;
            Ok(Step::Next)
        }
    }
}

/// SHL, SHR, SAR. By a constant all flags change or none; by CL that is seen when it runs.
fn shift(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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
fn double_shift(b: &mut Builder<'_>, insn: &Instruction, rest: &[Instruction]) -> Result {
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

/// DIV of 32 and 64 bits, unless it faults. The flags stay as they are.
fn divide(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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

/// BSF, BSR, TZCNT, LZCNT: only the flags in `mask` (of LAHF's byte) change.
fn count(b: &mut Builder<'_>, insn: &Instruction, rest: &[Instruction], mask: u8) -> Result {
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

fn operand_size(insn: &Instruction, n: u32) -> usize {
    match insn.op_kind(n) {
        OpKind::Register => insn.op_register(n).size(),
        _ => insn.memory_size().size(),
    }
}

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
fn copy(b: &mut Builder<'_>, insn: &Instruction, flags: Flags) -> Done {
    let mut new = *insn;
    new.set_code(general(insn.code()));
    new.set_has_rep_prefix(false);
    new.set_has_repne_prefix(false);
    let mut memory = false;
    for n in 0..insn.op_count() {
        match insn.op_kind(n) {
            OpKind::Register if insn.op_register(n).is_gpr() => {}
            OpKind::Memory => memory = true,
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {}
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
fn aligned(b: &mut Builder<'_>, size: usize) {
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

fn lea(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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
fn convert(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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
fn multiply(b: &mut Builder<'_>, insn: &Instruction, rest: &[Instruction]) -> Result {
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
fn product_flags(b: &mut Builder<'_>, low: u8, size: usize) {
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

fn compare_exchange(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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

fn push(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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

fn pop(b: &mut Builder<'_>, insn: &Instruction) -> Result {
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
fn leave(b: &mut Builder<'_>) -> Result {
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

/// Branch targets outside the 48-bit canonical range need the full check.
fn is_plain(target: u64) -> bool {
    target.wrapping_add(1 << 47) >> 48 == 0
}

fn conditional_branch(
    b: &mut Builder<'_>,
    insn: &Instruction,
    code: u8,
    known: Known<'_>,
) -> Result {
    let target = insn.near_branch64();
    if !is_plain(target) || insn.len() < 2 || operand_is_short(insn) {
        return Err(Unsupported);
    }
    b.flush_vectors();
    b.save_flags();
    b.restore_flags();
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

fn transfer(b: &mut Builder<'_>, insn: &Instruction, known: Known<'_>) -> Result {
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
