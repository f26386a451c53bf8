//! FXSAVE, FXRSTOR, the XSAVE family and XGETBV.

use iced_x86::{Instruction, Mnemonic};
use x86_arch::{Access, ExitReason, RamPage};

use super::Handler;
use crate::cpu::{Cpu, REG_SEG, bits};
use crate::exit::control;
use crate::fault::Fault;
use crate::operand::{Address, segment_of};
use crate::simd::xstate::{
    self, AVX, COMPACTED, FIXED_LEN, Header, MAX_LEN, SSE, State, View, X87,
};

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Fxsave | Fxsave64 => fxsave,
        Fxrstor | Fxrstor64 => fxrstor,
        Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 | Xsaves | Xsaves64 => xsave,
        Xrstor | Xrstor64 | Xrstors | Xrstors64 => xrstor,
        Xgetbv => xgetbv,
        _ => return None,
    })
}

fn is_wide(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Fxsave64 | Fxrstor64 | Xsave64 | Xsaveopt64 | Xsavec64 | Xsaves64 | Xrstor64 | Xrstors64
    )
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    fn view(&self, instruction: &Instruction) -> View {
        View {
            wide: is_wide(instruction.mnemonic()),
            registers: if self.is_64() { 16 } else { 8 },
        }
    }

    fn save_area(
        &self,
        instruction: &Instruction,
        len: usize,
        align: u64,
        access: Access,
    ) -> Result<Address, Fault> {
        // The XSAVE family checks alignment before canonicality: #GP(0) even through SS.
        let segment = segment_of(instruction.memory_segment());
        let linear = self
            .effective(instruction)
            .wrapping_add(self.reg(REG_SEG + segment as u8));
        if align == 64 && linear & 63 != 0 {
            return Err(Fault::GP0);
        }
        let address = self.address(instruction, len, access)?;
        if linear & (align - 1) != 0 {
            return Err(Fault::GP0);
        }
        Ok(address)
    }

    fn saved_state(&self) -> State {
        State {
            fpu: self.vcpu.regs.fpu.clone(),
            pkru: self.vcpu.regs.pkru,
        }
    }

    fn need_xsave(&self) -> Result<(), Fault> {
        if self.cr4() & bits::CR4_OSXSAVE == 0 {
            return Err(Fault::UD);
        }
        if self.cr0() & bits::CR0_TS != 0 {
            return Err(Fault::NM);
        }
        Ok(())
    }

    fn requested(&self) -> u64 {
        self.gpr[0] & 0xFFFF_FFFF | self.gpr[2] << 32
    }

    /// XSAVES and XRSTORS: the control that lets them be, CPL 0, and the exit that XSS bits may cause.
    fn need_supervisor_xsave(&mut self, reason: ExitReason) -> Result<(), Fault> {
        if !self.secondary(control::XSAVES) {
            return Err(Fault::UD);
        }
        self.need_xsave()?;
        self.need_cpl0()?;
        if self.requested() & self.vcpu.regs.msr.xss & self.vcpu.controls.xss_exiting != 0 {
            return Err(self.exit_instruction(reason, 0));
        }
        Ok(())
    }
}

fn need_fxsave<P: RamPage + 'static>(cpu: &Cpu<'_, P>) -> Result<(), Fault> {
    if cpu.cr0() & bits::CR0_EM != 0 {
        return Err(Fault::UD);
    }
    if cpu.cr0() & bits::CR0_TS != 0 {
        return Err(Fault::NM);
    }
    Ok(())
}

fn fxsave<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    need_fxsave(cpu)?;
    let at = cpu.save_area(instruction, 512, 16, Access::Write)?;
    // All 512 bytes must be writable, although not all are written.
    cpu.probe_write(at.linear, 512, at.stack)?;
    let view = cpu.view(instruction);
    let fpu = &cpu.vcpu.regs.fpu;
    // Bytes 416 to 511 are the software's, and outside 64-bit mode XMM8 to XMM15 are not written.
    let mut area = [0; 416];
    xstate::save_x87(fpu, view, &mut area);
    xstate::save_mxcsr(fpu, &mut area);
    xstate::save_xmm(fpu, view, &mut area);
    cpu.store_bytes(at.linear, &area[..160 + 16 * view.registers], at.stack)
}

fn fxrstor<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    need_fxsave(cpu)?;
    let at = cpu.save_area(instruction, 512, 16, Access::Read)?;
    let view = cpu.view(instruction);
    let mut area = [0; 512];
    cpu.load_bytes(at.linear, &mut area, at.stack)?;
    let mxcsr = xstate::mxcsr_of(&area).ok_or(Fault::GP0)?;
    let vectors = cpu.cr4() & bits::CR4_OSFXSR != 0;
    let fpu = &mut cpu.vcpu.regs.fpu;
    xstate::load_x87(fpu, view, &area);
    if vectors {
        fpu.mxcsr = mxcsr;
        xstate::load_xmm(fpu, view, &area);
    }
    Ok(())
}

/// XSAVE writes every component asked for. XSAVEOPT, XSAVEC and XSAVES leave out those in their initial state; the
/// modified optimisation is not used. XSAVEC and XSAVES use the compacted format.
fn xsave<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    let supervisor = matches!(mnemonic, Xsaves | Xsaves64);
    if supervisor {
        cpu.need_supervisor_xsave(ExitReason::XSAVES_INSTRUCTION)?;
    } else {
        cpu.need_xsave()?;
    }
    let compacted = supervisor || matches!(mnemonic, Xsavec | Xsavec64);
    let always = matches!(mnemonic, Xsave | Xsave64);
    let enabled = cpu.vcpu.regs.xcr0 | if supervisor { cpu.vcpu.regs.msr.xss } else { 0 };
    let wanted = cpu.requested() & enabled;
    let layout = if compacted { wanted | COMPACTED } else { 0 };
    let at = cpu.save_area(
        instruction,
        xstate::area_len(wanted, layout),
        64,
        Access::Write,
    )?;
    let view = cpu.view(instruction);
    let state = cpu.saved_state();
    let mut used = xstate::in_use(&state, view);
    if compacted && state.fpu.mxcsr != 0x1F80 {
        used |= SSE;
    }
    let written = if always { wanted } else { wanted & used };

    // Nothing is written unless all can be.
    cpu.probe_write(at.linear, FIXED_LEN, at.stack)?;
    let place = |offset: usize| at.linear.wrapping_add(offset as u64);
    for (component, len) in xstate::extended(written) {
        let linear = cpu.wrap(place(xstate::offset_of(component, layout)));
        cpu.probe_write(linear, len, at.stack)?;
    }
    let mut area = [0; FIXED_LEN];
    if written & X87 != 0 {
        xstate::save_x87(&state.fpu, view, &mut area);
        cpu.store_bytes(at.linear, &area[..24], at.stack)?;
        cpu.store_bytes(cpu.wrap(place(32)), &area[32..160], at.stack)?;
    }
    let mxcsr = if compacted {
        written & SSE != 0
    } else {
        wanted & (SSE | AVX) != 0
    };
    if mxcsr {
        xstate::save_mxcsr(&state.fpu, &mut area);
        cpu.store_bytes(cpu.wrap(place(24)), &area[24..32], at.stack)?;
    }
    if written & SSE != 0 {
        xstate::save_xmm(&state.fpu, view, &mut area);
        cpu.store_bytes(
            cpu.wrap(place(160)),
            &area[160..160 + 16 * view.registers],
            at.stack,
        )?;
    }
    for (component, len) in xstate::extended(written) {
        let mut bytes = [0; 256];
        xstate::save_extended(&state, component, view, &mut bytes);
        let used_len = if component == AVX {
            16 * view.registers
        } else {
            len
        };
        let linear = cpu.wrap(place(xstate::offset_of(component, layout)));
        cpu.store_bytes(linear, &bytes[..used_len], at.stack)?;
    }
    let header = cpu.wrap(place(512));
    if compacted {
        cpu.store_bytes(header, &(wanted & used).to_le_bytes(), at.stack)?;
        cpu.store_bytes(cpu.wrap(place(520)), &layout.to_le_bytes(), at.stack)
    } else {
        let mut old = [0; 8];
        cpu.load_bytes(header, &mut old, at.stack)?;
        let present = u64::from_le_bytes(old) & !wanted | wanted & used;
        cpu.store_bytes(header, &present.to_le_bytes(), at.stack)
    }
}

fn xrstor<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    let supervisor = matches!(instruction.mnemonic(), Xrstors | Xrstors64);
    if supervisor {
        cpu.need_supervisor_xsave(ExitReason::XRSTORS_INSTRUCTION)?;
    } else {
        cpu.need_xsave()?;
    }
    let enabled = cpu.vcpu.regs.xcr0 | if supervisor { cpu.vcpu.regs.msr.xss } else { 0 };
    let wanted = cpu.requested() & enabled;
    let at = cpu.save_area(instruction, FIXED_LEN, 64, Access::Read)?;
    let mut area = [0; MAX_LEN];
    cpu.load_bytes(at.linear, &mut area[..FIXED_LEN], at.stack)?;
    let header = Header::parse(&area, enabled, supervisor).ok_or(Fault::GP0)?;
    for (component, len) in xstate::extended(wanted & header.present) {
        let offset = xstate::offset_of(component, header.layout);
        let linear = cpu.wrap(at.linear.wrapping_add(offset as u64));
        cpu.load_bytes(linear, &mut area[offset..offset + len], at.stack)?;
    }
    let mut state = cpu.saved_state();
    xstate::restore(&mut state, header, wanted, cpu.view(instruction), &area).ok_or(Fault::GP0)?;
    cpu.vcpu.regs.fpu = state.fpu;
    cpu.set_pkru(state.pkru);
    Ok(())
}

fn xgetbv<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, _: &Instruction) -> Result<(), Fault> {
    if cpu.cr4() & bits::CR4_OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    let xcr0 = cpu.vcpu.regs.xcr0;
    let value = match cpu.gpr[1] as u32 {
        0 => xcr0,
        1 => {
            let view = View {
                wide: true,
                registers: 16,
            };
            xcr0 & xstate::in_use(&cpu.saved_state(), view)
        }
        _ => return Err(Fault::GP0),
    };
    cpu.gpr[0] = value & 0xFFFF_FFFF;
    cpu.gpr[2] = value >> 32;
    Ok(())
}
