//! Lockstep: each block that translated code runs is interpreted first, undone, and compared.
//!
//! The rehearsal interprets the block's instructions one by one on the real memory, off the fast paths, and notes
//! what it writes. It ends where translated code would leave: at an access that the soft TLB does not know, or a
//! branch out of the block. Then registers and memory are put back, translated code runs the one block, and the
//! state after as many instructions as it did has to be the rehearsed one.

use crate::code::CodePage;
use crate::cpu::{Cpu, REG_PAGE};
use crate::fault::Fault;
use crate::op::{BRANCH, SOLO};
use crate::tlb::SLOW;
use std::fmt::Write as _;
use std::rc::Rc;
use x86_arch::RamPage;

/// What a rehearsed instruction wrote.
pub(crate) struct Write<P> {
    /// How many instructions came before it.
    done: usize,
    page: P,
    offset: usize,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl<P: RamPage> Write<P> {
    /// Where its first byte lies in the host's memory.
    fn place(&self) -> Option<usize> {
        let host = self.page.host()?;
        Some(host.bytes.as_ptr().addr() + self.offset)
    }

    /// Whether it wrote the byte that is number `at` of another write.
    fn covers(&self, other: &Write<P>, at: usize) -> bool {
        match (self.place(), other.place()) {
            (Some(mine), Some(place)) => (mine..mine + self.new.len()).contains(&(place + at)),
            _ => false,
        }
    }
}

/// The writes of a rehearsal, while it lasts.
pub(crate) struct Rehearsal<P> {
    done: usize,
    writes: Vec<Write<P>>,
}

impl<P: RamPage> Rehearsal<P> {
    /// A write that is about to happen.
    pub(crate) fn note(&mut self, page: &P, offset: usize, new: &[u8]) {
        let mut old = vec![0; new.len()];
        page.read(offset, &mut old);
        self.writes.push(Write {
            done: self.done,
            page: page.clone(),
            offset,
            old,
            new: new.to_vec(),
        });
    }
}

#[derive(PartialEq, Eq)]
struct Vectors {
    mxcsr: u32,
    ymm: [[u128; 2]; 16],
}

/// The registers that translated code changes.
#[derive(PartialEq, Eq)]
struct State {
    gpr: [u64; 16],
    rip: u64,
    flags: u64,
    /// One copy for all states that have the same.
    vectors: Rc<Vectors>,
}

impl State {
    fn of<P: RamPage + 'static>(cpu: &Cpu<'_, P>) -> State {
        let fpu = &cpu.vcpu.regs.fpu;
        let vectors = Rc::new(Vectors {
            mxcsr: fpu.mxcsr,
            ymm: fpu.ymm,
        });
        State::with(cpu, vectors)
    }

    fn with<P: RamPage + 'static>(cpu: &Cpu<'_, P>, vectors: Rc<Vectors>) -> State {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&cpu.gpr[..16]);
        State {
            gpr,
            rip: cpu.rip,
            flags: cpu.flags.bits(),
            vectors,
        }
    }

    /// Whether it is the processor's.
    fn is_of<P: RamPage + 'static>(&self, cpu: &Cpu<'_, P>) -> bool {
        let fpu = &cpu.vcpu.regs.fpu;
        self.gpr == cpu.gpr[..16]
            && self.rip == cpu.rip
            && self.flags == cpu.flags.bits()
            && self.vectors.mxcsr == fpu.mxcsr
            && self.vectors.ymm == fpu.ymm
    }

    fn restore<P: RamPage + 'static>(&self, cpu: &mut Cpu<'_, P>) {
        cpu.gpr[..16].copy_from_slice(&self.gpr);
        cpu.rip = self.rip;
        cpu.flags = crate::flags::Flags::from_rflags(self.flags);
        cpu.vcpu.regs.fpu.mxcsr = self.vectors.mxcsr;
        cpu.vcpu.regs.fpu.ymm = self.vectors.ymm;
    }

    /// The registers that differ, as lines.
    fn tell(&self, got: &State, text: &mut String) {
        for n in 0..16 {
            if self.gpr[n] != got.gpr[n] {
                let (want, got) = (self.gpr[n], got.gpr[n]);
                let _ = writeln!(text, "  register {n}: expected {want:#x}, got {got:#x}");
            }
        }
        if self.rip != got.rip {
            let (want, got) = (self.rip, got.rip);
            let _ = writeln!(text, "  rip: expected {want:#x}, got {got:#x}");
        }
        if self.flags != got.flags {
            let (want, got) = (self.flags, got.flags);
            let _ = writeln!(text, "  flags: expected {want:#x}, got {got:#x}");
        }
        let (vectors, got) = (&self.vectors, &got.vectors);
        if vectors.mxcsr != got.mxcsr {
            let (want, got) = (vectors.mxcsr, got.mxcsr);
            let _ = writeln!(text, "  mxcsr: expected {want:#x}, got {got:#x}");
        }
        for n in 0..16 {
            if vectors.ymm[n] != got.ymm[n] {
                let ([a, b], [c, d]) = (vectors.ymm[n], got.ymm[n]);
                let _ = writeln!(
                    text,
                    "  ymm{n}: expected {b:#034x}:{a:#034x}, got {d:#034x}:{c:#034x}"
                );
            }
        }
    }
}

/// What a block does, by the interpreter.
pub(crate) struct Rehearsed<P> {
    /// The state before each instruction, and after the last one.
    states: Vec<State>,
    writes: Vec<Write<P>>,
}

/// Interprets up to `count` instructions from the current one, and undoes them.
pub(crate) fn rehearse<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    page: &mut CodePage<P>,
    count: usize,
) -> Rehearsed<P> {
    let mut states = Vec::with_capacity(count + 1);
    states.push(State::of(cpu));
    let mut vectors = Rc::clone(&states[0].vectors);
    let (tag, next_rip, length, attention) = (cpu.tag, cpu.next_rip, cpu.length, cpu.attention);
    let linear_page = cpu.rip & !0xFFF;
    cpu.tag |= SLOW;
    cpu.rehearsal = Some(Box::new(Rehearsal {
        done: 0,
        writes: Vec::new(),
    }));
    while states.len() <= count && cpu.rip & !0xFFF == linear_page {
        if page.ram.code_version() != page.version {
            break;
        }
        let Some(block) = page.block((cpu.rip & 0xFFF) as usize) else {
            break;
        };
        let op = &page.ops[block.first as usize];
        cpu.gpr[REG_PAGE as usize] = linear_page;
        if (op.run)(cpu, op).is_err() {
            break;
        }
        let following = linear_page.wrapping_add(u64::from(op.next));
        cpu.rip = match op.flags & (BRANCH | SOLO) {
            0 => following,
            _ => cpu.next_rip,
        };
        // Hot forms have no vector operands.
        if op.insn.is_some() {
            states.push(State::of(cpu));
            vectors = Rc::clone(&states[states.len() - 1].vectors);
        } else {
            states.push(State::with(cpu, Rc::clone(&vectors)));
        }
        if cpu.rip != following {
            break;
        }
        if let Some(rehearsal) = &mut cpu.rehearsal {
            rehearsal.done += 1;
        }
    }
    let writes = match cpu.rehearsal.take() {
        Some(rehearsal) => rehearsal.writes,
        None => Vec::new(),
    };
    for write in writes.iter().rev() {
        write.page.write(write.offset, &write.old);
    }
    states[0].restore(cpu);
    (cpu.tag, cpu.next_rip, cpu.length, cpu.attention) = (tag, next_rip, length, attention);
    Rehearsed { states, writes }
}

impl<P: RamPage + 'static> Rehearsed<P> {
    /// The difference to what translated code did in `done` instructions.
    pub(crate) fn compare(
        &self,
        cpu: &Cpu<'_, P>,
        page: &CodePage<P>,
        done: usize,
    ) -> Option<String> {
        let mut text = String::new();
        match self.states.get(done) {
            Some(want) if want.is_of(cpu) => {}
            Some(want) => want.tell(&State::of(cpu), &mut text),
            None => {
                let rehearsed = self.states.len() - 1;
                let _ = writeln!(
                    text,
                    "  the interpreter stops after {rehearsed} instructions"
                );
            }
        }
        // What each byte has to be: what the last write that was done put there, else what was there before the first.
        let undone = self.writes.partition_point(|write| write.done < done);
        for (number, write) in self.writes.iter().enumerate() {
            let (want, others) = match number < undone {
                true => (&write.new, &self.writes[number + 1..undone]),
                false => (&write.old, &self.writes[undone..number]),
            };
            for (at, &want) in want.iter().enumerate() {
                let got = write.page.load_u8(write.offset + at);
                if got != want && !others.iter().any(|other| other.covers(write, at)) {
                    let _ = writeln!(
                        text,
                        "  byte {:#x} of the page that instruction {} writes: expected {want:#x}, got {got:#x}",
                        write.offset + at,
                        write.done
                    );
                }
            }
        }
        if text.is_empty() {
            return None;
        }
        let start = &self.states[0];
        let offset = (start.rip & 0xFFF) as usize;
        let mut code = vec![0; (4096 - offset).min(64)];
        page.ram.read(offset, &mut code);
        let mut head = format!(
            "after {done} instructions from {:#x}, code {code:02x?}\n  start: flags {:#x}",
            start.rip, start.flags
        );
        for (n, value) in start.gpr.iter().enumerate() {
            let _ = write!(head, " r{n}={value:#x}");
        }
        Some(format!("{head}\n{text}"))
    }
}

/// The fault that ends a rehearsal where the soft TLB does not know a page; nobody sees it.
pub(crate) const UNKNOWN: Fault = Fault::EXIT;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::CodeCache;
    use crate::flat::{FlatGuest, FlatPage, long_vcpu};
    use crate::platform::Platform;
    use crate::tlb::Tlb;
    use x86_arch::{Access, Hkid, Hpa, KeyedHpa};

    #[test]
    fn a_rehearsal_changes_nothing_and_shows_every_difference() {
        let mut guest = FlatGuest::new(0x10_0000);
        let mut vcpu = long_vcpu(&mut guest, 0x1000, 0);
        // inc rax; mov [rbx], rax
        guest.put(0x8000, &[0x48, 0xFF, 0xC0, 0x48, 0x89, 0x03]);
        vcpu.regs.rip = 0x8000;
        vcpu.regs.gpr[0] = 6;
        vcpu.regs.gpr[3] = 0x9008;
        let [code, data] = [0x8000, 0x9000].map(|at| {
            let page = KeyedHpa::new(Hpa::new(at), Hkid(0));
            (page, guest.page(page).expect("RAM"))
        });
        let mut tlb: Tlb<FlatPage> = Tlb::default();
        tlb.enter_space(0, 0);
        let mut cache = CodeCache::default();
        let number = cache.add(code.0, crate::cpu::Mode::Bits64, code.1);
        let mut cpu = Cpu::new(&mut vcpu, &mut tlb, &mut guest);
        cpu.tlb
            .fill(Access::Write, 0x9000, cpu.tag, 12, data.1.clone());
        let before = State::of(&cpu);
        let page = cache.page(number);
        let rehearsed = rehearse(&mut cpu, page, 2);
        assert_eq!(rehearsed.states.len(), 3);
        assert!(State::of(&cpu) == before);
        assert_eq!(data.1.load_u64(8), 0);
        // Nothing was done, so both instructions' results are missing.
        let text = rehearsed.compare(&cpu, page, 2).expect("a difference");
        assert!(text.contains("register 0: expected 0x7, got 0x6"), "{text}");
        assert!(text.contains("byte 0x8 of the page"), "{text}");
        assert_eq!(rehearsed.compare(&cpu, page, 0), None);
        rehearsed.states[2].restore(&mut cpu);
        data.1.store_u64(8, 7);
        assert_eq!(rehearsed.compare(&cpu, page, 2), None);
    }
}
