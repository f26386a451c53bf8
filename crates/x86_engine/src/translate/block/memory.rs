//! Guest registers and memory operands: effective and linear addresses, and the check before an access.

use super::{Builder, Done, STACK, Stub, Unsupported};
use crate::operand::gpr_of;
use crate::translate::HOST;
use crate::translate::asm::{ABOVE, EQUAL, R15, RAX, RBP};
use crate::translate::entry::at;
use crate::translate::thunks::Thunks;
use crate::translate::vectors::FLOATING;
use iced_x86::{Instruction, Register};

/// Whether the memory operand's address is cut to 32 bits.
fn has_narrow_address(insn: &Instruction) -> bool {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    base == Register::EIP
        || base.is_gpr32()
        || index.is_gpr32()
        || base == Register::None && index == Register::None && insn.memory_displ_size() == 4
}

impl Builder<'_> {
    /// A register's value in a host register; loaded into `spare` when it has none of its own.
    pub fn value(&mut self, guest: u8, spare: u8) -> u8 {
        match HOST[usize::from(guest & 15)] {
            Some(host) => host,
            None => {
                self.asm.get(spare, at::gpr(guest));
                spare
            }
        }
    }

    /// Writes a guest register.
    pub fn set(&mut self, guest: u8, from: u8) {
        match HOST[usize::from(guest & 15)] {
            Some(host) => self.asm.mov(host, from),
            None => self.asm.put(at::gpr(guest), from),
        }
    }

    /// The linear address of the memory operand in R15. RAX may be lost, and so may be the host's flags.
    fn linear(&mut self, insn: &Instruction) -> Done {
        self.effective(insn, R15)?;
        self.add_segment(insn);
        Ok(())
    }

    /// Adds the segment's base to R15. The host's flags are lost.
    pub fn add_segment(&mut self, insn: &Instruction) {
        match insn.memory_segment() {
            Register::FS => self.asm.op_memory(0x03, R15, RBP, at::FS_BASE),
            Register::GS => self.asm.op_memory(0x03, R15, RBP, at::GS_BASE),
            _ => {}
        }
    }

    /// The effective address in `to`, which is R15 or a register that the address does not use. Flags stay.
    pub fn effective(&mut self, insn: &Instruction, to: u8) -> Done {
        if insn.is_ip_rel_memory_operand() {
            self.asm.mov_imm(to, insn.ip_rel_memory_address());
            return Ok(());
        }
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let narrow = has_narrow_address(insn);
        let guest = |register: Register| match register {
            Register::None => Ok(None),
            _ if register.is_gpr64() || register.is_gpr32() => Ok(Some(gpr_of(register).0)),
            _ => Err(Unsupported),
        };
        let (base, index) = (guest(base)?, guest(index)?);
        let displacement = insn.memory_displacement64();
        if base.is_none() && index.is_none() {
            if insn.memory_displ_size() < 4 {
                return Err(Unsupported);
            }
            self.asm.mov_imm(to, displacement);
            return Ok(());
        }
        let displacement = if narrow {
            displacement as i32
        } else {
            i32::try_from(displacement as i64).map_err(|_| Unsupported)?
        };
        let base = base.map(|base| self.value(base, R15));
        let spare = if base == Some(R15) { RAX } else { R15 };
        let index = index.map(|index| {
            let scale = insn.memory_index_scale().trailing_zeros() as u8;
            (self.value(index, spare), scale)
        });
        self.asm.lea(to, base, index, displacement);
        if narrow {
            self.asm.cut(to);
        }
        Ok(())
    }

    /// The host address of the instruction's memory operand in R15. RAX and the host's flags are lost.
    pub fn operand(&mut self, insn: &Instruction, write: bool, size: usize) -> Done {
        self.lose_flags();
        let retry = self.asm.here();
        self.linear(insn)?;
        self.check(retry, write, size);
        Ok(())
    }

    /// The same for the unit of `size` bytes that holds the bit whose number, from the operand's first bit, is in a guest
    /// register.
    pub fn bit_operand(
        &mut self,
        insn: &Instruction,
        number: u8,
        write: bool,
        size: usize,
    ) -> Done {
        self.lose_flags();
        let retry = self.asm.here();
        self.effective(insn, R15)?;
        let host = self.value(number, RAX);
        self.asm.sign_extend(RAX, host, size);
        let scale = size.trailing_zeros() as u8;
        self.asm.bytes(&[0x48, 0xC1, 0xF8, 3 + scale]); // sar rax, log2 of the unit's bits
        self.asm.lea(R15, Some(R15), Some((RAX, scale)), 0);
        if has_narrow_address(insn) {
            self.asm.cut(R15);
        }
        self.add_segment(insn);
        self.check(retry, write, size);
        Ok(())
    }

    /// The host address of `size` bytes at guest RSP + `displacement` in R15.
    pub fn stack(&mut self, displacement: i32, write: bool, size: usize) {
        self.lose_flags();
        let retry = self.asm.here();
        self.asm.lea(R15, Some(STACK), None, displacement);
        self.check(retry, write, size);
    }

    /// From the linear address in R15 to the host's, or out.
    pub fn check(&mut self, retry: u64, write: bool, size: usize) {
        self.asm.bytes(&[0xC4, 0xC3, 0xFB, 0xF0, 0xC7, 8]); // rorx rax, r15, 8
        self.asm.bytes(&[0x25, 0xF0, 0x3F, 0, 0]); // and eax, 0x3FF0: the set, times 16
        let field = if write { at::WRITE } else { at::READ };
        self.asm.op_memory(0x03, RAX, RBP, field);
        // What remains of the address is the offset when the page is the same; the last byte has to be in it too.
        self.asm.op_memory(0x33, R15, RAX, 0);
        self.asm.alu_imm(7, R15, 4096 - size as i32);
        let from = self.asm.jump_forward_if(ABOVE);
        self.asm.op_memory(0x03, R15, RAX, 8);
        self.stubs.push(Stub::Miss {
            from,
            retry,
            write,
            rip: self.rip,
            done: self.done,
            vectors: (self.loaded, self.dirty),
            after: None,
        });
    }

    /// The interpreter takes over when the condition holds. The flags have to be saved.
    pub fn leave_if(&mut self, condition: u8) {
        let from = self.asm.jump_forward_if(condition);
        self.stubs.push(Stub::Leave {
            from,
            rip: self.rip,
            done: self.done,
            dirty: self.dirty,
            after: None,
        });
    }

    /// The guest's MXCSR is the host's from here on, or the interpreter takes over. The flags have to be saved.
    pub fn enter_floating(&mut self) {
        self.asm.field_bits(0xF6, 0, at::USABLE, FLOATING); // test
        let from = self.asm.jump_forward_if(EQUAL);
        self.stubs.push(Stub::Floating {
            from,
            back: self.asm.here(),
            rip: self.rip,
            done: self.done,
            dirty: self.dirty,
        });
    }

    /// Calls fixed code.
    pub fn call(&mut self, thunk: fn(&Thunks) -> u64) {
        self.asm.call(thunk(&self.thunks));
    }
}
