//! Far JMP and CALL through a call gate (SDM volume 3, 5.8.2 to 5.8.5).

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::segment::{Descriptor, null_stack};
use x86_arch::RamPage;
use x86_arch::vmx::{Seg, Segment};

const GATE_16: u32 = 4;
/// 32-bit; in IA-32e mode the 64-bit gate of 16 bytes.
const GATE_WIDE: u32 = 12;

/// Whether a descriptor is a call gate of this mode.
pub fn is_one(descriptor: Descriptor, long: bool) -> bool {
    let kind = descriptor.kind();
    !descriptor.is_user_type() && (kind == GATE_WIDE || kind == GATE_16 && !long)
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Goes where the gate leads; a call pushes where it came from, on the inner ring's stack if the ring changes.
    pub(super) fn through_call_gate(
        &mut self,
        selector: u16,
        gate: Descriptor,
        call: bool,
    ) -> Result<(), Fault> {
        let error = selector & !3;
        let long = self.long_mode();
        let high = if long {
            self.upper_half(selector, gate)?
        } else {
            0
        };
        if gate.dpl() < self.cpl || (selector & 3) as u8 > gate.dpl() {
            return Err(Fault::gp(error));
        }
        if !gate.present() {
            return Err(Fault::np(error));
        }
        let (bytes, target) = match (gate.kind(), long) {
            (GATE_16, _) => (2, gate.raw & 0xFFFF),
            (_, false) => (4, gate.raw & 0xFFFF | gate.raw >> 32 & 0xFFFF_0000),
            (_, true) => (
                8,
                gate.raw & 0xFFFF | gate.raw >> 32 & 0xFFFF_0000 | high << 32,
            ),
        };
        let selector = (gate.raw >> 16) as u16;
        let mut code = self.gate_code(selector, call)?;
        if !call {
            self.check_target(&code, target)?;
            self.mark_accessed(&mut code)?;
            let cpl = self.cpl;
            self.set_cs(code, selector, cpl);
            self.next_rip = target;
            return Ok(());
        }
        let before = self.snapshot();
        let back = self.next_rip;
        let done = if !code.conforming() && code.dpl() < self.cpl {
            let parameters = if long { 0 } else { gate.raw >> 32 & 0x1F };
            self.call_inner(code, selector, target, bytes, parameters)
        } else {
            self.call_same_ring(code, selector, target, bytes)
        };
        if let Err(fault) = done {
            self.restore(before);
            self.next_rip = back;
            return Err(fault);
        }
        Ok(())
    }

    /// Bits 127:64 of a 16-byte gate, whose type field must be 0.
    fn upper_half(&mut self, selector: u16, gate: Descriptor) -> Result<u64, Fault> {
        let limit = if selector & 4 != 0 {
            self.vcpu.regs.ldtr.limit
        } else {
            u32::from(self.vcpu.regs.gdtr.limit)
        };
        if u32::from(selector & !7) + 15 > limit {
            return Err(Fault::gp(selector & !3));
        }
        let high = self.load_system::<u64>(gate.address.wrapping_add(8))?;
        if high >> 40 & 0x1F != 0 {
            return Err(Fault::gp(selector & !3));
        }
        Ok(high)
    }

    /// The code segment that a gate names.
    fn gate_code(&mut self, selector: u16, call: bool) -> Result<Descriptor, Fault> {
        if selector & !3 == 0 {
            return Err(Fault::GP0);
        }
        let code = self.read_descriptor(selector, Fault::gp)?;
        let ring = if call || code.conforming() {
            code.dpl() <= self.cpl
        } else {
            code.dpl() == self.cpl
        };
        let width = !self.long_mode() || code.long() && !code.big();
        if !code.is_code() || !ring || !width {
            return Err(Fault::gp(selector & !3));
        }
        if !code.present() {
            return Err(Fault::np(selector & !3));
        }
        Ok(code)
    }

    fn call_same_ring(
        &mut self,
        mut code: Descriptor,
        selector: u16,
        target: u64,
        bytes: usize,
    ) -> Result<(), Fault> {
        let back = self.next_rip;
        let old_cs = self.segment(Seg::Cs).selector;
        self.check_target(&code, target)?;
        self.mark_accessed(&mut code)?;
        let cpl = self.cpl;
        self.set_cs(code, selector, cpl);
        self.push_sized(bytes, u64::from(old_cs))?;
        self.push_sized(bytes, back)?;
        self.next_rip = target;
        Ok(())
    }

    fn call_inner(
        &mut self,
        mut code: Descriptor,
        selector: u16,
        target: u64,
        bytes: usize,
        parameters: u64,
    ) -> Result<(), Fault> {
        let back = self.next_rip;
        let old_cs = self.segment(Seg::Cs).selector;
        let old_ss = self.segment(Seg::Ss).selector;
        let old_rsp = self.reg(4);
        let (ss, rsp) = self.inner_stack(code.dpl())?;
        let mut words = [0; 31];
        let words = &mut words[..parameters as usize];
        for (n, word) in words.iter_mut().enumerate() {
            *word = self.peek_sized(bytes, (n * bytes) as u64)?;
        }
        self.check_target(&code, target)?;
        self.mark_accessed(&mut code)?;
        // SS first: its DPL is the privilege level that the pushes happen with.
        self.set_segment(Seg::Ss, ss);
        self.set_cs(code, selector, code.dpl());
        self.gpr[4] = rsp;
        let frame = [u64::from(old_ss), old_rsp]
            .into_iter()
            .chain(words.iter().rev().copied())
            .chain([u64::from(old_cs), back]);
        for word in frame {
            self.push_sized(bytes, word).map_err(|fault| {
                if fault == Fault::SS0 {
                    Fault::ss(ss.selector & !3)
                } else {
                    fault
                }
            })?;
        }
        self.next_rip = target;
        Ok(())
    }

    /// SS and stack pointer for `ring` from the TSS.
    fn inner_stack(&mut self, ring: u8) -> Result<(Segment, u64), Fault> {
        if self.long_mode() {
            let rsp = self.tss_stack64(4 + u32::from(ring) * 8, 0)?;
            return Ok((null_stack(u16::from(ring), ring), rsp));
        }
        let (selector, esp) = self.tss_stack32(ring, 0)?;
        if selector & !3 == 0 {
            return Err(Fault::ts(0));
        }
        Ok((self.checked_stack(selector, ring, Fault::ts)?, esp))
    }
}
