//! Far transfers, software interrupts and IRET (SDM volume 3, 5.8 and 6.14).

use crate::cpu::Cpu;
use crate::engine::NMI_BLOCKED;
use crate::event::{Event, Kind};
use crate::exec::call_gate;
use crate::fault::Fault;
use crate::flags;
use crate::operand::cut;
use crate::segment::{Descriptor, UNUSABLE, null_segment, null_stack};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use x86_arch::vmx::{Seg, Segment};
use x86_arch::{Access, ExitReason, RamPage};

/// INT n, INT3, INT1, INTO.
pub fn interrupt<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let (vector, kind) = match insn.mnemonic() {
        Mnemonic::Int3 => (3, Kind::SoftwareException),
        Mnemonic::Int1 => (1, Kind::Privileged),
        Mnemonic::Into if !cpu.flags.of() => return Ok(()),
        Mnemonic::Into => (4, Kind::SoftwareException),
        _ => (insn.immediate8(), Kind::Software),
    };
    let event = Event {
        vector,
        kind,
        error: None,
        length: cpu.length,
    };
    if kind != Kind::Software {
        cpu.intercept(&event)?;
    }
    cpu.inject(event)?;
    cpu.next_rip = cpu.rip;
    Ok(())
}

pub fn bound<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = insn.op_register(0).size();
    let address = cpu.address(insn, bytes * 2, Access::Read)?;
    let low = cpu.load_sized(address, bytes)?;
    let upper = crate::operand::Address {
        linear: cpu.wrap(address.linear.wrapping_add(bytes as u64)),
        ..address
    };
    let high = cpu.load_sized(upper, bytes)?;
    let index = cpu.register(insn.op_register(0));
    let signed = |value: u64| {
        if bytes == 2 {
            i64::from(value as i16)
        } else {
            i64::from(value as i32)
        }
    };
    if signed(index) < signed(low) || signed(index) > signed(high) {
        return Err(Fault::BR);
    }
    Ok(())
}

/// A far target: selector and offset.
fn far_target<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(u16, u64, usize), Fault> {
    match insn.op_kind(0) {
        OpKind::FarBranch16 => Ok((
            insn.far_branch_selector(),
            u64::from(insn.far_branch16()),
            2,
        )),
        OpKind::FarBranch32 => Ok((
            insn.far_branch_selector(),
            u64::from(insn.far_branch32()),
            4,
        )),
        _ => {
            let bytes = match insn.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            };
            let address = cpu.address(insn, bytes + 2, Access::Read)?;
            let offset = cpu.load_sized(address, bytes)?;
            let next = cpu.wrap(address.linear.wrapping_add(bytes as u64));
            let selector = cpu.load_in::<u16>(next, address.stack)?;
            Ok((selector, offset, bytes))
        }
    }
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// The code descriptor of a far JMP or CALL without a gate, checked.
    fn far_code(&mut self, selector: u16, mut descriptor: Descriptor) -> Result<Descriptor, Fault> {
        let error = selector & !3;
        if !descriptor.is_user_type() {
            // TSS and task gate: a task switch, which leaves the guest; not in IA-32e mode.
            let task = matches!(descriptor.kind(), 1 | 5 | 9);
            if task && !self.long_mode() {
                return Err(
                    self.exit_instruction(ExitReason::TASK_SWITCH, u64::from(selector) | 2 << 30)
                );
            }
            return Err(Fault::gp(error));
        }
        let rpl = (selector & 3) as u8;
        let allowed = descriptor.is_code()
            && if descriptor.conforming() {
                descriptor.dpl() <= self.cpl
            } else {
                rpl <= self.cpl && descriptor.dpl() == self.cpl
            };
        if !allowed || self.long_mode() && descriptor.long() && descriptor.big() {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor)
    }

    /// Whether an instruction pointer suits the code segment it is to run in: #GP(0) if not.
    pub(super) fn check_target(&self, descriptor: &Descriptor, target: u64) -> Result<(), Fault> {
        let fits = if self.long_mode() && descriptor.long() {
            self.is_canonical(target)
        } else {
            target <= u64::from(descriptor.limit())
        };
        if fits { Ok(()) } else { Err(Fault::GP0) }
    }
}

pub fn jump_or_call<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let (selector, offset, bytes) = far_target(cpu, insn)?;
    if selector & !3 == 0 {
        return Err(Fault::GP0);
    }
    let descriptor = cpu.read_descriptor(selector, Fault::gp)?;
    if call_gate::is_one(descriptor, cpu.long_mode()) {
        let call = insn.mnemonic() == Mnemonic::Call;
        return cpu.through_call_gate(selector, descriptor, call);
    }
    let descriptor = cpu.far_code(selector, descriptor)?;
    cpu.check_target(&descriptor, offset)?;
    if insn.mnemonic() == Mnemonic::Call {
        let old = cpu.reg(4);
        let cs = u64::from(cpu.segment(Seg::Cs).selector);
        let back = cpu.next_rip;
        cpu.push_sized(bytes, cs)?;
        if let Err(fault) = cpu.push_sized(bytes, back) {
            cpu.gpr[4] = old;
            return Err(fault);
        }
    }
    let cpl = cpu.cpl;
    cpu.set_cs(descriptor, selector, cpl);
    cpu.next_rip = offset;
    Ok(())
}

/// What a far return pops and checks: where it goes and on which stack.
struct Return {
    descriptor: Descriptor,
    selector: u16,
    target: u64,
    cpl: u8,
    /// SS and RSP when they are popped too.
    stack: Option<(Segment, u64)>,
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    fn return_code(&mut self, selector: u16, target: u64) -> Result<(Descriptor, u8), Fault> {
        if selector & !3 == 0 {
            return Err(Fault::GP0);
        }
        let error = selector & !3;
        let rpl = (selector & 3) as u8;
        let mut descriptor = self.read_descriptor(selector, Fault::gp)?;
        let allowed = descriptor.is_code()
            && rpl >= self.cpl
            && if descriptor.conforming() {
                descriptor.dpl() <= rpl
            } else {
                descriptor.dpl() == rpl
            };
        if !allowed || self.long_mode() && descriptor.long() && descriptor.big() {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        self.check_target(&descriptor, target)?;
        self.mark_accessed(&mut descriptor)?;
        Ok((descriptor, rpl))
    }

    fn return_stack(&mut self, selector: u16, cpl: u8, to_64: bool) -> Result<Segment, Fault> {
        if selector & !3 == 0 {
            if to_64 && cpl != 3 && (selector & 3) as u8 == cpl {
                return Ok(null_stack(selector, cpl));
            }
            return Err(Fault::GP0);
        }
        self.checked_stack(selector, cpl, Fault::gp)
    }

    fn complete_return(&mut self, to: Return, extra: u64) {
        let outer = to.cpl > self.cpl;
        if let Some((ss, rsp)) = to.stack {
            self.set_segment(Seg::Ss, ss);
            self.set_cs(to.descriptor, to.selector, to.cpl);
            self.set_stack_pointer(rsp.wrapping_add(extra));
        } else {
            self.set_cs(to.descriptor, to.selector, to.cpl);
        }
        self.next_rip = to.target;
        if outer {
            self.drop_inner_segments(to.cpl);
        }
    }

    /// Data segments that the outer ring may not use become null.
    fn drop_inner_segments(&mut self, cpl: u8) {
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let segment = *self.segment(seg);
            let conforming = segment.access & 0xC == 0xC;
            let dpl = (segment.access >> 5 & 3) as u8;
            if segment.access & UNUSABLE == 0 && !conforming && dpl < cpl {
                self.set_segment(seg, null_segment(0));
            }
        }
    }
}

pub fn ret<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = match insn.code() {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    };
    let extra = if insn.op_count() == 1 {
        u64::from(insn.immediate16())
    } else {
        0
    };
    let word = bytes as u64;
    let target = cpu.peek_sized(bytes, 0)?;
    let selector = cpu.peek_sized(bytes, word)? as u16;
    let (descriptor, cpl) = cpu.return_code(selector, target)?;
    let to_64 = cpu.long_mode() && descriptor.long();
    let stack = if cpl > cpu.cpl {
        let rsp = cpu.peek_sized(bytes, 2 * word + extra)?;
        let ss = cpu.peek_sized(bytes, 3 * word + extra)? as u16;
        Some((cpu.return_stack(ss, cpl, to_64)?, rsp))
    } else {
        cpu.set_stack_pointer(cpu.reg(4).wrapping_add(2 * word + extra));
        None
    };
    let to = Return {
        descriptor,
        selector,
        target,
        cpl,
        stack,
    };
    cpu.complete_return(to, extra);
    Ok(())
}

pub fn iret<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let bytes = match insn.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        _ => 8,
    };
    // NMIs are unblocked even when the instruction then faults.
    if cpu.vcpu.regs.interruptibility & NMI_BLOCKED != 0 {
        cpu.vcpu.regs.interruptibility &= !NMI_BLOCKED;
        cpu.nmi_unblocked = true;
    }
    if cpu.system_flags & flags::NT != 0 {
        if cpu.long_mode() {
            return Err(Fault::GP0);
        }
        let tr = cpu.vcpu.regs.tr.base;
        let back = cpu.load_system::<u16>(tr)?;
        return Err(cpu.exit_instruction(ExitReason::TASK_SWITCH, u64::from(back) | 1 << 30));
    }
    let word = bytes as u64;
    let target = cpu.peek_sized(bytes, 0)?;
    let selector = cpu.peek_sized(bytes, word)? as u16;
    let image = cpu.peek_sized(bytes, 2 * word)?;
    let (descriptor, cpl) = cpu.return_code(selector, target)?;
    let to_64 = cpu.long_mode() && descriptor.long();
    let old_cpl = cpu.cpl;
    let stack = if cpu.is_64() || cpl > old_cpl {
        let rsp = cpu.peek_sized(bytes, 3 * word)?;
        let ss = cpu.peek_sized(bytes, 4 * word)? as u16;
        Some((cpu.return_stack(ss, cpl, to_64)?, rsp))
    } else {
        cpu.set_stack_pointer(cpu.reg(4).wrapping_add(3 * word));
        None
    };
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if bytes > 2 {
        mask |= flags::RF | flags::AC | flags::ID;
    }
    if old_cpl <= cpu.iopl() {
        mask |= flags::IF;
    }
    if old_cpl == 0 {
        mask |= flags::IOPL;
        if bytes > 2 {
            mask |= flags::VIF | flags::VIP;
        }
    }
    let to = Return {
        descriptor,
        selector,
        target: cut(target, bytes),
        cpl,
        stack,
    };
    cpu.complete_return(to, 0);
    let image = cpu.rflags() & !mask | image & mask;
    cpu.set_rflags(image);
    cpu.nmi_unblocked = false;
    cpu.attention = true;
    Ok(())
}
