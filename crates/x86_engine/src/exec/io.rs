//! IN, OUT, INS, OUTS.

use crate::cpu::{Cpu, bits};
use crate::exec::string::sizes;
use crate::exit::control;
use crate::fault::Fault;
use crate::operand::{cut, segment_of};
use crate::segment::UNUSABLE;
use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::{Access, ExitReason, RamPage};

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// IOPL and the TSS's permission bitmap.
    fn check_port(&mut self, port: u16, bytes: usize) -> Result<(), Fault> {
        if self.cr0() & bits::CR0_PE == 0 || self.cpl <= self.iopl() {
            return Ok(());
        }
        let tr = self.vcpu.regs.tr;
        let kind_fits = matches!(tr.access & 0xF, 9 | 11) && tr.access & UNUSABLE == 0;
        if !kind_fits || tr.limit < 0x67 {
            return Err(Fault::GP0);
        }
        let bitmap = u32::from(self.load_system::<u16>(tr.base.wrapping_add(0x66))?);
        let at = bitmap + u32::from(port >> 3);
        if at + 1 > tr.limit {
            return Err(Fault::GP0);
        }
        let word = self.load_system::<u16>(tr.base.wrapping_add(u64::from(at)))?;
        if word >> (port & 7) & ((1 << bytes) - 1) != 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }

    fn io_exits(&self) -> bool {
        self.primary(control::UNCONDITIONAL_IO | control::IO_BITMAPS)
    }
}

fn qualification(bytes: usize, input: bool, string: bool, rep: bool, imm: bool, port: u16) -> u64 {
    (bytes as u64 - 1)
        | u64::from(input) << 3
        | u64::from(string) << 4
        | u64::from(rep) << 5
        | u64::from(imm) << 6
        | u64::from(port) << 16
}

pub fn plain<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let input = insn.mnemonic() == Mnemonic::In;
    let (data, port) = if input { (0, 1) } else { (1, 0) };
    let bytes = insn.op_register(data).size();
    let imm = insn.op_kind(port) != OpKind::Register;
    let number = if imm {
        u16::from(insn.immediate8())
    } else {
        cpu.reg(2) as u16
    };
    cpu.check_port(number, bytes)?;
    if cpu.io_exits() {
        let q = qualification(bytes, input, false, false, imm, number);
        return Err(cpu.exit_instruction(ExitReason::IO_INSTRUCTION, q));
    }
    if input {
        // No device answers without an exit.
        cpu.set_sized(0, u64::MAX, bytes);
    }
    Ok(())
}

pub fn string<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let input = matches!(
        insn.mnemonic(),
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd
    );
    let (bytes, address_size) = sizes(insn);
    let number = cpu.reg(2) as u16;
    cpu.check_port(number, bytes)?;
    let rep = insn.has_rep_prefix() || insn.has_repne_prefix();
    if rep && cut(cpu.reg(1), address_size) == 0 {
        return Ok(());
    }
    if cpu.io_exits() {
        let q = qualification(bytes, input, true, rep, false, number);
        let segment = if input {
            0
        } else {
            segment_of(insn.memory_segment()) as u32
        };
        let size = address_size.trailing_zeros() - 1;
        let place = if input {
            cpu.destination(bytes, address_size, Access::Write)?
        } else {
            cpu.source(insn, bytes, address_size)?
        };
        let fault =
            cpu.exit_instruction_info(ExitReason::IO_INSTRUCTION, q, size << 7 | segment << 15);
        cpu.vcpu.exit.guest_linear_address = place.linear;
        return Err(fault);
    }
    if input {
        let to = cpu.destination(bytes, address_size, Access::Write)?;
        cpu.store_sized(to, bytes, u64::MAX)?;
        cpu.step_index(7, bytes, address_size);
    } else {
        let from = cpu.source(insn, bytes, address_size)?;
        cpu.load_sized(from, bytes)?;
        cpu.step_index(6, bytes, address_size);
    }
    if rep {
        let left = cut(cpu.reg(1), address_size) - 1;
        cpu.set_sized(1, left, address_size);
        if left != 0 {
            cpu.next_rip = cpu.rip;
        }
    }
    Ok(())
}
