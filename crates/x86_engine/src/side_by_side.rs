//! Every kind of engine on one guest, for tests: each gets a copy, and all have to end alike.

use crate::engine::{Engine, Ran};
use crate::flat::{FlatGuest, FlatPage};
use crate::kind::EngineKind;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use x86_arch::RamPage;
use x86_arch::vmx::Vcpu;

/// Processors that share a guest's memory: with the interpreter, and beside that with the other kinds of engine,
/// which translate everything before it runs.
pub struct SideBySide {
    interpreters: Vec<Engine<FlatPage>>,
    others: Vec<(Vec<Engine<FlatPage>>, FlatGuest)>,
}

impl Default for SideBySide {
    fn default() -> Self {
        Self::new()
    }
}

impl SideBySide {
    /// One processor. On a host that translates nothing the interpreter is alone ([`SideBySide::translates`]).
    pub fn new() -> SideBySide {
        Self::with(1, 0)
    }

    /// So many processors, whose blocks are translated after so many executions.
    pub fn with(processors: usize, translate_after: u16) -> SideBySide {
        let engines = |kind| -> Vec<Engine<FlatPage>> {
            let engine = |_| {
                let mut engine = Engine::with(kind);
                engine.translate_after(translate_after);
                engine
            };
            (0..processors).map(engine).collect()
        };
        let others = [EngineKind::Translator, EngineKind::Lockstep].into_iter();
        let others = others.map(|kind| (engines(kind), FlatGuest::new(0)));
        let others =
            others.filter(|(engines, _)| engines.iter().all(|engine| engine.refused().is_none()));
        SideBySide {
            others: others.collect(),
            interpreters: engines(EngineKind::Interpreter),
        }
    }

    /// Whether there is something beside the interpreter.
    pub fn translates(&self) -> bool {
        !self.others.is_empty()
    }

    /// Instructions that the translator's engines completed in translated code.
    pub fn translated(&self) -> u64 {
        let engines = self.others.first().map_or(&[][..], |(engines, _)| engines);
        engines.iter().map(Engine::translated).sum()
    }

    /// Drops cached translations of a VPID on every processor.
    pub fn invalidate(&mut self, vpid: u16) {
        let others = self.others.iter_mut().flat_map(|(engines, _)| engines);
        for engine in self.interpreters.iter_mut().chain(others) {
            engine.invalidate(&[vpid]);
        }
    }

    /// Runs the first processor in each kind of engine; `vcpu` and `guest` end as the interpreter leaves them.
    ///
    /// # Panics
    /// When the engines differ in what they ran, in the vCPU, in memory, or in what they asked the platform for.
    #[track_caller]
    pub fn run(&mut self, vcpu: &mut Vcpu, guest: &mut FlatGuest, budget: u64) -> Ran {
        match self.compare(0, vcpu, guest, budget) {
            Ok(ran) => ran,
            Err(difference) => panic!("{difference}"),
        }
    }

    /// The same for any processor, with the first difference as an error.
    pub fn compare(
        &mut self,
        processor: usize,
        vcpu: &mut Vcpu,
        guest: &mut FlatGuest,
        budget: u64,
    ) -> Result<Ran, String> {
        let start = vcpu.clone();
        for (_, copy) in &mut self.others {
            guest.copy_to(copy);
        }
        let ran = self.interpreters[processor].run(vcpu, guest, budget);
        for (engines, copy) in &mut self.others {
            let engine = &mut engines[processor];
            let mut other = start.clone();
            let got = engine.run(&mut other, copy, budget);
            let mut text = String::new();
            if let Some(difference) = engine.difference() {
                text.push_str(difference);
            } else if got != ran {
                let _ = writeln!(text, "  {ran:?} and {got:?}");
            }
            if engine.difference().is_none() {
                tell_vcpu(vcpu, &other, &mut text);
                tell_guest(guest, copy, &mut text);
            }
            if !text.is_empty() {
                return Err(format!(
                    "interpreter and {} from {:#x} for {budget}:\n{text}",
                    engine.kind(),
                    start.regs.rip,
                ));
            }
        }
        Ok(ran)
    }
}

/// What differs between two processors, as lines.
pub fn tell_vcpu(want: &Vcpu, got: &Vcpu, text: &mut String) {
    if want == got {
        return;
    }
    let (a, b) = (&want.regs, &got.regs);
    for n in 0..16 {
        if a.gpr[n] != b.gpr[n] {
            let _ = writeln!(text, "  register {n}: {:#x} and {:#x}", a.gpr[n], b.gpr[n]);
        }
        if a.fpu.ymm[n] != b.fpu.ymm[n] {
            let _ = writeln!(
                text,
                "  ymm{n}: {:#x?} and {:#x?}",
                a.fpu.ymm[n], b.fpu.ymm[n]
            );
        }
    }
    for (name, a, b) in [
        ("rip", a.rip, b.rip),
        ("rflags", a.rflags, b.rflags),
        ("cr2", a.cr2, b.cr2),
        ("cr3", a.cr3, b.cr3),
        ("dr6", a.dr6, b.dr6),
        ("mxcsr", u64::from(a.fpu.mxcsr), u64::from(b.fpu.mxcsr)),
    ] {
        if a != b {
            let _ = writeln!(text, "  {name}: {a:#x} and {b:#x}");
        }
    }
    if want.exit != got.exit {
        let _ = writeln!(text, "  exit: {:x?} and {:x?}", want.exit, got.exit);
    }
    if text.is_empty() {
        let _ = writeln!(text, "  the vCPUs: {want:x?}\n  and {got:x?}");
    }
}

/// What differs between two guests' memory and platform state, as lines.
pub fn tell_guest(want: &FlatGuest, got: &FlatGuest, text: &mut String) {
    let untouched = FlatPage::default();
    let all: BTreeSet<&u64> = want.pages.keys().chain(got.pages.keys()).collect();
    for at in all {
        let [a, b] = [want, got].map(|guest| guest.pages.get(at).unwrap_or(&untouched));
        for offset in (0..4096).step_by(8) {
            let (a, b, at) = (a.load_u64(offset), b.load_u64(offset), at + offset as u64);
            if a != b {
                let _ = writeln!(text, "  memory at {at:#x}: {a:#x} and {b:#x}");
            }
        }
    }
    let same = want.events == got.events
        && want.posted == got.posted
        && want.random == got.random
        && want.msrs == got.msrs;
    if !same {
        let _ = writeln!(text, "  the platform's events, random numbers or MSRs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::long_vcpu;

    #[test]
    fn differences_in_registers_memory_and_platform_are_told() {
        let mut guest = FlatGuest::new(0x10_0000);
        let vcpu = long_vcpu(&mut guest, 0x1000, 0);
        let mut copy = FlatGuest::new(0);
        guest.copy_to(&mut copy);
        let mut text = String::new();
        tell_vcpu(&vcpu, &vcpu.clone(), &mut text);
        tell_guest(&guest, &copy, &mut text);
        assert_eq!(text, "");
        let mut other = vcpu.clone();
        other.regs.gpr[3] = 1;
        other.regs.dr7 = 0;
        copy.put_u64(0x1008, 5);
        copy.random = 0;
        tell_vcpu(&vcpu, &other, &mut text);
        tell_guest(&guest, &copy, &mut text);
        assert!(text.contains("register 3: 0x0 and 0x1"), "{text}");
        assert!(text.contains("memory at 0x1008: 0x0 and 0x5"), "{text}");
        assert!(text.contains("random"), "{text}");
    }
}
