//! Operands of a decoded instruction, for the handlers that work from `iced_x86::Instruction`.
//!
//! Instructions are decoded with the page offset as their instruction pointer, so RIP-relative displacements and
//! branch targets are relative to the page: add `gpr[REG_PAGE]`.

use crate::cpu::{Cpu, REG_PAGE, REG_SEG};
use crate::fault::Fault;
use crate::segment::UNUSABLE;
use crate::width::Width;
use iced_x86::{Instruction, OpKind, Register};
use x86_arch::vmx::{Fpu, Seg};
use x86_arch::{Access, RamPage};

/// Where a memory operand lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub linear: u64,
    /// Through SS: a non-canonical address is #SS instead of #GP.
    pub stack: bool,
}

/// The register's number and the bit its value begins at (8 for AH, CH, DH, BH).
pub fn gpr_of(register: Register) -> (u8, u8) {
    let shift = match register {
        Register::AH | Register::CH | Register::DH | Register::BH => 8,
        _ => 0,
    };
    ((register.full_register().number() & 15) as u8, shift)
}

/// Whether the operand is a number in the instruction itself (and not a branch target).
pub fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// The segment register that iced names.
pub fn segment_of(register: Register) -> Seg {
    match register {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => Seg::Ds,
    }
}

fn sign_extended(value: u64, bytes: usize) -> u64 {
    match bytes {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

/// Cuts a value to an operand's size.
pub fn cut(value: u64, bytes: usize) -> u64 {
    match bytes {
        1 => value & 0xFF,
        2 => value & 0xFFFF,
        4 => value & 0xFFFF_FFFF,
        _ => value,
    }
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    // ---- addresses ----

    /// The offset that LEA gives: base + index * scale + displacement, cut to the address size.
    pub fn effective(&self, insn: &Instruction) -> u64 {
        if insn.is_ip_rel_memory_operand() {
            let sum = self
                .reg(REG_PAGE)
                .wrapping_add(insn.ip_rel_memory_address());
            return if insn.memory_base() == Register::EIP {
                sum & 0xFFFF_FFFF
            } else {
                sum
            };
        }
        let mut sum = insn.memory_displacement64();
        let base = insn.memory_base();
        if base != Register::None {
            sum = sum.wrapping_add(self.register(base));
        }
        let index = insn.memory_index();
        if index.is_gpr() {
            let scaled = self.register(index) << insn.memory_index_scale().trailing_zeros();
            sum = sum.wrapping_add(scaled);
        }
        cut(sum, self.address_size(insn))
    }

    /// Bytes of the memory operand's address.
    pub fn address_size(&self, insn: &Instruction) -> usize {
        let base = insn.memory_base();
        if base != Register::None {
            return base.size();
        }
        let index = insn.memory_index();
        if index.is_gpr() {
            return index.size();
        }
        match insn.memory_displ_size() {
            size @ (2 | 4 | 8) => size as usize,
            _ if self.is_64() => 8,
            _ => 4,
        }
    }

    /// The memory operand's linear address for an access of `bytes`; segment checks included.
    pub fn address(
        &self,
        insn: &Instruction,
        bytes: usize,
        access: Access,
    ) -> Result<Address, Fault> {
        let offset = self.effective(insn);
        self.in_segment(segment_of(insn.memory_segment()), offset, bytes, access)
    }

    /// Segmentation: limit, type and canonical checks, then the base.
    pub fn in_segment(
        &self,
        seg: Seg,
        offset: u64,
        bytes: usize,
        access: Access,
    ) -> Result<Address, Fault> {
        let stack = seg == Seg::Ss;
        let base = self.reg(REG_SEG + seg as u8);
        if self.is_64() {
            let linear = offset.wrapping_add(base);
            self.check_linear(linear, bytes.max(1), stack)?;
            return Ok(Address { linear, stack });
        }
        let fault = if stack { Fault::SS0 } else { Fault::GP0 };
        let segment = self.segment(seg);
        if segment.access & UNUSABLE != 0 {
            return Err(fault);
        }
        let kind = segment.access & 0xF;
        let code = kind & 8 != 0;
        let denied = match access {
            Access::Write => code || kind & 2 == 0,
            Access::Read => code && kind & 2 == 0,
            Access::Execute => false,
        };
        if denied {
            return Err(fault);
        }
        let last = offset + bytes.max(1) as u64 - 1;
        let limit = u64::from(segment.limit);
        let outside = if !code && kind & 4 != 0 {
            // Expand-down: valid above the limit.
            let top = if segment.access & 1 << 14 != 0 {
                0xFFFF_FFFF
            } else {
                0xFFFF
            };
            offset <= limit || last > top
        } else {
            last > limit
        };
        // A segment that spans everything wraps.
        if outside && !(limit == 0xFFFF_FFFF && kind & 12 == 0) {
            return Err(fault);
        }
        Ok(Address {
            linear: offset.wrapping_add(base) & 0xFFFF_FFFF,
            stack,
        })
    }

    // ---- integer operands ----

    /// A register's value, cut to its size (general purpose and segment registers).
    pub fn register(&self, register: Register) -> u64 {
        if register.is_segment_register() {
            return u64::from(self.segment(segment_of(register)).selector);
        }
        let (number, shift) = gpr_of(register);
        cut(self.reg(number) >> shift, register.size())
    }

    /// Writes a general-purpose register; 32 bits clear the upper half.
    pub fn set_register(&mut self, register: Register, value: u64) {
        let (number, shift) = gpr_of(register);
        match register.size() {
            1 => {
                let old = self.reg(number) & !(0xFF << shift);
                self.gpr[number as usize] = old | (value & 0xFF) << shift;
            }
            2 => self.set_reg(number, value as u16),
            4 => self.set_reg(number, value as u32),
            _ => self.gpr[number as usize] = value,
        }
    }

    /// Bytes of an operand: register or memory size; for immediates those of operand 0.
    pub fn operand_size(insn: &Instruction, operand: u32) -> usize {
        match insn.op_kind(operand) {
            OpKind::Register => insn.op_register(operand).size(),
            OpKind::Memory => insn.memory_size().size(),
            _ => match insn.op_kind(0) {
                OpKind::Register => insn.op_register(0).size(),
                OpKind::Memory => insn.memory_size().size(),
                _ => 8,
            },
        }
    }

    /// Reads an integer operand of up to 8 bytes, zero-extended; immediates come sign-extended as encoded.
    pub fn read_operand(&mut self, insn: &Instruction, operand: u32) -> Result<u64, Fault> {
        match insn.op_kind(operand) {
            OpKind::Register => Ok(self.register(insn.op_register(operand))),
            OpKind::Memory => self.read_memory(insn, insn.memory_size().size()),
            _ => Ok(insn.immediate(operand)),
        }
    }

    /// Reads `bytes` (1, 2, 4 or 8) at the memory operand.
    pub fn read_memory(&mut self, insn: &Instruction, bytes: usize) -> Result<u64, Fault> {
        let address = self.address(insn, bytes, Access::Read)?;
        self.load_sized(address, bytes)
    }

    /// Writes an integer operand of up to 8 bytes.
    pub fn write_operand(
        &mut self,
        insn: &Instruction,
        operand: u32,
        value: u64,
    ) -> Result<(), Fault> {
        match insn.op_kind(operand) {
            OpKind::Register => {
                self.set_register(insn.op_register(operand), value);
                Ok(())
            }
            _ => self.write_memory(insn, insn.memory_size().size(), value),
        }
    }

    pub fn write_memory(
        &mut self,
        insn: &Instruction,
        bytes: usize,
        value: u64,
    ) -> Result<(), Fault> {
        let address = self.address(insn, bytes, Access::Write)?;
        self.store_sized(address, bytes, value)
    }

    pub fn load_sized(&mut self, address: Address, bytes: usize) -> Result<u64, Fault> {
        let Address { linear, stack } = address;
        Ok(match bytes {
            1 => self.load_in::<u8>(linear, stack)?.zext(),
            2 => self.load_in::<u16>(linear, stack)?.zext(),
            4 => self.load_in::<u32>(linear, stack)?.zext(),
            _ => self.load_in::<u64>(linear, stack)?,
        })
    }

    pub fn store_sized(&mut self, address: Address, bytes: usize, value: u64) -> Result<(), Fault> {
        let Address { linear, stack } = address;
        match bytes {
            1 => self.store_in(linear, value as u8, stack),
            2 => self.store_in(linear, value as u16, stack),
            4 => self.store_in(linear, value as u32, stack),
            _ => self.store_in(linear, value, stack),
        }
    }

    /// Reads operand 0, computes, writes it back; atomic with a LOCK prefix (or when `locked` says so). `f` may be
    /// called more than once.
    pub fn update_operand<R>(
        &mut self,
        insn: &Instruction,
        locked: bool,
        f: impl Fn(u64) -> (u64, R),
    ) -> Result<R, Fault> {
        if insn.op_kind(0) == OpKind::Register {
            let register = insn.op_register(0);
            let (new, result) = f(self.register(register));
            self.set_register(register, new);
            return Ok(result);
        }
        let bytes = insn.memory_size().size();
        let address = self.address(insn, bytes, Access::Write)?;
        self.update_sized(address, bytes, locked || insn.has_lock_prefix(), f)
    }

    pub fn update_sized<R>(
        &mut self,
        address: Address,
        bytes: usize,
        locked: bool,
        f: impl Fn(u64) -> (u64, R),
    ) -> Result<R, Fault> {
        match bytes {
            1 => self.update_width::<u8, R>(address, locked, f),
            2 => self.update_width::<u16, R>(address, locked, f),
            4 => self.update_width::<u32, R>(address, locked, f),
            _ => self.update_width::<u64, R>(address, locked, f),
        }
    }

    fn update_width<W: Width, R>(
        &mut self,
        address: Address,
        locked: bool,
        f: impl Fn(u64) -> (u64, R),
    ) -> Result<R, Fault> {
        let step = |old: W| {
            let (new, result) = f(old.zext());
            (W::cut(new), result)
        };
        if locked {
            self.update_locked(address.linear, address.stack, step)
        } else {
            self.update(address.linear, address.stack, step)
        }
    }

    /// The immediate operand as a sign-extended number of the operation's width.
    pub fn immediate(insn: &Instruction, operand: u32, bytes: usize) -> u64 {
        sign_extended(insn.immediate(operand), bytes)
    }

    // ---- vector operands ----

    pub fn fpu(&mut self) -> &mut Fpu {
        &mut self.vcpu.regs.fpu
    }

    /// XMMn or the low half of YMMn.
    pub fn xmm(&self, number: usize) -> u128 {
        self.vcpu.regs.fpu.ymm[number & 15][0]
    }

    /// Writes XMMn and keeps the upper half of YMMn (legacy SSE).
    pub fn set_xmm(&mut self, number: usize, value: u128) {
        self.vcpu.regs.fpu.ymm[number & 15][0] = value;
    }

    /// Writes XMMn and clears the upper half of YMMn (VEX).
    pub fn set_xmm_vex(&mut self, number: usize, value: u128) {
        self.vcpu.regs.fpu.ymm[number & 15] = [value, 0];
    }

    pub fn ymm(&self, number: usize) -> [u128; 2] {
        self.vcpu.regs.fpu.ymm[number & 15]
    }

    pub fn set_ymm(&mut self, number: usize, value: [u128; 2]) {
        self.vcpu.regs.fpu.ymm[number & 15] = value;
    }

    /// Reads an XMM register or up to 16 bytes of memory, zero-extended. `aligned`: #GP(0) unless the address is
    /// a multiple of 16.
    pub fn read_xmm_operand(
        &mut self,
        insn: &Instruction,
        operand: u32,
        aligned: bool,
    ) -> Result<u128, Fault> {
        if insn.op_kind(operand) == OpKind::Register {
            return Ok(self.xmm(insn.op_register(operand).number()));
        }
        let bytes = insn.memory_size().size();
        let address = self.address(insn, bytes, Access::Read)?;
        if aligned && address.linear & 15 != 0 {
            return Err(Fault::GP0);
        }
        self.load_wide(address, bytes)
    }

    /// Up to 16 bytes, zero-extended.
    pub fn load_wide(&mut self, address: Address, bytes: usize) -> Result<u128, Fault> {
        match bytes {
            1 | 2 | 4 | 8 => Ok(u128::from(self.load_sized(address, bytes)?)),
            16 => self.load_u128(address.linear, address.stack),
            _ => {
                let mut buffer = [0; 16];
                let bytes = bytes.min(16);
                self.load_bytes(address.linear, &mut buffer[..bytes], address.stack)?;
                Ok(u128::from_le_bytes(buffer))
            }
        }
    }

    /// Reads a YMM register or 32 bytes of memory; `aligned` as above, to 32.
    pub fn read_ymm_operand(
        &mut self,
        insn: &Instruction,
        operand: u32,
        aligned: bool,
    ) -> Result<[u128; 2], Fault> {
        if insn.op_kind(operand) == OpKind::Register {
            return Ok(self.ymm(insn.op_register(operand).number()));
        }
        let address = self.address(insn, 32, Access::Read)?;
        if aligned && address.linear & 31 != 0 {
            return Err(Fault::GP0);
        }
        let mut buffer = [[0; 16]; 2];
        self.load_bytes(address.linear, buffer.as_flattened_mut(), address.stack)?;
        Ok(buffer.map(u128::from_le_bytes))
    }

    /// Stores the low `bytes` (up to 16) of a vector at the memory operand.
    pub fn store_wide(
        &mut self,
        insn: &Instruction,
        value: u128,
        bytes: usize,
        aligned: bool,
    ) -> Result<(), Fault> {
        let address = self.address(insn, bytes, Access::Write)?;
        if aligned && address.linear & (bytes as u64 - 1) != 0 {
            return Err(Fault::GP0);
        }
        match bytes {
            1 | 2 | 4 | 8 => self.store_sized(address, bytes, value as u64),
            16 => self.store_u128(address.linear, value, address.stack),
            _ => {
                let buffer = value.to_le_bytes();
                self.store_bytes(address.linear, &buffer[..bytes.min(16)], address.stack)
            }
        }
    }

    /// Stores 32 bytes at the memory operand.
    pub fn store_ymm(
        &mut self,
        insn: &Instruction,
        value: [u128; 2],
        aligned: bool,
    ) -> Result<(), Fault> {
        let address = self.address(insn, 32, Access::Write)?;
        if aligned && address.linear & 31 != 0 {
            return Err(Fault::GP0);
        }
        let buffer = value.map(u128::to_le_bytes);
        self.store_bytes(address.linear, buffer.as_flattened(), address.stack)
    }
}
