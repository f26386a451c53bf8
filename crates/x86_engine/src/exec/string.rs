//! MOVS, CMPS, STOS, LODS, SCAS with REP: interruptible, and resumed where they stopped.

use crate::alu;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags;
use crate::operand::{Address, cut, segment_of};
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::vmx::Seg;
use x86_arch::{Access, RamPage};

/// Iterations before a REP instruction gives way to events and the budget.
const BATCH: u64 = 1024;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// Element size and address size.
pub(crate) fn sizes(insn: &Instruction) -> (usize, usize) {
    let element = insn.memory_size().size();
    let address = (0..insn.op_count())
        .find_map(|n| match insn.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
            _ => None,
        })
        .unwrap_or(8);
    (element, address)
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    pub(crate) fn set_sized(&mut self, register: u8, value: u64, bytes: usize) {
        match bytes {
            1 => self.set_reg(register, value as u8),
            2 => self.set_reg(register, value as u16),
            4 => self.set_reg(register, value as u32),
            _ => self.set_reg(register, value),
        }
    }

    pub(crate) fn source(
        &self,
        insn: &Instruction,
        element: usize,
        address: usize,
    ) -> Result<Address, Fault> {
        let offset = cut(self.reg(RSI), address);
        self.in_segment(
            segment_of(insn.memory_segment()),
            offset,
            element,
            Access::Read,
        )
    }

    pub(crate) fn destination(
        &self,
        element: usize,
        address: usize,
        access: Access,
    ) -> Result<Address, Fault> {
        self.in_segment(Seg::Es, cut(self.reg(RDI), address), element, access)
    }

    pub(crate) fn step_index(&mut self, register: u8, element: usize, address: usize) {
        self.step_index_by(register, element, address, 1);
    }

    fn step_index_by(&mut self, register: u8, element: usize, address: usize, times: u64) {
        let bytes = (element as u64).wrapping_mul(times);
        let new = if self.system_flags & flags::DF != 0 {
            self.reg(register).wrapping_sub(bytes)
        } else {
            self.reg(register).wrapping_add(bytes)
        };
        self.set_sized(register, new, address);
    }
}

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let (element, address) = sizes(insn);
    let repe = insn.has_rep_prefix() || insn.has_repe_prefix();
    let repne = insn.has_repne_prefix();
    if !repe && !repne {
        return iterate(cpu, insn, element, address);
    }
    let compares = matches!(
        insn.mnemonic(),
        Mnemonic::Cmpsb
            | Mnemonic::Cmpsw
            | Mnemonic::Cmpsd
            | Mnemonic::Cmpsq
            | Mnemonic::Scasb
            | Mnemonic::Scasw
            | Mnemonic::Scasd
            | Mnemonic::Scasq
    );
    for _ in 0..BATCH {
        let left = cut(cpu.reg(RCX), address);
        if left == 0 {
            return Ok(());
        }
        if !compares && let Some(times) = bulk(cpu, insn, element, address, left)? {
            cpu.set_sized(RCX, left - times, address);
            continue;
        }
        iterate(cpu, insn, element, address)?;
        cpu.set_sized(RCX, left - 1, address);
        if compares && cpu.flags.zf() != repe {
            return Ok(());
        }
        if cpu.debug_hits != 0 && left > 1 {
            // A data breakpoint is taken between iterations.
            break;
        }
    }
    if cut(cpu.reg(RCX), address) != 0 {
        cpu.next_rip = cpu.rip;
    }
    Ok(())
}

/// MOVS and STOS going up, many elements inside one page on each side: how many were done.
fn bulk<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
    element: usize,
    address: usize,
    left: u64,
) -> Result<Option<u64>, Fault> {
    let copies = match insn.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => true,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => false,
        _ => return Ok(None),
    };
    let going_down = cpu.system_flags & flags::DF != 0;
    let unusual = !cpu.is_64() || address != 8 || cpu.vcpu.regs.dr7 & 0xFF != 0;
    if left < 4 || going_down || unusual || cpu.alignment_checked() {
        return Ok(None);
    }
    let to = cpu.destination(element, address, Access::Write)?;
    let room = |linear: u64| (4096 - (linear & 0xFFF)) / element as u64;
    let mut times = left.min(room(to.linear));
    let from = if copies {
        let from = cpu.source(insn, element, address)?;
        times = times.min(room(from.linear));
        // An overlap where each element is read after it was written repeats a pattern.
        let ahead = to.linear.wrapping_sub(from.linear);
        if ahead != 0 && ahead < times * element as u64 {
            times = ahead / element as u64;
        }
        Some(from)
    } else {
        None
    };
    if times < 4 {
        return Ok(None);
    }
    let bytes = times as usize * element;
    let mut buffer = [0; 4096];
    let Some(buffer) = buffer.get_mut(..bytes) else {
        return Ok(None);
    };
    if let Some(from) = from {
        cpu.load_bytes(from.linear, buffer, from.stack)?;
    } else {
        let value = cpu.reg(RAX);
        match element {
            1 => buffer.fill(value as u8),
            2 => fill(buffer, (value as u16).to_le_bytes()),
            4 => fill(buffer, (value as u32).to_le_bytes()),
            _ => fill(buffer, value.to_le_bytes()),
        }
    }
    cpu.store_bytes(to.linear, buffer, false)?;
    if copies {
        cpu.step_index_by(RSI, element, address, times);
    }
    cpu.step_index_by(RDI, element, address, times);
    Ok(Some(times))
}

/// Elements of a size known here, so that no element is a call of `memcpy`.
fn fill<const N: usize>(buffer: &mut [u8], value: [u8; N]) {
    for element in buffer.as_chunks_mut().0 {
        *element = value;
    }
}

fn iterate<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
    element: usize,
    address: usize,
) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
            let from = cpu.source(insn, element, address)?;
            let value = cpu.load_sized(from, element)?;
            let to = cpu.destination(element, address, Access::Write)?;
            cpu.store_sized(to, element, value)?;
            cpu.step_index(RSI, element, address);
            cpu.step_index(RDI, element, address);
        }
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            let to = cpu.destination(element, address, Access::Write)?;
            cpu.store_sized(to, element, cpu.reg(RAX))?;
            cpu.step_index(RDI, element, address);
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            let from = cpu.source(insn, element, address)?;
            let value = cpu.load_sized(from, element)?;
            cpu.set_sized(RAX, value, element);
            cpu.step_index(RSI, element, address);
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            let from = cpu.source(insn, element, address)?;
            let a = cpu.load_sized(from, element)?;
            let to = cpu.destination(element, address, Access::Read)?;
            let b = cpu.load_sized(to, element)?;
            compare(cpu, a, b, element);
            cpu.step_index(RSI, element, address);
            cpu.step_index(RDI, element, address);
        }
        _ => {
            let to = cpu.destination(element, address, Access::Read)?;
            let b = cpu.load_sized(to, element)?;
            compare(cpu, cpu.reg(RAX), b, element);
            cpu.step_index(RDI, element, address);
        }
    }
    Ok(())
}

fn compare<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, a: u64, b: u64, element: usize) {
    let f = &mut cpu.flags;
    match element {
        1 => _ = alu::sub(f, a as u8, b as u8),
        2 => _ = alu::sub(f, a as u16, b as u16),
        4 => _ = alu::sub(f, a as u32, b as u32),
        _ => _ = alu::sub(f, a, b),
    }
}
