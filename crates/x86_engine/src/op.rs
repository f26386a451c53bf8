//! A decoded instruction in the form that the run loop executes.

use crate::cpu::{Cpu, REG_PAGE};
use crate::exec;
use crate::fault::Fault;
use iced_x86::Instruction;
use x86_arch::RamPage;

pub type Handler<P> = fn(&mut Cpu<'_, P>, &Op<P>) -> Result<(), Fault>;

/// The op may store to memory: the run loop looks whether it changed its own code.
pub const STORES: u8 = 1;
/// Its memory operand goes through SS.
pub const STACK: u8 = 2;
/// The op writes `next_rip` and ends its block.
pub const BRANCH: u8 = 4;
/// A block of its own: it needs exact counts or changes what later instructions mean.
pub const SOLO: u8 = 8;

pub struct Op<P: RamPage + 'static> {
    pub run: Handler<P>,
    pub imm: u64,
    pub disp: u64,
    /// Kept for handlers that work from the decoded instruction.
    pub insn: Option<Box<Decoded<P>>>,
    pub base: u8,
    pub index: u8,
    pub scale: u8,
    pub seg: u8,
    pub a: u8,
    pub b: u8,
    pub flags: u8,
    /// Offsets in the page: of the instruction and of the next one (up to 4096 + 14).
    pub start: u16,
    pub next: u16,
}

/// A decoded instruction and the handler of its family, found once.
pub struct Decoded<P: RamPage + 'static> {
    pub insn: Instruction,
    pub run: fn(&mut Cpu<'_, P>, &Instruction) -> Result<(), Fault>,
}

/// The form that every instruction has: the family's handler works from the decoded instruction.
pub fn cold<P: RamPage + 'static>(insn: &Instruction) -> Op<P> {
    let start = insn.ip() as u16;
    Op {
        run: run_cold::<P>,
        imm: 0,
        disp: 0,
        insn: Some(Box::new(Decoded {
            insn: *insn,
            run: exec::simd::handler(insn).unwrap_or(exec::execute),
        })),
        base: crate::cpu::REG_ZERO,
        index: crate::cpu::REG_ZERO,
        scale: 0,
        seg: crate::cpu::REG_ZERO,
        a: 0,
        b: 0,
        flags: exec::block_flags(insn),
        start,
        next: start + insn.len() as u16,
    }
}

fn run_cold<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Result<(), Fault> {
    let page = cpu.reg(REG_PAGE);
    let mask = cpu.mode.ip_mask();
    cpu.rip = page.wrapping_add(u64::from(op.start)) & mask;
    cpu.next_rip = page.wrapping_add(u64::from(op.next)) & mask;
    cpu.length = (op.next - op.start) as u8;
    match &op.insn {
        Some(decoded) => (decoded.run)(cpu, &decoded.insn),
        None => Err(Fault::UD),
    }
}
