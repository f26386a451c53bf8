//! An instruction as itself, on the registers and the address that stand for its operands.

use crate::operand::{gpr_of, is_immediate};
use crate::translate::HOST;
use crate::translate::asm::{NOT_EQUAL, R8, R12, R13, R14, R15, RAX, RBX, RCX, RDI, RDX, RSI};
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
            Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd
        )
}

/// Registers that may be lent to a guest register of the frame while an instruction runs that does not name them.
const LENDERS: [u8; 6] = [RSI, RDI, R8, R12, R13, R14];

/// A guest register that is elsewhere for one instruction.
#[derive(Clone, Copy)]
struct Held {
    guest: u8,
    /// Its second byte alone.
    high: bool,
    host: u8,
    /// The host register is lent.
    lent: bool,
}

/// The host registers that stand for the register operands of one instruction. The flags stay as they are.
pub struct Hosts {
    held: [Held; 4],
    count: usize,
    /// RAX and R15 are used otherwise.
    busy: [bool; 2],
    /// RAX holds guest RAX.
    rax: bool,
    /// Host registers that the instruction itself needs, by bit.
    named: u16,
    /// AH to DH can be what they are.
    plain: bool,
}

impl Hosts {
    /// For the instruction, whose memory operand has become [R15] if it has one.
    pub fn new(insn: &Instruction) -> Hosts {
        let mut hosts = Hosts {
            held: [Held {
                guest: 0,
                high: false,
                host: 0,
                lent: false,
            }; 4],
            count: 0,
            busy: [false; 2],
            rax: false,
            named: 0,
            plain: true,
        };
        for n in 0..insn.op_count() {
            match insn.op_kind(n) {
                OpKind::Memory => {
                    hosts.busy[1] = true;
                    hosts.plain = false;
                }
                OpKind::Register => {
                    let register = insn.op_register(n);
                    let (guest, shift) = gpr_of(register);
                    let Some(host) = HOST[usize::from(guest)] else {
                        continue;
                    };
                    hosts.named |= 1 << host;
                    let size = register.size();
                    let extended = host >= 8 || size == 8 || size == 1 && host >= 4;
                    // Guest BH has no host register with a second byte.
                    if extended && shift == 0 || shift != 0 && host > RBX {
                        hosts.plain = false;
                    }
                }
                _ => {}
            }
        }
        hosts
    }

    /// Guest RAX is in the host's RAX, and goes from there to its own register before anything is put back.
    pub fn hold_rax(&mut self) {
        self.busy[0] = true;
        self.rax = true;
        self.add(0, false, RAX, false);
    }

    fn add(&mut self, guest: u8, high: bool, host: u8, lent: bool) {
        self.held[self.count] = Held {
            guest,
            high,
            host,
            lent,
        };
        self.count += 1;
    }

    fn held(&self) -> &[Held] {
        &self.held[..self.count]
    }

    /// A register to use; two can be lent at most.
    fn spare(&mut self, b: &mut Builder<'_>) -> Option<(u8, bool)> {
        for (busy, host) in self.busy.iter_mut().zip([RAX, R15]) {
            if !core::mem::replace(busy, true) {
                return Some((host, false));
            }
        }
        let lent = self.held().iter().filter(|held| held.lent).count();
        let field = *[at::SPARE, at::SPARE + 8].get(lent)?;
        let host = LENDERS
            .into_iter()
            .find(|host| self.named >> host & 1 == 0)?;
        self.named |= 1 << host;
        b.asm.put(field, host);
        Some((host, true))
    }

    /// The host's name for a guest's register.
    pub fn take(
        &mut self,
        b: &mut Builder<'_>,
        register: Register,
    ) -> core::result::Result<Register, Unsupported> {
        let (guest, shift) = gpr_of(register);
        let high = shift != 0;
        let size = register.size();
        let found = self
            .held()
            .iter()
            .find(|held| held.guest == guest && held.high == high);
        if let Some(held) = found {
            return Ok(part(held.host, size));
        }
        match (HOST[usize::from(guest)], high) {
            (Some(host), false) => Ok(part(host, size)),
            (Some(RBX), true) if self.plain && self.rax => Ok(Register::AH),
            (Some(RBX), true) if self.plain => Ok(Register::BH),
            (Some(RCX), true) if self.plain => Ok(Register::CH),
            (Some(RDX), true) if self.plain => Ok(Register::DH),
            (home, _) => {
                let (host, lent) = self.spare(b).ok_or(Unsupported)?;
                match home {
                    Some(home) => b.asm.rotate_right(host, home, 8),
                    None => b.asm.get(host, at::gpr(guest)),
                }
                self.add(guest, high, host, lent);
                Ok(part(host, size))
            }
        }
    }

    /// Puts what the instruction wrote, its first operands, where it belongs, and gives back what was lent.
    pub fn put_back(&self, b: &mut Builder<'_>, insn: &Instruction, written: u32) {
        for n in 0..insn.op_count().min(written) {
            if insn.op_kind(n) != OpKind::Register {
                continue;
            }
            let (guest, shift) = gpr_of(insn.op_register(n));
            let high = shift != 0;
            let found = self
                .held()
                .iter()
                .find(|held| held.guest == guest && held.high == high);
            let Some(held) = found else {
                continue;
            };
            match HOST[usize::from(guest)] {
                None => b.asm.put(at::gpr(guest), held.host),
                Some(home) if high => {
                    b.asm.rotate_right(home, home, 8);
                    b.asm.mov_byte(home, held.host);
                    b.asm.rotate_right(home, home, 56);
                }
                Some(home) => b.asm.mov(home, held.host),
            }
        }
        let lent = self.held().iter().filter(|held| held.lent);
        for (held, field) in lent.zip([at::SPARE, at::SPARE + 8]) {
            b.asm.get(held.host, field);
        }
    }
}

/// How many of the operands, from the first, are written.
fn written(insn: &Instruction) -> u32 {
    use Mnemonic::*;
    match insn.mnemonic() {
        Cmp | Test | Bt => 0,
        Xchg | Xadd | Mulx => 2,
        _ => 1,
    }
}

/// The instruction itself on the registers and the address that stand for its operands.
pub fn copy(b: &mut Builder<'_>, insn: &Instruction, flags: Flags) -> Done {
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
    let mut hosts = Hosts::new(insn);
    for n in 0..insn.op_count() {
        if insn.op_kind(n) == OpKind::Register && !is_count(insn, n) {
            new.set_op_register(n, hosts.take(b, insn.op_register(n))?);
        }
    }
    emit(b, &new)?;
    hosts.put_back(b, insn, written(insn));
    if flags == Flags::Writes || flags == Flags::Changes {
        b.wrote_flags();
    }
    Ok(())
}

/// An access that has to be atomic is the interpreter's when it is not aligned. The host's flags are lost.
pub fn aligned(b: &mut Builder<'_>, size: usize) {
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
