//! Instructions about the processor itself: CPUID, HLT, caches, TLB, clocks, random numbers, flags that control
//! it, FS and GS bases, protection keys, and everything that leaves VMX non-root mode by name.

use crate::cpu::{Cpu, bits};
use crate::engine::STI_SHADOW;
use crate::exit::control;
use crate::fault::Fault;
use crate::flags::{self, ARITHMETIC, CF};
use crate::operand::Address;
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::vmx::Seg;
use x86_arch::{Access, ExitReason, RamPage};

/// Ticks that a PAUSE takes, about what current processors wait.
const PAUSE_TICKS: u64 = 140;

type Done = Result<(), Fault>;

pub fn cpuid<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Done {
    Err(cpu.exit_instruction(ExitReason::CPUID_INSTRUCTION, 0))
}

pub fn hlt<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Done {
    cpu.need_cpl0()?;
    if cpu.primary(control::HLT) {
        return Err(cpu.exit_instruction(ExitReason::HLT_INSTRUCTION, 0));
    }
    cpu.vcpu.regs.activity = 1;
    cpu.attention = true;
    Ok(())
}

/// INVD, WBINVD, WBNOINVD: the caches here are always coherent.
pub fn write_back<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    cpu.need_cpl0()?;
    if insn.mnemonic() == Mnemonic::Invd {
        return Err(cpu.exit_instruction(ExitReason::INVD_INSTRUCTION, 0));
    }
    if cpu.secondary(control::WBINVD) {
        return Err(cpu.exit_instruction(ExitReason::WBINVD_INSTRUCTION, 0));
    }
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB, CLDEMOTE: they check the address like a load.
pub fn flush_line<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if insn.mnemonic() == Mnemonic::Cldemote {
        return Ok(());
    }
    let address = cpu.address(insn, 1, Access::Read)?;
    cpu.load_in::<u8>(address.linear, address.stack)?;
    Ok(())
}

pub fn invlpg<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    cpu.need_cpl0()?;
    let seg = crate::operand::segment_of(insn.memory_segment());
    let linear = cpu
        .effective(insn)
        .wrapping_add(cpu.reg(crate::cpu::REG_SEG + seg as u8));
    let linear = cpu.wrap(linear);
    if cpu.primary(control::INVLPG) {
        return Err(cpu.exit_instruction(ExitReason::INVLPG_INSTRUCTION, linear));
    }
    // An address that is not canonical is no translation's.
    cpu.tlb.flush_page(linear);
    Ok(())
}

pub fn invpcid<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if !cpu.secondary(control::INVPCID) && cpu.primary(control::SECONDARY) {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    if cpu.primary(control::INVLPG) {
        let info = instruction_info(insn);
        return Err(cpu.exit_instruction_info(ExitReason::INVPCID_INSTRUCTION, 0, info));
    }
    let kind = cpu.read_operand(insn, 0)?;
    let address = cpu.address(insn, 16, Access::Read)?;
    let low = cpu.load_sized(address, 8)?;
    let next = Address {
        linear: cpu.wrap(address.linear.wrapping_add(8)),
        ..address
    };
    let linear = cpu.load_sized(next, 8)?;
    let pcid = low as u16 & 0xFFF;
    let pcide = cpu.cr4() & bits::CR4_PCIDE != 0;
    let bad = kind > 3
        || kind < 2 && (low >> 12 != 0 || !pcide && pcid != 0)
        || kind == 0 && !cpu.is_canonical(linear);
    if bad {
        return Err(Fault::GP0);
    }
    let vpid = cpu.vpid();
    match kind {
        0 => cpu.tlb.flush_page(linear),
        1 => cpu.tlb.flush_space(vpid, pcid),
        _ => cpu.tlb.flush_linear(),
    }
    Ok(())
}

/// Instruction information for INVPCID and its relatives (SDM table 28-12).
fn instruction_info(insn: &Instruction) -> u32 {
    let base = insn.memory_base();
    let index = insn.memory_index();
    let none = iced_x86::Register::None;
    let ip_relative = insn.is_ip_rel_memory_operand();
    insn.memory_index_scale().trailing_zeros()
        | 2 << 7
        | (crate::operand::segment_of(insn.memory_segment()) as u32) << 15
        | if index == none {
            1 << 22
        } else {
            (index.number() as u32) << 18
        }
        | if base == none || ip_relative {
            1 << 27
        } else {
            (base.number() as u32) << 23
        }
        | (insn.op_register(0).number() as u32) << 28
}

pub fn rdtsc<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    let with_aux = insn.mnemonic() == Mnemonic::Rdtscp;
    if with_aux && cpu.primary(control::SECONDARY) && !cpu.secondary(control::RDTSCP) {
        return Err(Fault::UD);
    }
    if cpu.cr4() & bits::CR4_TSD != 0 && cpu.cpl > 0 {
        return Err(Fault::GP0);
    }
    if cpu.primary(control::RDTSC) {
        let reason = if with_aux {
            ExitReason::RDTSCP
        } else {
            ExitReason::RDTSC_INSTRUCTION
        };
        return Err(cpu.exit_instruction(reason, 0));
    }
    let tsc = cpu.guest_tsc();
    cpu.set_reg(0, tsc as u32);
    cpu.set_reg(2, (tsc >> 32) as u32);
    if with_aux {
        let aux = cpu.vcpu.regs.msr.tsc_aux as u32;
        cpu.set_reg(1, aux);
    }
    Ok(())
}

pub fn rdpid<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if cpu.primary(control::SECONDARY) && !cpu.secondary(control::RDTSCP) {
        return Err(Fault::UD);
    }
    let value = cpu.vcpu.regs.msr.tsc_aux & 0xFFFF_FFFF;
    cpu.set_register(insn.op_register(0), value);
    Ok(())
}

/// No performance counter is implemented: RDPMC exits or faults.
pub fn rdpmc<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Done {
    if cpu.cpl > 0 && cpu.cr4() & bits::CR4_PCE == 0 {
        return Err(Fault::GP0);
    }
    if cpu.primary(control::RDPMC) {
        return Err(cpu.exit_instruction(ExitReason::RDPMC_INSTRUCTION, 0));
    }
    Err(Fault::GP0)
}

pub fn random<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    let seed = insn.mnemonic() == Mnemonic::Rdseed;
    let bytes = insn.op_register(0).size();
    let (bit, reason) = if seed {
        (control::RDSEED, ExitReason::RDSEED_INSTRUCTION)
    } else {
        (control::RDRAND, ExitReason::RDRAND_INSTRUCTION)
    };
    if cpu.secondary(bit) {
        let info = (bytes as u32 >> 2) << 11 | (insn.op_register(0).number() as u32) << 3;
        return Err(cpu.exit_instruction_info(reason, 0, info));
    }
    let value = cpu.platform.random();
    cpu.flags
        .set(ARITHMETIC, if value.is_some() { CF } else { 0 });
    cpu.set_register(insn.op_register(0), value.unwrap_or(0));
    Ok(())
}

pub fn pause<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Done {
    if cpu.primary(control::PAUSE) {
        return Err(cpu.exit_instruction(ExitReason::PAUSE_INSTRUCTION, 0));
    }
    if cpu.cpl == 0 && cpu.secondary(control::PAUSE_LOOP) && pause_loop(cpu) {
        return Err(cpu.exit_instruction(ExitReason::PAUSE_INSTRUCTION, 0));
    }
    cpu.waited += PAUSE_TICKS - 1;
    Ok(())
}

/// Whether this PAUSE belongs to a loop that lasts longer than its window (SDM volume 3, 26.1.3). The first PAUSE
/// after VM entry begins a loop, as one does that comes later than the gap after the one before.
fn pause_loop<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> bool {
    let now = cpu.platform.tsc(cpu.time());
    let controls = &cpu.vcpu.controls;
    let first = match cpu.pauses {
        Some((last, first)) if now.wrapping_sub(last) <= u64::from(controls.ple_gap) => first,
        _ => now,
    };
    cpu.pauses = Some((now, first));
    now.wrapping_sub(first) > u64::from(controls.ple_window)
}

/// MONITOR and MWAIT; without an exit, waiting ends at once.
pub fn monitor<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if cpu.cpl > 0 {
        return Err(Fault::UD);
    }
    if insn.mnemonic() == Mnemonic::Mwait {
        if cpu.primary(control::MWAIT) {
            // Qualification bit 0: the address range is armed.
            return Err(cpu.exit_instruction(ExitReason::MWAIT_INSTRUCTION, 0));
        }
        if cpu.reg(1) as u32 & !1 != 0 {
            return Err(Fault::GP0);
        }
        cpu.waited += PAUSE_TICKS - 1;
        return Ok(());
    }
    if cpu.primary(control::MONITOR) {
        return Err(cpu.exit_instruction(ExitReason::MONITOR_INSTRUCTION, 0));
    }
    if cpu.reg(1) as u32 != 0 {
        return Err(Fault::GP0);
    }
    let seg = crate::operand::segment_of(insn.memory_segment());
    let size = if cpu.is_64() { 8 } else { 4 };
    let offset = crate::operand::cut(cpu.reg(0), size);
    let address = cpu.in_segment(seg, offset, 1, Access::Read)?;
    cpu.load_sized(address, 1)?;
    Ok(())
}

/// UMONITOR, UMWAIT, TPAUSE; waiting ends at once.
pub fn user_wait<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if !cpu.secondary(control::USER_WAIT) {
        return Err(Fault::UD);
    }
    if insn.mnemonic() == Mnemonic::Umonitor {
        let offset = cpu.read_operand(insn, 0)?;
        let address = cpu.in_segment(Seg::Ds, offset, 1, Access::Read)?;
        cpu.load_sized(address, 1)?;
        return Ok(());
    }
    if cpu.read_operand(insn, 0)? as u32 & !1 != 0 {
        return Err(Fault::GP0);
    }
    if cpu.primary(control::RDTSC) {
        let reason = if insn.mnemonic() == Mnemonic::Umwait {
            ExitReason::UMWAIT
        } else {
            ExitReason::TPAUSE
        };
        return Err(cpu.exit_instruction(reason, 0));
    }
    cpu.waited += PAUSE_TICKS - 1;
    cpu.flags.set(ARITHMETIC, 0);
    Ok(())
}

/// CLI and STI.
pub fn interrupt_flag<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if cpu.cpl > cpu.iopl() {
        return Err(Fault::GP0);
    }
    if insn.mnemonic() == Mnemonic::Cli {
        cpu.change_system_flags(flags::IF, 0);
        return Ok(());
    }
    if cpu.system_flags & flags::IF == 0 {
        cpu.change_system_flags(flags::IF, flags::IF);
        cpu.vcpu.regs.interruptibility |= STI_SHADOW;
    }
    Ok(())
}

/// CLAC and STAC.
pub fn alignment_flag<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if cpu.cpl > 0 {
        return Err(Fault::UD);
    }
    let value = if insn.mnemonic() == Mnemonic::Stac {
        flags::AC
    } else {
        0
    };
    cpu.change_system_flags(flags::AC, value);
    Ok(())
}

/// CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC.
pub fn flag<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    let cf = cpu.flags.cf();
    match insn.mnemonic() {
        Mnemonic::Clc => cpu.flags.set_cf(false),
        Mnemonic::Stc => cpu.flags.set_cf(true),
        Mnemonic::Cmc => cpu.flags.set_cf(!cf),
        Mnemonic::Cld => cpu.system_flags &= !flags::DF,
        Mnemonic::Std => cpu.system_flags |= flags::DF,
        Mnemonic::Lahf => {
            let bits = cpu.flags.bits() & 0xD5 | 2;
            let ax = cpu.reg(0) & 0xFF | bits << 8;
            cpu.set_reg(0, ax as u16);
        }
        Mnemonic::Sahf => {
            let bits = cpu.reg(0) >> 8;
            cpu.flags.set(ARITHMETIC & !flags::OF, bits);
        }
        _ => cpu.set_reg(0, if cf { 0xFFu8 } else { 0 }),
    }
    Ok(())
}

pub fn swapgs<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Done {
    if !cpu.is_64() {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    let regs = &mut cpu.vcpu.regs;
    core::mem::swap(
        &mut regs.segments[Seg::Gs as usize].base,
        &mut regs.msr.kernel_gs_base,
    );
    cpu.bases_changed();
    Ok(())
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
pub fn segment_base<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if !cpu.is_64() || cpu.cr4() & bits::CR4_FSGSBASE == 0 {
        return Err(Fault::UD);
    }
    let (seg, writes) = match insn.mnemonic() {
        Mnemonic::Rdfsbase => (Seg::Fs, false),
        Mnemonic::Rdgsbase => (Seg::Gs, false),
        Mnemonic::Wrfsbase => (Seg::Fs, true),
        _ => (Seg::Gs, true),
    };
    if !writes {
        let base = cpu.segment(seg).base;
        return cpu.write_operand(insn, 0, base);
    }
    let base = cpu.read_operand(insn, 0)?;
    if !cpu.is_canonical(base) {
        return Err(Fault::GP0);
    }
    cpu.vcpu.regs.segments[seg as usize].base = base;
    cpu.bases_changed();
    Ok(())
}

/// RDPKRU and WRPKRU.
pub fn protection_keys<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    if cpu.cr4() & bits::CR4_PKE == 0 {
        return Err(Fault::UD);
    }
    if cpu.reg(1) as u32 != 0 {
        return Err(Fault::GP0);
    }
    if insn.mnemonic() == Mnemonic::Rdpkru {
        let pkru = cpu.vcpu.regs.pkru;
        cpu.set_reg(0, pkru);
        cpu.set_reg(2, 0u32);
        return Ok(());
    }
    if cpu.reg(2) as u32 != 0 {
        return Err(Fault::GP0);
    }
    let pkru = cpu.reg(0) as u32;
    cpu.set_pkru(pkru);
    Ok(())
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Changes PKRU (WRPKRU and the XRSTOR family).
    pub fn set_pkru(&mut self, pkru: u32) {
        if self.vcpu.regs.pkru != pkru {
            self.vcpu.regs.pkru = pkru;
            self.tlb.flush_linear();
        }
    }
}

/// XSETBV always exits, after its own checks.
pub fn xsetbv<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Done {
    if cpu.cr4() & bits::CR4_OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    cpu.need_cpl0()?;
    Err(cpu.exit_instruction(ExitReason::XSETBV_INSTRUCTION, 0))
}

/// TDCALL: ring 0 only; SEAMCALL exits from any ring.
pub fn seam<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    match insn.mnemonic() {
        Mnemonic::Tdcall => {
            cpu.need_cpl0()?;
            Err(cpu.exit_instruction(ExitReason::TDCALL, 0))
        }
        Mnemonic::Seamcall => Err(cpu.exit_instruction(ExitReason::SEAMCALL, 0)),
        _ => Err(Fault::UD),
    }
}

/// VMX instructions, SGX and the rest that exits whatever the operands are.
pub fn vmx<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Done {
    let reason = match insn.mnemonic() {
        Mnemonic::Vmcall => ExitReason::VMCALL_INSTRUCTION,
        Mnemonic::Vmclear => ExitReason::VMCLEAR_INSTRUCTION,
        Mnemonic::Vmlaunch => ExitReason::VMLAUNCH_INSTRUCTION,
        Mnemonic::Vmptrld => ExitReason::VMPTRLD_INSTRUCTION,
        Mnemonic::Vmptrst => ExitReason::VMPTRST_INSTRUCTION,
        Mnemonic::Vmread => ExitReason::VMREAD_INSTRUCTION,
        Mnemonic::Vmresume => ExitReason::VMRESUME_INSTRUCTION,
        Mnemonic::Vmwrite => ExitReason::VMWRITE_INSTRUCTION,
        Mnemonic::Vmxoff => ExitReason::VMXOFF_INSTRUCTION,
        Mnemonic::Vmxon => ExitReason::VMXON_INSTRUCTION,
        Mnemonic::Invept => ExitReason::INVLEPT,
        Mnemonic::Invvpid => ExitReason::INVLVPID,
        // CR4.SMXE is never set.
        Mnemonic::Getsec => return Err(Fault::UD),
        Mnemonic::Vmfunc if cpu.secondary(control::VMFUNC) => ExitReason::VMFUNC_INSTRUCTION,
        Mnemonic::Encls if cpu.secondary(control::ENCLS) => ExitReason::ENCLS_INSTRUCTION,
        Mnemonic::Enclv if cpu.secondary(control::ENCLV) => ExitReason::ENCLV_INSTRUCTION,
        Mnemonic::Pconfig if cpu.secondary(control::PCONFIG) => {
            cpu.need_cpl0()?;
            ExitReason::PCONFIG
        }
        _ => return Err(Fault::UD),
    };
    if matches!(insn.mnemonic(), Mnemonic::Encls | Mnemonic::Enclv) {
        cpu.need_cpl0()?;
    }
    let mut info = 0;
    let mut qualification = 0;
    if (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory) {
        info = instruction_info(insn);
        qualification = insn.memory_displacement64();
    }
    Err(cpu.exit_instruction_info(reason, qualification, info))
}
