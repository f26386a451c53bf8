//! Instructions inside a block that the interpreter executes: the block calls it and goes on behind.

use crate::code;
use crate::cpu::{Cpu, Mode, REG_PAGE};
use crate::op::{BRANCH, Op, SOLO};
use crate::tlb::DATA_ONLY;
use crate::translate::thunks::Exit;
use crate::translate::{pack, unpack, usable};
use std::sync::{Arc, OnceLock};
use x86_arch::RamPage;

/// The page that a block's code came from.
pub struct Home<P> {
    pub ram: P,
    pub version: u32,
}

/// One such instruction.
pub struct Site<P: RamPage + 'static> {
    home: Arc<Home<P>>,
    rip: u64,
    /// Instructions of the block from this one on.
    rest: u32,
    /// The code of what follows; 0 when that has to be looked up.
    next: u64,
    op: OnceLock<Box<Op<P>>>,
}

impl<P: RamPage + 'static> Site<P> {
    pub fn new(home: Arc<Home<P>>, rip: u64, rest: usize, next: u64) -> Site<P> {
        Site {
            home,
            rip,
            rest: rest as u32,
            next,
            op: OnceLock::new(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.op.get().map_or(0, |_| size_of::<Op<P>>())
    }

    /// The decoded instruction, unless the page has changed.
    fn op(&self) -> Option<&Op<P>> {
        if let Some(op) = self.op.get() {
            return Some(op);
        }
        let offset = (self.rip & 0xFFF) as usize;
        let mut bytes = [0; 15];
        let bytes = &mut bytes[..15.min(4096 - offset)];
        self.home.ram.read(offset, bytes);
        if self.home.ram.code_version() != self.home.version {
            return None;
        }
        let (insn, _) = code::decode(bytes, offset, Mode::Bits64);
        Some(
            self.op
                .get_or_init(|| Box::new(crate::lower::lower(&insn, Mode::Bits64))),
        )
    }

    /// Executes the instruction; the address of the code to go on with.
    #[inline]
    pub fn step(&self, cpu: &mut Cpu<'_, P>) -> u64 {
        cpu.frame.budget += i64::from(self.rest);
        let Some(op) = self.op() else {
            return leave(cpu, self.rip, Exit::Continue);
        };
        cpu.flags = crate::flags::Flags::from_rflags(unpack(cpu.frame.flags));
        cpu.retired = cpu.frame.limit.wrapping_sub(cpu.frame.budget as u64);
        cpu.rip = self.rip;
        let page = self.rip & !0xFFF;
        cpu.gpr[REG_PAGE as usize] = page;
        let (tag, generation, waited) = (cpu.tag, cpu.tlb.generation, cpu.waited);
        if let Err(fault) = (op.run)(cpu, op) {
            cpu.frame.flags = pack(cpu.flags.bits());
            cpu.frame.fault = Some(fault);
            return leave(cpu, self.rip, Exit::Fault);
        }
        cpu.frame.stepped += 1;
        cpu.frame.flags = pack(cpu.flags.bits());
        cpu.frame.usable = u64::from(usable(&cpu.vcpu.regs));
        let waited = cpu.waited - waited;
        cpu.frame.budget -= 1 + waited as i64;
        // PAUSE may wait longer than the budget.
        cpu.frame.limit = cpu.frame.limit.wrapping_sub(waited);
        let following = page.wrapping_add(u64::from(op.next));
        let rip = match op.flags & (BRANCH | SOLO) {
            0 => following,
            _ => cpu.next_rip,
        };
        if cpu.attention {
            cpu.attention = !cpu.is_quiet();
        }
        if cpu.attention
            || cpu.frame.budget <= 0
            || generation != cpu.tlb.generation
            || !cpu.can_translate()
        {
            return leave(cpu, rip, Exit::Continue);
        }
        if cpu.tag != tag {
            let tag = cpu.tag;
            let Some(fast) = &mut cpu.tlb.fast else {
                return leave(cpu, rip, Exit::Continue);
            };
            (cpu.frame.read, cpu.frame.write) = fast.arrays(tag);
            cpu.frame.context = fast.context(tag);
        }
        let rest = i64::from(self.rest) - 1;
        // In another address space other code may follow.
        let same_space = (tag ^ cpu.tag) & !DATA_ONLY == 0;
        if rip == following && self.next != 0 && same_space {
            if cpu.frame.budget < rest || self.home.ram.code_version() != self.home.version {
                return leave(cpu, rip, Exit::Continue);
            }
            cpu.frame.budget -= rest;
            return self.next;
        }
        match cpu
            .tlb
            .fast
            .as_ref()
            .and_then(|fast| fast.jump(rip, cpu.frame.context))
        {
            Some(entry) => entry,
            None => leave(cpu, rip, Exit::Continue),
        }
    }
}

fn leave<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, rip: u64, exit: Exit) -> u64 {
    cpu.frame.rip = rip;
    cpu.frame.exit = exit as u64;
    cpu.frame.leave
}
