//! Execution: one file per instruction family.

pub mod simd;
pub mod stack;

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::op::{BRANCH, SOLO, STORES};
use iced_x86::{FlowControl, Instruction, OpKind};
use x86_arch::RamPage;

/// Executes one instruction from its decoded form. `cpu.rip`, `cpu.next_rip` and `cpu.length` are set; a handler
/// that branches writes `next_rip`.
pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    simd::execute(cpu, insn)
}

/// How the instruction shapes its block of decoded code.
pub fn block_flags(insn: &Instruction) -> u8 {
    let mut flags = 0;
    if insn.flow_control() != FlowControl::Next {
        flags |= BRANCH;
    }
    if (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory) {
        flags |= STORES;
    }
    if insn.is_invalid() {
        flags |= SOLO;
    }
    flags
}
