//! Disturbs chosen calls: the race that takes a lab to see, on one thread.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tdx_abi::{HostLeaf, LeafWord, Status};
use x86_arch::Hpa;

use super::fault::{Fault, FaultRule, interrupted};
use crate::{NoSeam, SeamcallLp, TdxModuleArgs, Traffic, VpEntry};

/// The rules of a run and how far each has counted; all processors share it. `N` bounds the number of rules.
#[derive(Debug)]
pub struct Schedule<const N: usize = 16> {
    rules: [Option<Counted>; N],
    random: AtomicU64,
}

#[derive(Debug)]
struct Counted {
    rule: FaultRule,
    calls: AtomicU32,
    hits: AtomicU32,
}

/// What a [`Faulty`] processor does with a call.
enum Due {
    Answer(Result<Status, NoSeam>),
    Disturb(Fault),
}

impl<const N: usize> Schedule<N> {
    /// The first `N` of `rules`; the first that is due decides. `seed` is that of the rules that draw.
    pub fn new(rules: impl IntoIterator<Item = FaultRule>, seed: u64) -> Self {
        let mut rules = rules.into_iter();
        let counted = |rule| Counted {
            rule,
            calls: AtomicU32::new(0),
            hits: AtomicU32::new(0),
        };
        Schedule {
            rules: core::array::from_fn(|_| rules.next().map(counted)),
            random: AtomicU64::new(seed),
        }
    }

    /// Each rule, the calls at its site so far, and those of them that it disturbed.
    pub fn counts(&self) -> impl Iterator<Item = (FaultRule, u32, u32)> + use<'_, N> {
        let counts = |c: &Counted| (c.rule, c.calls.load(Relaxed), c.hits.load(Relaxed));
        self.rules.iter().flatten().map(counts)
    }

    /// Counts a call for every rule; what the first that is due does with it.
    fn due(&self, leaf: HostLeaf) -> Option<Due> {
        let mut due = None;
        let rules = self.rules.iter().flatten();
        for counted in rules.filter(|counted| counted.rule.site.takes(leaf)) {
            let number = counted.calls.fetch_add(1, Relaxed).saturating_add(1);
            let rule = counted.rule;
            if due.is_none() && rule.when.is_due(number, |below| self.draw(below)) {
                counted.hits.fetch_add(1, Relaxed);
                due = Some(self.fault(rule, leaf));
            }
        }
        due
    }

    fn fault(&self, rule: FaultRule, leaf: HostLeaf) -> Due {
        Due::Answer(match rule.fault {
            Fault::Busy => Ok(rule.site.busy(leaf)),
            Fault::Interrupted => Ok(interrupted(leaf)),
            Fault::Answer(status) => Ok(status),
            Fault::NoSeam(why) => Err(why),
            Fault::Lost => Ok(Status::SUCCESS),
            Fault::Listed => {
                let listed = leaf.row().map_or(&[][..], |row| row.statuses);
                let at = self.draw(listed.len().max(1) as u32) as usize;
                Ok(listed.get(at).copied().unwrap_or(Status::OPERAND_BUSY))
            }
            Fault::Interrupt | Fault::Poison | Fault::LostFlush | Fault::Lie => {
                return Due::Disturb(rule.fault);
            }
        })
    }

    /// Replaces what the entry is to answer.
    fn lie(&self, entry: &mut VpEntry<'_>) {
        let owed = entry.owed();
        for reg in owed.gprs().iter() {
            let random = self.random();
            entry.files().0[reg] = match self.draw(8) {
                0 => 0,
                1 => 1,
                2 => 1 << 63 | random & 7,
                3 => u64::MAX,
                4 => random & 0xFF,
                5 => random & 0x7FFF_FFFF_F000,
                6 => random >> 32,
                _ => random,
            };
        }
    }

    /// A random number below `below`.
    fn draw(&self, below: u32) -> u32 {
        (self.random() % u64::from(below)) as u32
    }

    /// SplitMix64.
    fn random(&self) -> u64 {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let z = self.random.fetch_add(GOLDEN, Relaxed).wrapping_add(GOLDEN);
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}

/// What only the hardware can do to a call; who owns it is told to, before or after the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disturbance {
    /// Before: an interrupt waits for the processor.
    InterruptArrives,
    /// After: the host's handler takes it.
    InterruptTaken,
    /// After: this page's memory is bad.
    Poison(Hpa),
    /// Before: from now on the processor's TLB keeps what it is told to drop.
    FlushesLost,
    /// After: it obeys again.
    FlushesWork,
}

/// A processor whose calls a [`Schedule`] disturbs. `hardware` does what a [`Disturbance`] says.
#[derive(Clone, Debug)]
pub struct Faulty<'s, L, H = fn(Disturbance), const N: usize = 16> {
    inner: L,
    schedule: &'s Schedule<N>,
    hardware: H,
}

impl<'s, L, const N: usize> Faulty<'s, L, fn(Disturbance), N> {
    /// Without a hand on the hardware: rules that need it do nothing.
    pub fn new(inner: L, schedule: &'s Schedule<N>) -> Self {
        Faulty::on(inner, schedule, |_| {})
    }
}

impl<'s, L, H: FnMut(Disturbance), const N: usize> Faulty<'s, L, H, N> {
    pub fn on(inner: L, schedule: &'s Schedule<N>, hardware: H) -> Self {
        Faulty {
            inner,
            schedule,
            hardware,
        }
    }
    pub fn into_inner(self) -> L {
        self.inner
    }

    /// Makes a call between the two halves of a disturbance; `page` is R8 before the call.
    fn disturbed(
        &mut self,
        fault: Fault,
        page: Hpa,
        call: impl FnOnce(&mut L) -> Result<Status, NoSeam>,
    ) -> Result<Status, NoSeam> {
        match fault {
            Fault::Interrupt => (self.hardware)(Disturbance::InterruptArrives),
            Fault::LostFlush => (self.hardware)(Disturbance::FlushesLost),
            _ => {}
        }
        let answer = call(&mut self.inner);
        match fault {
            Fault::Interrupt => (self.hardware)(Disturbance::InterruptTaken),
            Fault::LostFlush => (self.hardware)(Disturbance::FlushesWork),
            Fault::Poison if answer.is_ok_and(|status| !status.is_error()) => {
                (self.hardware)(Disturbance::Poison(page));
            }
            _ => {}
        }
        answer
    }
}

impl<L: SeamcallLp, H: FnMut(Disturbance), const N: usize> SeamcallLp for Faulty<'_, L, H, N> {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        match self.schedule.due(HostLeaf(leaf.number())) {
            None => self.inner.seamcall(leaf, args, traffic),
            Some(Due::Answer(answer)) => answer,
            Some(Due::Disturb(fault)) => {
                let page = Hpa::new(args.r8);
                self.disturbed(fault, page, |lp| lp.seamcall(leaf, args, traffic))
            }
        }
    }

    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        match self.schedule.due(HostLeaf::VP_ENTER) {
            None => self.inner.vp_enter(entry),
            Some(Due::Answer(answer)) => {
                let rax = answer.unwrap_or_else(NoSeam::status);
                entry.exited(coco_regs::ExitWords {
                    rax,
                    ..Default::default()
                });
                answer
            }
            Some(Due::Disturb(Fault::Lie)) => {
                self.schedule.lie(entry);
                self.inner.vp_enter(entry)
            }
            Some(Due::Disturb(fault)) => {
                self.disturbed(fault, Hpa::new(0), |lp| lp.vp_enter(entry))
            }
        }
    }
}
