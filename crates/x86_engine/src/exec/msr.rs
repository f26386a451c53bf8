//! RDMSR, WRMSR and the MSRs that belong to the processor's own state.

use crate::cpu::{Cpu, bits};
use crate::exit::control;
use crate::fault::Fault;
use x86_arch::vmx::Seg;
use x86_arch::{ExitReason, RamPage};

const TSC: u32 = 0x10;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const UMWAIT_CONTROL: u32 = 0xE1;
const FLUSH_CMD: u32 = 0x10B;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const XFD: u32 = 0x1C4;
const XFD_ERR: u32 = 0x1C5;
const DEBUGCTL: u32 = 0x1D9;
const PAT: u32 = 0x277;
const DS_AREA: u32 = 0x600;
const PKRS: u32 = 0x6E1;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_LAST: u32 = 0x8FF;
const X2APIC_TPR: u32 = 0x808;
const X2APIC_EOI: u32 = 0x80B;
const X2APIC_ICR: u32 = 0x830;
const X2APIC_SELF_IPI: u32 = 0x83F;
const XSS: u32 = 0xDA0;
const EFER: u32 = 0xC000_0080;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const CSTAR: u32 = 0xC000_0083;
const FMASK: u32 = 0xC000_0084;
const FS_BASE: u32 = 0xC000_0100;
const GS_BASE: u32 = 0xC000_0101;
const KERNEL_GS_BASE: u32 = 0xC000_0102;
const TSC_AUX: u32 = 0xC000_0103;

/// Supervisor state components that IA32_XSS may enable here: none is implemented.
const XSS_SUPPORTED: u64 = 0;

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// The guest's time-stamp counter: the processor's, scaled and offset.
    pub fn guest_tsc(&mut self) -> u64 {
        let ticks = self.time();
        let mut tsc = self.platform.tsc(ticks);
        if self.primary(control::TSC_OFFSETTING) {
            if self.secondary(control::TSC_SCALING) {
                let product = u128::from(tsc) * u128::from(self.vcpu.controls.tsc_multiplier);
                tsc = (product >> 48) as u64;
            }
            tsc = tsc.wrapping_add(self.vcpu.controls.tsc_offset);
        }
        tsc
    }

    fn msr_exits(&self, msr: u32, write: bool) -> bool {
        !self.primary(control::MSR_BITMAPS) || self.vcpu.msr_bitmap.exits(msr, write)
    }
}

pub fn read<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    cpu.need_cpl0()?;
    let msr = cpu.reg(1) as u32;
    if cpu.msr_exits(msr, false) {
        return Err(cpu.exit_instruction(ExitReason::MSR_READ, 0));
    }
    let value = value_of(cpu, msr)?;
    cpu.set_reg(0, value as u32);
    cpu.set_reg(2, (value >> 32) as u32);
    Ok(())
}

fn value_of<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, msr: u32) -> Result<u64, Fault> {
    let regs = &cpu.vcpu.regs;
    let m = &regs.msr;
    Ok(match msr {
        TSC => cpu.guest_tsc(),
        SPEC_CTRL if cpu.vcpu.controls.tertiary & 1 << 7 != 0 => cpu.vcpu.controls.spec_ctrl_shadow,
        SPEC_CTRL => m.spec_ctrl,
        PRED_CMD | FLUSH_CMD => return Err(Fault::GP0),
        UMWAIT_CONTROL => m.umwait_control,
        SYSENTER_CS => m.sysenter_cs,
        SYSENTER_ESP => m.sysenter_esp,
        SYSENTER_EIP => m.sysenter_eip,
        XFD => m.xfd,
        XFD_ERR => m.xfd_err,
        DEBUGCTL => m.debugctl,
        PAT => m.pat,
        DS_AREA => m.ds_area,
        PKRS => m.pkrs,
        XSS => m.xss,
        EFER => m.efer,
        STAR => m.star,
        LSTAR => m.lstar,
        CSTAR => m.cstar,
        FMASK => m.fmask,
        FS_BASE => regs.segments[Seg::Fs as usize].base,
        GS_BASE => regs.segments[Seg::Gs as usize].base,
        KERNEL_GS_BASE => m.kernel_gs_base,
        TSC_AUX => m.tsc_aux,
        X2APIC_FIRST..=X2APIC_LAST if cpu.secondary(control::X2APIC) => {
            return read_x2apic(cpu, msr);
        }
        _ => return cpu.platform.read_msr(msr).ok_or(Fault::GP0),
    })
}

fn read_x2apic<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, msr: u32) -> Result<u64, Fault> {
    let offset = ((msr & 0xFF) << 4) as usize;
    if msr != X2APIC_TPR && !cpu.secondary(control::APIC_REGISTER) {
        return Err(Fault::GP0);
    }
    // Registers that can only be written, and numbers without a register.
    let known =
        matches!(msr & 0xFF, 2 | 3 | 8 | 0xA | 0xD | 0xF..=0x28 | 0x2F | 0x30 | 0x32..=0x39 | 0x3E);
    if !known {
        return Err(Fault::GP0);
    }
    let low = u64::from(cpu.vcpu.apic_page.read(offset));
    if msr == X2APIC_ICR {
        return Ok(low | u64::from(cpu.vcpu.apic_page.read(offset + 0x10)) << 32);
    }
    Ok(low)
}

pub fn write<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    cpu.need_cpl0()?;
    let msr = cpu.reg(1) as u32;
    if cpu.msr_exits(msr, true) {
        return Err(cpu.exit_instruction(ExitReason::MSR_WRITE, 0));
    }
    let value = cpu.reg(0) & 0xFFFF_FFFF | cpu.reg(2) << 32;
    set_value(cpu, msr, value)
}

fn fits(condition: bool) -> Result<(), Fault> {
    if condition { Ok(()) } else { Err(Fault::GP0) }
}

fn set_value<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    msr: u32,
    value: u64,
) -> Result<(), Fault> {
    let canonical = cpu.is_canonical(value);
    let m = &mut cpu.vcpu.regs.msr;
    match msr {
        SPEC_CTRL => {
            let controls = &mut cpu.vcpu.controls;
            if controls.tertiary & 1 << 7 != 0 {
                let mask = controls.spec_ctrl_mask;
                m.spec_ctrl = m.spec_ctrl & mask | value & !mask;
                controls.spec_ctrl_shadow = value;
            } else {
                m.spec_ctrl = value;
            }
        }
        PRED_CMD => fits(value >> 1 == 0 || value == 0x80)?,
        FLUSH_CMD => fits(value >> 1 == 0)?,
        UMWAIT_CONTROL => {
            fits(value >> 32 == 0 && value & 2 == 0)?;
            m.umwait_control = value;
        }
        SYSENTER_CS => m.sysenter_cs = value & 0xFFFF_FFFF,
        SYSENTER_ESP => {
            fits(canonical)?;
            m.sysenter_esp = value;
        }
        SYSENTER_EIP => {
            fits(canonical)?;
            m.sysenter_eip = value;
        }
        XFD | XFD_ERR => fits(value == 0)?,
        DEBUGCTL => m.debugctl = value,
        PAT => {
            fits(
                value
                    .to_le_bytes()
                    .iter()
                    .all(|t| matches!(t, 0 | 1 | 4..=7)),
            )?;
            m.pat = value;
        }
        DS_AREA => {
            fits(canonical)?;
            m.ds_area = value;
        }
        PKRS => {
            fits(value >> 32 == 0)?;
            if m.pkrs != value {
                m.pkrs = value;
                cpu.tlb.flush_linear();
            }
        }
        XSS => {
            fits(value & !XSS_SUPPORTED == 0)?;
            m.xss = value;
        }
        EFER => return write_efer(cpu, value),
        STAR => m.star = value,
        LSTAR => {
            fits(canonical)?;
            m.lstar = value;
        }
        CSTAR => {
            fits(canonical)?;
            m.cstar = value;
        }
        FMASK => {
            fits(value >> 32 == 0)?;
            m.fmask = value;
        }
        FS_BASE | GS_BASE => {
            fits(canonical)?;
            let seg = if msr == FS_BASE { Seg::Fs } else { Seg::Gs };
            cpu.vcpu.regs.segments[seg as usize].base = value;
            cpu.bases_changed();
        }
        KERNEL_GS_BASE => {
            fits(canonical)?;
            m.kernel_gs_base = value;
        }
        TSC_AUX => {
            fits(value >> 32 == 0)?;
            m.tsc_aux = value;
        }
        X2APIC_FIRST..=X2APIC_LAST if cpu.secondary(control::X2APIC) => {
            return write_x2apic(cpu, msr, value);
        }
        _ => fits(cpu.platform.write_msr(msr, value))?,
    }
    Ok(())
}

fn write_efer<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, value: u64) -> Result<(), Fault> {
    let supported = bits::EFER_SCE | bits::EFER_LME | bits::EFER_LMA | bits::EFER_NXE;
    let old = cpu.efer();
    let lme_changes = (old ^ value) & bits::EFER_LME != 0;
    fits(value & !supported == 0 && !(lme_changes && cpu.paging()))?;
    // LMA is read-only.
    let new = value & !bits::EFER_LMA | old & bits::EFER_LMA;
    cpu.vcpu.regs.msr.efer = new;
    if (old ^ new) & bits::EFER_NXE != 0 {
        cpu.tlb.flush_linear();
    }
    cpu.mode_changed();
    Ok(())
}

fn write_x2apic<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    msr: u32,
    value: u64,
) -> Result<(), Fault> {
    match msr {
        X2APIC_TPR => {
            fits(value >> 8 == 0)?;
            cpu.write_virtual_tpr(value as u8);
            Ok(())
        }
        X2APIC_EOI if cpu.secondary(control::VIRTUAL_INTERRUPT) => {
            fits(value == 0)?;
            cpu.virtual_eoi()
        }
        X2APIC_SELF_IPI if cpu.secondary(control::VIRTUAL_INTERRUPT) => {
            fits(value >> 8 == 0)?;
            cpu.virtual_self_ipi(value as u8);
            Ok(())
        }
        // The rest is not virtualised: read-only registers, or a local APIC that the guest does not own.
        _ => Err(Fault::GP0),
    }
}
