//! SYSCALL, SYSRET, SYSENTER, SYSEXIT.

use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::flags;
use iced_x86::{Code, Instruction};
use x86_arch::RamPage;
use x86_arch::vmx::{Seg, Segment};

const CODE_64: u32 = 0xA09B;
const CODE_32: u32 = 0xC09B;
const DATA: u32 = 0xC093;

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Flat CS and SS at privilege level `cpl`, without a look at the tables.
    fn set_flat(&mut self, code: u16, stack: u16, access: u32, cpl: u8) {
        let dpl = u32::from(cpl) << 5;
        let segment = |selector: u16, access: u32| Segment {
            selector: selector & !3 | u16::from(cpl),
            limit: 0xFFFF_FFFF,
            access: access | dpl,
            base: 0,
        };
        self.vcpu.regs.segments[Seg::Cs as usize] = segment(code, access);
        self.set_segment(Seg::Ss, segment(stack, DATA));
    }
}

pub fn syscall<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    if !cpu.is_64() || cpu.efer() & bits::EFER_SCE == 0 {
        return Err(Fault::UD);
    }
    let rflags = cpu.rflags();
    cpu.gpr[1] = cpu.next_rip;
    cpu.gpr[11] = rflags & !flags::RF;
    let selector = (cpu.vcpu.regs.msr.star >> 32) as u16;
    let (target, fmask) = (cpu.vcpu.regs.msr.lstar, cpu.vcpu.regs.msr.fmask);
    cpu.set_flat(selector, (selector & !3).wrapping_add(8), CODE_64, 0);
    cpu.set_rflags(rflags & !fmask & !flags::RF);
    cpu.next_rip = target;
    Ok(())
}

pub fn sysret<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    if !cpu.is_64() || cpu.efer() & bits::EFER_SCE == 0 {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    let selector = (cpu.vcpu.regs.msr.star >> 48) as u16;
    let (target, code, access) = if insn.code() == Code::Sysretq {
        // The fault comes in ring 0, on the kernel's stack.
        if !cpu.is_canonical(cpu.reg(1)) {
            return Err(Fault::GP0);
        }
        (cpu.reg(1), selector.wrapping_add(16), CODE_64)
    } else {
        (cpu.reg(1) & 0xFFFF_FFFF, selector, CODE_32)
    };
    let rflags = cpu.reg(11) & 0x3C_7FD7 | 2;
    cpu.set_flat(code, selector.wrapping_add(8), access, 3);
    cpu.set_rflags(rflags);
    cpu.next_rip = target;
    Ok(())
}

pub fn sysenter<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    let msr = &cpu.vcpu.regs.msr;
    let selector = msr.sysenter_cs as u16;
    let (rip, rsp) = (msr.sysenter_eip, msr.sysenter_esp);
    if selector & !3 == 0 || cpu.cr0() & bits::CR0_PE == 0 {
        return Err(Fault::GP0);
    }
    let long = cpu.long_mode();
    let access = if long { CODE_64 } else { CODE_32 };
    cpu.set_flat(selector, (selector & !3).wrapping_add(8), access, 0);
    cpu.change_system_flags(flags::VM | flags::IF, 0);
    let mask = if long { u64::MAX } else { 0xFFFF_FFFF };
    cpu.gpr[4] = rsp & mask;
    cpu.next_rip = rip & mask;
    Ok(())
}

pub fn sysexit<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let selector = cpu.vcpu.regs.msr.sysenter_cs as u16;
    if selector & !3 == 0 || cpu.cr0() & bits::CR0_PE == 0 {
        return Err(Fault::GP0);
    }
    cpu.need_cpl0()?;
    let (rip, rsp) = (cpu.reg(2), cpu.reg(1));
    if insn.code() == Code::Sysexitq {
        if !cpu.is_canonical(rip) || !cpu.is_canonical(rsp) {
            return Err(Fault::GP0);
        }
        cpu.set_flat(
            selector.wrapping_add(32),
            selector.wrapping_add(40),
            CODE_64,
            3,
        );
        cpu.gpr[4] = rsp;
        cpu.next_rip = rip;
    } else {
        cpu.set_flat(
            selector.wrapping_add(16),
            selector.wrapping_add(24),
            CODE_32,
            3,
        );
        cpu.gpr[4] = rsp & 0xFFFF_FFFF;
        cpu.next_rip = rip & 0xFFFF_FFFF;
    }
    Ok(())
}
