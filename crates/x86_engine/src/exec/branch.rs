//! Near control flow: JMP, CALL, RET, Jcc, LOOP, JRCXZ.

use crate::cpu::{Cpu, REG_PAGE};
use crate::exec::stack::word;
use crate::fault::Fault;
use crate::operand::cut;
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;
use x86_arch::vmx::Seg;

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Goes on at `target`, or faults as the branch does: #GP(0) when it is outside.
    pub(crate) fn jump(&mut self, target: u64) -> Result<(), Fault> {
        let outside = if self.is_64() {
            !self.is_canonical(target)
        } else {
            target > u64::from(self.segment(Seg::Cs).limit)
        };
        if outside {
            return Err(Fault::GP0);
        }
        self.next_rip = target;
        Ok(())
    }

    /// The target of a relative branch; a 16-bit operand size cuts it.
    pub(crate) fn relative_target(&self, insn: &Instruction) -> u64 {
        let page = self.reg(REG_PAGE);
        match insn.op_kind(0) {
            OpKind::NearBranch16 => {
                // The decoder cut the sum already; redo it with the real instruction pointer.
                let relative = insn.near_branch16().wrapping_sub(insn.next_ip16());
                u64::from((self.next_rip as u16).wrapping_add(relative))
            }
            OpKind::NearBranch32 => {
                page.wrapping_add(u64::from(insn.near_branch32())) & 0xFFFF_FFFF
            }
            _ => page.wrapping_add(insn.near_branch64()),
        }
    }

    fn near_target(&mut self, insn: &Instruction) -> Result<u64, Fault> {
        match insn.op_kind(0) {
            OpKind::Register | OpKind::Memory => self.read_operand(insn, 0),
            _ => Ok(self.relative_target(insn)),
        }
    }
}

pub fn jmp<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let target = cpu.near_target(insn)?;
    cpu.jump(target)
}

pub fn jcc<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
    code: u8,
) -> Result<(), Fault> {
    if cpu.flags.condition(code) {
        let target = cpu.relative_target(insn);
        cpu.jump(target)?;
    }
    Ok(())
}

pub fn call<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let target = cpu.near_target(insn)?;
    let back = cpu.next_rip;
    cpu.jump(target)?;
    cpu.push_sized(word(insn), back)
}

pub fn ret<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let extra = if insn.op_count() == 1 {
        u64::from(insn.immediate16())
    } else {
        0
    };
    let bytes = (insn.stack_pointer_increment() as u64).wrapping_sub(extra) as usize;
    let target = cpu.peek_sized(bytes, 0)?;
    cpu.jump(target)?;
    cpu.set_stack_pointer(cpu.reg(4).wrapping_add(bytes as u64 + extra));
    Ok(())
}

/// LOOP, LOOPE, LOOPNE and JCXZ, JECXZ, JRCXZ; the address size chooses the counter.
pub fn counted<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let bytes = counter_size(insn, cpu);
    let counter = cut(cpu.reg(1), bytes);
    let zf = cpu.flags.zf();
    let (next, taken) = match insn.mnemonic() {
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => (None, counter == 0),
        other => {
            let next = cut(counter.wrapping_sub(1), bytes);
            let taken = next != 0
                && match other {
                    Mnemonic::Loope => zf,
                    Mnemonic::Loopne => !zf,
                    _ => true,
                };
            (Some(next), taken)
        }
    };
    if taken {
        let target = cpu.relative_target(insn);
        cpu.jump(target)?;
    }
    if let Some(next) = next {
        cpu.set_sized(1, next, bytes);
    }
    Ok(())
}

fn counter_size<P: RamPage + 'static>(insn: &Instruction, cpu: &Cpu<'_, P>) -> usize {
    use iced_x86::Code::*;
    match insn.code() {
        Jcxz_rel8_16 | Jcxz_rel8_32 | Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX
        | Loope_rel8_32_CX | Loopne_rel8_16_CX | Loopne_rel8_32_CX => 2,
        Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 | Loop_rel8_16_ECX | Loop_rel8_32_ECX
        | Loop_rel8_64_ECX | Loope_rel8_16_ECX | Loope_rel8_32_ECX | Loope_rel8_64_ECX
        | Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX => 4,
        _ if cpu.is_64() => 8,
        _ => 4,
    }
}
