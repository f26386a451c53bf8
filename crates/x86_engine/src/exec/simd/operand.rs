//! Vector operands: registers, aligned and unaligned memory, availability checks, and MXCSR's exceptions.

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};
use x86_arch::{Access, RamPage};

use crate::cpu::{Cpu, REG_SEG, bits};
use crate::fault::Fault;
use crate::float::{Context, flag};
use crate::operand::{Address, segment_of};
use crate::simd::lanes::Lane;

/// A vector register's 256 bits.
pub type Vector = [u128; 2];

pub fn is_vex(instruction: &Instruction) -> bool {
    instruction.code().encoding() == EncodingKind::VEX
}

/// 1 for 128-bit operations, 2 for 256-bit ones.
pub fn lanes(instruction: &Instruction) -> usize {
    let wide = (0..instruction.op_count())
        .any(|i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_ymm());
    1 + usize::from(wide)
}

/// The operand that is the first source: the destination in the legacy form.
pub fn first_source(instruction: &Instruction) -> u32 {
    u32::from(is_vex(instruction))
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// #UD or #NM unless the system lets this instruction's registers be used (SDM volume 3, 2.5 and 13.1).
    pub(crate) fn need_vectors(&self, instruction: &Instruction) -> Result<(), Fault> {
        let regs = &self.vcpu.regs;
        let usable = if is_vex(instruction) {
            regs.cr4 & bits::CR4_OSXSAVE != 0 && regs.xcr0 & 6 == 6
        } else {
            regs.cr0 & bits::CR0_EM == 0 && regs.cr4 & bits::CR4_OSFXSR != 0
        };
        if !usable {
            return Err(Fault::UD);
        }
        if regs.cr0 & bits::CR0_TS != 0 {
            return Err(Fault::NM);
        }
        Ok(())
    }

    pub(crate) fn vector(&self, register: Register) -> Vector {
        self.vcpu.regs.fpu.ymm[register.number() & 15]
    }

    /// A vector register or memory operand; memory narrower than the vector leaves the rest zero.
    pub(crate) fn read_vector(
        &mut self,
        instruction: &Instruction,
        operand: u32,
    ) -> Result<Vector, Fault> {
        if instruction.op_kind(operand) == OpKind::Register {
            return Ok(self.vector(instruction.op_register(operand)));
        }
        let (linear, stack) = self.vector_address(instruction, Access::Read)?;
        match instruction.memory_size().size() {
            16 => Ok([self.load_u128(linear, stack)?, 0]),
            size => {
                let mut bytes = [0; 32];
                self.load_bytes(linear, &mut bytes[..size.min(32)], stack)?;
                Ok([0, 16].map(|at| {
                    u128::from_le_bytes(bytes[at..at + 16].try_into().unwrap_or_default())
                }))
            }
        }
    }

    /// Writes operand 0, a register: the legacy form keeps bits 255:128, the VEX form clears what it does not write.
    pub(crate) fn write_vector(&mut self, instruction: &Instruction, value: Vector) {
        let register = &mut self.vcpu.regs.fpu.ymm[instruction.op_register(0).number() & 15];
        register[0] = value[0];
        if is_vex(instruction) {
            register[1] = if lanes(instruction) == 2 { value[1] } else { 0 };
        }
    }

    /// Stores the low bytes of `value` to the memory operand, as many as it has.
    pub(crate) fn store_vector(
        &mut self,
        instruction: &Instruction,
        value: Vector,
    ) -> Result<(), Fault> {
        let (linear, stack) = self.vector_address(instruction, Access::Write)?;
        match instruction.memory_size().size() {
            16 => self.store_u128(linear, value[0], stack),
            size => {
                let mut bytes = [0; 32];
                bytes[..16].copy_from_slice(&value[0].to_le_bytes());
                bytes[16..].copy_from_slice(&value[1].to_le_bytes());
                self.store_bytes(linear, &bytes[..size.min(32)], stack)
            }
        }
    }

    /// The memory operand's address, checked for the alignment that the instruction demands.
    fn vector_address(
        &self,
        instruction: &Instruction,
        access: Access,
    ) -> Result<(u64, bool), Fault> {
        let size = instruction.memory_size().size();
        if must_align(instruction, size) {
            // Before the canonical check: it is #GP(0) even through SS.
            let segment = segment_of(instruction.memory_segment());
            let base = self.reg(REG_SEG + segment as u8);
            if self.effective(instruction).wrapping_add(base) & (size as u64 - 1) != 0 {
                return Err(Fault::GP0);
            }
        }
        let Address { linear, stack } = self.address(instruction, size, access)?;
        Ok((linear, stack))
    }

    /// A general-purpose register or memory operand, zero-extended.
    pub(crate) fn read_integer(
        &mut self,
        instruction: &Instruction,
        operand: u32,
    ) -> Result<u64, Fault> {
        if instruction.op_kind(operand) == OpKind::Register {
            let register = instruction.op_register(operand);
            let value = self.gpr[register.full_register().number() & 15];
            return Ok(if register.size() == 8 {
                value
            } else {
                value & 0xFFFF_FFFF
            });
        }
        Ok(self.read_vector(instruction, operand)?[0] as u64)
    }

    /// Writes a 32- or 64-bit general-purpose register operand.
    pub(crate) fn write_integer(&mut self, instruction: &Instruction, value: u64) {
        let register = instruction.op_register(0);
        let value = if register.size() == 8 {
            value
        } else {
            value & 0xFFFF_FFFF
        };
        self.gpr[register.full_register().number() & 15] = value;
    }

    /// Adds what an operation raised to MXCSR; #XM (or #UD when the system does not handle it) for unmasked ones.
    pub(crate) fn finish_float(&mut self, context: &Context) -> Result<(), Fault> {
        let unmasked = context.raised & !context.masks;
        let seen = if unmasked & flag::BEFORE != 0 {
            context.raised & flag::BEFORE | context.settled
        } else {
            context.raised
        };
        self.vcpu.regs.fpu.mxcsr |= u32::from(seen);
        if unmasked == 0 {
            return Ok(());
        }
        Err(if self.cr4() & bits::CR4_OSXMMEXCPT != 0 {
            Fault::XM
        } else {
            Fault::UD
        })
    }

    /// The control bits of MXCSR.
    pub(crate) fn float_context(&self) -> Context {
        Context::from_mxcsr(self.vcpu.regs.fpu.mxcsr)
    }
}

/// Legacy 16-byte operands are aligned save where the instruction says otherwise; VEX ones only where it says so.
pub fn must_align(instruction: &Instruction, size: usize) -> bool {
    use Mnemonic::*;
    if is_vex(instruction) {
        return matches!(
            instruction.mnemonic(),
            Vmovaps | Vmovapd | Vmovdqa | Vmovntdq | Vmovntps | Vmovntpd | Vmovntdqa
        );
    }
    size == 16
        && !matches!(
            instruction.mnemonic(),
            Movups
                | Movupd
                | Movdqu
                | Lddqu
                | Pcmpestri
                | Pcmpestrm
                | Pcmpestri64
                | Pcmpestrm64
                | Pcmpistri
                | Pcmpistrm
        )
}

/// The low element of a vector.
pub fn low<T: Lane>(vector: Vector) -> T {
    T::get(vector[0], 0)
}
