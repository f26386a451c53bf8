//! MOV to and from CR0 to CR8 and DR0 to DR7, CLTS, LMSW, SMSW.

use crate::cpu::{Cpu, bits};
use crate::event::cr0_consistent;
use crate::exit::control;
use crate::fault::Fault;
use iced_x86::{Instruction, OpKind, Register};
use x86_arch::{ExitReason, RamPage};

/// CR4 bits that this processor has.
pub const CR4_SUPPORTED: u64 = bits::CR4_VME
    | 1 << 1
    | bits::CR4_TSD
    | bits::CR4_DE
    | bits::CR4_PSE
    | bits::CR4_PAE
    | 1 << 6
    | bits::CR4_PGE
    | bits::CR4_PCE
    | bits::CR4_OSFXSR
    | bits::CR4_OSXMMEXCPT
    | bits::CR4_UMIP
    | bits::CR4_LA57
    | 1 << 13
    | bits::CR4_FSGSBASE
    | bits::CR4_PCIDE
    | bits::CR4_OSXSAVE
    | bits::CR4_SMEP
    | bits::CR4_SMAP
    | bits::CR4_PKE
    | bits::CR4_PKS;

const MOV_TO: u64 = 0;
const MOV_FROM: u64 = 1;
const CLTS: u64 = 2;
const LMSW: u64 = 3;

/// MOV with a control or debug register on one side.
pub fn mov<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let (to, from) = (insn.op_register(0), insn.op_register(1));
    if to.is_dr() || from.is_dr() {
        return debug(cpu, insn);
    }
    if to.is_cr() {
        let value = cpu.register(from);
        write(cpu, to.number() as u8, value, from.number() as u64)
    } else if from.is_cr() {
        let value = read(cpu, from.number() as u8, to.number() as u64)?;
        cpu.set_register(to, value);
        Ok(())
    } else {
        Err(Fault::UD)
    }
}

fn qualification(cr: u8, kind: u64, gpr: u64) -> u64 {
    u64::from(cr) | kind << 4 | gpr << 8
}

fn read<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, cr: u8, gpr: u64) -> Result<u64, Fault> {
    if !matches!(cr, 0 | 2 | 3 | 4 | 8) {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    let controls = &cpu.vcpu.controls;
    match cr {
        0 => Ok(cpu.visible_cr0()),
        2 => Ok(cpu.vcpu.regs.cr2),
        3 if cpu.primary(control::CR3_STORE) => {
            Err(cpu.exit_instruction(ExitReason::CR_ACCESS, qualification(3, MOV_FROM, gpr)))
        }
        3 => Ok(cpu.vcpu.regs.cr3),
        4 => Ok(cpu.cr4() & !controls.cr4_mask | controls.cr4_shadow & controls.cr4_mask),
        _ if cpu.primary(control::CR8_STORE) => {
            Err(cpu.exit_instruction(ExitReason::CR_ACCESS, qualification(8, MOV_FROM, gpr)))
        }
        _ => Ok(u64::from(cpu.virtual_tpr() >> 4)),
    }
}

fn write<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    cr: u8,
    value: u64,
    gpr: u64,
) -> Result<(), Fault> {
    if !matches!(cr, 0 | 2 | 3 | 4 | 8) {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    let controls = &cpu.vcpu.controls;
    let exits = match cr {
        0 => (value ^ controls.cr0_shadow) & controls.cr0_mask != 0,
        3 => cpu.primary(control::CR3_LOAD),
        4 => (value ^ controls.cr4_shadow) & controls.cr4_mask != 0,
        8 => cpu.primary(control::CR8_LOAD),
        _ => false,
    };
    if exits {
        return Err(cpu.exit_instruction(ExitReason::CR_ACCESS, qualification(cr, MOV_TO, gpr)));
    }
    match cr {
        0 => {
            let mask = controls.cr0_mask;
            let new = value & !mask | cpu.cr0() & mask;
            cpu.write_cr0(new)
        }
        2 => {
            cpu.vcpu.regs.cr2 = value;
            Ok(())
        }
        3 => cpu.write_cr3(value),
        4 => {
            let mask = controls.cr4_mask;
            let new = value & !mask | cpu.cr4() & mask;
            cpu.write_cr4(new)
        }
        _ if value > 15 => Err(Fault::GP0),
        _ => {
            cpu.write_virtual_tpr((value as u8) << 4);
            Ok(())
        }
    }
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    fn visible_cr0(&self) -> u64 {
        let controls = &self.vcpu.controls;
        self.cr0() & !controls.cr0_mask | controls.cr0_shadow & controls.cr0_mask
    }

    fn write_cr0(&mut self, new: u64) -> Result<(), Fault> {
        let old = self.cr0();
        let new = new | bits::CR0_ET;
        if new >> 32 != 0 || !cr0_consistent(new) || new & bits::CR0_PE == 0 {
            return Err(Fault::GP0);
        }
        let cr4 = self.cr4();
        let changed = old ^ new;
        if changed & bits::CR0_PG != 0 {
            if new & bits::CR0_PG != 0 {
                if self.efer() & bits::EFER_LME != 0 {
                    let cs_long = self.segment(x86_arch::vmx::Seg::Cs).access & 1 << 13 != 0;
                    if cr4 & bits::CR4_PAE == 0 || cs_long {
                        return Err(Fault::GP0);
                    }
                    self.vcpu.regs.msr.efer |= bits::EFER_LMA;
                }
            } else {
                if self.is_64() || cr4 & bits::CR4_PCIDE != 0 {
                    return Err(Fault::GP0);
                }
                self.vcpu.regs.msr.efer &= !bits::EFER_LMA;
            }
        }
        // SDM 4.4.1: a change of CD or NW reads the PDPTEs as one of PG does.
        let pae = new & bits::CR0_PG != 0 && cr4 & bits::CR4_PAE != 0 && !self.long_mode();
        if pae && changed & (bits::CR0_PG | bits::CR0_CD | bits::CR0_NW) != 0 {
            self.load_pdptes(self.vcpu.regs.cr3)?;
        }
        self.vcpu.regs.cr0 = new;
        if changed & (bits::CR0_PG | bits::CR0_WP) != 0 {
            self.tlb.flush_linear();
        }
        self.mode_changed();
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let pcide = self.cr4() & bits::CR4_PCIDE != 0;
        let keep = pcide && value >> 63 != 0;
        let value = if pcide { value & !(1 << 63) } else { value };
        if self.long_mode() {
            if value >> 52 != 0 {
                return Err(Fault::GP0);
            }
        } else if self.paging() && self.cr4() & bits::CR4_PAE != 0 {
            self.load_pdptes(value)?;
        }
        self.vcpu.regs.cr3 = value;
        let vpid = self.vpid();
        let pcid = crate::engine::pcid(self.vcpu);
        self.tlb.enter_space(vpid, pcid);
        if !keep {
            self.tlb.flush_space(vpid, pcid);
        }
        self.update_tag();
        Ok(())
    }

    pub(crate) fn vpid(&self) -> u16 {
        if self.secondary(control::VPID) {
            self.vcpu.controls.vpid
        } else {
            0
        }
    }

    fn write_cr4(&mut self, new: u64) -> Result<(), Fault> {
        let old = self.cr4();
        let changed = old ^ new;
        if new & !CR4_SUPPORTED != 0 {
            return Err(Fault::GP0);
        }
        if self.long_mode() && (new & bits::CR4_PAE == 0 || changed & bits::CR4_LA57 != 0) {
            return Err(Fault::GP0);
        }
        if changed & new & bits::CR4_PCIDE != 0
            && (!self.long_mode() || self.vcpu.regs.cr3 & 0xFFF != 0)
        {
            return Err(Fault::GP0);
        }
        let pae_changes = bits::CR4_PAE | bits::CR4_PGE | bits::CR4_PSE | bits::CR4_SMEP;
        if self.paging()
            && !self.long_mode()
            && new & bits::CR4_PAE != 0
            && changed & pae_changes != 0
        {
            self.load_pdptes(self.vcpu.regs.cr3)?;
        }
        self.vcpu.regs.cr4 = new;
        let matters = bits::CR4_PSE
            | bits::CR4_PAE
            | bits::CR4_PGE
            | bits::CR4_LA57
            | bits::CR4_PCIDE
            | bits::CR4_SMEP
            | bits::CR4_SMAP
            | bits::CR4_PKE
            | bits::CR4_PKS;
        if changed & matters != 0 {
            self.tlb.flush_linear();
            let (vpid, pcid) = (self.vpid(), crate::engine::pcid(self.vcpu));
            self.tlb.enter_space(vpid, pcid);
        }
        self.mode_changed();
        Ok(())
    }
}

pub fn clts<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    cpu.need_cpl0()?;
    let controls = &cpu.vcpu.controls;
    if controls.cr0_mask & bits::CR0_TS != 0 {
        if controls.cr0_shadow & bits::CR0_TS != 0 {
            return Err(cpu.exit_instruction(ExitReason::CR_ACCESS, qualification(0, CLTS, 0)));
        }
        return Ok(());
    }
    cpu.vcpu.regs.cr0 &= !bits::CR0_TS;
    Ok(())
}

pub fn lmsw<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    cpu.need_cpl0()?;
    let memory = insn.op_kind(0) == OpKind::Memory;
    let (source, linear) = if memory {
        let address = cpu.address(insn, 2, x86_arch::Access::Read)?;
        (cpu.load_sized(address, 2)?, address.linear)
    } else {
        (cpu.read_operand(insn, 0)? & 0xFFFF, 0)
    };
    let controls = &cpu.vcpu.controls;
    let mask = controls.cr0_mask;
    // PE can only be set; MP, EM and TS are loaded.
    let pe_exits = mask & 1 != 0 && source & 1 != 0 && controls.cr0_shadow & 1 == 0;
    if pe_exits || (source ^ controls.cr0_shadow) & mask & 0xE != 0 {
        let fault = cpu.exit_instruction(
            ExitReason::CR_ACCESS,
            qualification(0, LMSW, 0) | u64::from(memory) << 6 | source << 16,
        );
        cpu.vcpu.exit.guest_linear_address = linear;
        return Err(fault);
    }
    let loaded = 0xE & !mask;
    let new = cpu.cr0() & !loaded | source & loaded;
    cpu.write_cr0(new)
}

pub fn smsw<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    cpu.check_umip()?;
    let value = cpu.visible_cr0();
    if insn.op_kind(0) == OpKind::Memory {
        cpu.write_memory(insn, 2, value & 0xFFFF)
    } else {
        cpu.write_operand(insn, 0, value)
    }
}

fn debug<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let (to, from) = (insn.op_register(0), insn.op_register(1));
    let writes = to.is_dr();
    let (dr, gpr): (Register, Register) = if writes { (to, from) } else { (from, to) };
    let number = dr.number() as u8;
    let aliased = matches!(number, 4 | 5);
    if number > 7 || aliased && cpu.cr4() & bits::CR4_DE != 0 {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    if cpu.primary(control::MOV_DR) {
        let qualification =
            u64::from(number) | u64::from(!writes) << 4 | (gpr.number() as u64) << 8;
        return Err(cpu.exit_instruction(ExitReason::DR_ACCESS, qualification));
    }
    if cpu.vcpu.regs.dr7 & 1 << 13 != 0 {
        // General detect: BD is bit 13 of DR6.
        cpu.vcpu.regs.dr6 |= 1 << 13;
        cpu.vcpu.regs.dr7 &= !(1 << 13);
        return Err(Fault::DB);
    }
    let number = if aliased { number + 2 } else { number };
    if !writes {
        let value = match number {
            6 => cpu.vcpu.regs.dr6,
            7 => cpu.vcpu.regs.dr7,
            n => cpu.vcpu.regs.dr[n as usize & 3],
        };
        cpu.set_register(gpr, value);
        return Ok(());
    }
    let value = cpu.register(gpr);
    match number {
        6 | 7 if value >> 32 != 0 => return Err(Fault::GP0),
        6 => cpu.vcpu.regs.dr6 = value & 0xE80F | 0xFFFF_0FF0,
        7 => {
            cpu.vcpu.regs.dr7 = value & 0xFFFF_2BFF | 0x400;
            cpu.update_tag();
            cpu.attention = true;
        }
        n => cpu.vcpu.regs.dr[n as usize & 3] = value,
    }
    Ok(())
}
