//! Descriptor tables and selectors: LGDT, SGDT, LLDT, LTR, LAR, LSL, VERR, VERW, ARPL and their relatives.

use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::flags::ZF;
use crate::segment::{Descriptor, UNUSABLE};
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::vmx::{Segment, TableRegister};
use x86_arch::{Access, RamPage};

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// UMIP: SGDT, SIDT, SLDT, STR and SMSW are for ring 0 when CR4.UMIP is set.
    pub(crate) fn check_umip(&self) -> Result<(), Fault> {
        if self.cpl > 0 && self.cr4() & bits::CR4_UMIP != 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }
}

/// SGDT and SIDT.
pub fn store_table<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    cpu.check_umip()?;
    let table = if insn.mnemonic() == Mnemonic::Sgdt {
        cpu.vcpu.regs.gdtr
    } else {
        cpu.vcpu.regs.idtr
    };
    let wide = cpu.is_64();
    let bytes = if wide { 10 } else { 6 };
    let address = cpu.address(insn, bytes, Access::Write)?;
    let mut image = [0; 10];
    image[..2].copy_from_slice(&table.limit.to_le_bytes());
    image[2..].copy_from_slice(&table.base.to_le_bytes());
    cpu.store_bytes(address.linear, &image[..bytes], address.stack)
}

/// LGDT and LIDT.
pub fn load_table<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    cpu.need_cpl0()?;
    let bytes = if cpu.is_64() { 10 } else { 6 };
    let address = cpu.address(insn, bytes, Access::Read)?;
    let mut image = [0; 10];
    cpu.load_bytes(address.linear, &mut image[..bytes], address.stack)?;
    let limit = u16::from_le_bytes([image[0], image[1]]);
    let mut base = image[2..]
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if cpu.is_64() {
        if !cpu.is_canonical(base) {
            return Err(Fault::GP0);
        }
    } else if matches!(
        insn.code(),
        iced_x86::Code::Lgdt_m1632_16 | iced_x86::Code::Lidt_m1632_16
    ) {
        base &= 0xFF_FFFF;
    }
    let table = TableRegister { base, limit };
    if insn.mnemonic() == Mnemonic::Lgdt {
        cpu.vcpu.regs.gdtr = table;
    } else {
        cpu.vcpu.regs.idtr = table;
    }
    Ok(())
}

/// SLDT and STR.
pub fn store_selector<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    cpu.check_umip()?;
    let selector = if insn.mnemonic() == Mnemonic::Sldt {
        cpu.vcpu.regs.ldtr.selector
    } else {
        cpu.vcpu.regs.tr.selector
    };
    if insn.op_kind(0) == OpKind::Memory {
        cpu.write_memory(insn, 2, u64::from(selector))
    } else {
        cpu.write_operand(insn, 0, u64::from(selector))
    }
}

/// Reads a 16-bit selector operand (a register's low half, or 2 bytes of memory).
fn selector<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
    operand: u32,
) -> Result<u16, Fault> {
    Ok(if insn.op_kind(operand) == OpKind::Memory {
        cpu.read_memory(insn, 2)? as u16
    } else {
        cpu.read_operand(insn, operand)? as u16
    })
}

/// LLDT and LTR.
pub fn load_system<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let task = insn.mnemonic() == Mnemonic::Ltr;
    cpu.need_cpl0()?;
    let selector = selector(cpu, insn, 0)?;
    let error = selector & !3;
    if selector & !3 == 0 {
        if task {
            return Err(Fault::GP0);
        }
        cpu.vcpu.regs.ldtr = Segment {
            selector,
            access: UNUSABLE,
            ..Segment::default()
        };
        return Ok(());
    }
    if selector & 4 != 0 {
        return Err(Fault::gp(error));
    }
    let descriptor = cpu.read_descriptor(selector, Fault::gp)?;
    let kind_fits = !descriptor.is_user_type()
        && match (task, descriptor.kind()) {
            (true, 9) => true,
            (true, 1) => !cpu.long_mode(),
            (false, 2) => true,
            _ => false,
        };
    if !kind_fits {
        return Err(Fault::gp(error));
    }
    if !descriptor.present() {
        return Err(Fault::np(error));
    }
    let mut segment = descriptor.segment(selector);
    if cpu.long_mode() {
        // The descriptor is 16 bytes long; bits 63:32 of the base are in its upper half.
        let limit = u32::from(cpu.vcpu.regs.gdtr.limit);
        if u32::from(selector & !7) + 15 > limit {
            return Err(Fault::gp(error));
        }
        let high = cpu.load_system::<u64>(descriptor.address.wrapping_add(8))?;
        if high >> 40 & 0x1F != 0 {
            return Err(Fault::gp(error));
        }
        segment.base |= high << 32;
        if !cpu.is_canonical(segment.base) {
            return Err(Fault::gp(error));
        }
    }
    if task {
        let busy = (descriptor.raw >> 40) as u8 | 2;
        cpu.store_system::<u8>(descriptor.address.wrapping_add(5), busy)?;
        segment.access |= 2;
        cpu.vcpu.regs.tr = segment;
    } else {
        cpu.vcpu.regs.ldtr = segment;
    }
    Ok(())
}

/// The descriptor of a selector that software asks about; `None` when it cannot be seen.
fn visible<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    selector: u16,
) -> Result<Option<Descriptor>, Fault> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    match cpu.read_descriptor(selector, Fault::gp) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(fault) if !fault.is_exit() && fault.vector() == 13 => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn privilege_allows<P: RamPage + 'static>(cpu: &Cpu<'_, P>, d: &Descriptor, selector: u16) -> bool {
    let conforming_code = d.is_code() && d.conforming();
    conforming_code || cpu.cpl <= d.dpl() && (selector & 3) as u8 <= d.dpl()
}

/// LAR and LSL.
pub fn query<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let wants_limit = insn.mnemonic() == Mnemonic::Lsl;
    let selector = selector(cpu, insn, 1)?;
    let long = cpu.long_mode();
    let answer = visible(cpu, selector)?.filter(|d| {
        let kind_fits = d.is_user_type()
            || match d.kind() {
                2 | 9 | 11 => true,
                1 | 3 => !long,
                4 | 5 => !long && !wants_limit,
                12 => !wants_limit,
                _ => false,
            };
        kind_fits && privilege_allows(cpu, d, selector)
    });
    cpu.flags.set(ZF, if answer.is_some() { ZF } else { 0 });
    match answer {
        Some(d) if wants_limit => cpu.write_operand(insn, 0, u64::from(d.limit())),
        Some(d) => cpu.write_operand(insn, 0, d.raw >> 32 & 0x00FF_FF00),
        None => Ok(()),
    }
}

/// VERR and VERW.
pub fn verify<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let write = insn.mnemonic() == Mnemonic::Verw;
    let selector = selector(cpu, insn, 0)?;
    let fits = visible(cpu, selector)?.is_some_and(|d| {
        let kind = d.kind();
        d.is_user_type()
            && privilege_allows(cpu, &d, selector)
            && if write {
                kind & 0xA == 2
            } else {
                kind & 8 == 0 || kind & 2 != 0
            }
    });
    cpu.flags.set(ZF, if fits { ZF } else { 0 });
    Ok(())
}

pub fn arpl<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let source = cpu.read_operand(insn, 1)? & 3;
    let raised = cpu.update_operand(insn, false, |old| {
        let raised = old & 3 < source;
        (if raised { old & !3 | source } else { old }, raised)
    })?;
    cpu.flags.set(ZF, if raised { ZF } else { 0 });
    Ok(())
}
