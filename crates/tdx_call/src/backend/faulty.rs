//! Answers chosen calls with an error instead of making them: the race that takes a lab to see, on one thread.

use core::fmt;
use core::str::FromStr;

use tdx_abi::{HostLeaf, LeafWord, Status};

use crate::{NoSeam, SeamcallLp, TdxModuleArgs, Traffic, VpEntry};

/// Which calls of a leaf fail, and how.
///
/// Written `WHAT:LEAF@N`: the Nth call of the leaf (from 1) answers WHAT; `@N+COUNT` for COUNT calls from there on; every
/// call without `@`. WHAT is `busy`, `no-entropy`, `interrupted`, `no-module`, a status's name, or its number.
///
/// ```
/// use tdx_abi::{HostLeaf, Status};
/// use tdx_call::backend::FaultRule;
///
/// let rule: FaultRule = "busy:TDH.MEM.RANGE.BLOCK@3".parse()?;
/// assert_eq!(rule.leaf, HostLeaf::MEM_RANGE_BLOCK);
/// assert_eq!((rule.first, rule.count, rule.answer), (3, 1, Ok(Status::OPERAND_BUSY)));
/// # Ok::<(), tdx_call::backend::InvalidFaultRule>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRule {
    pub leaf: HostLeaf,
    /// The first call that fails, from 1.
    pub first: u32,
    /// How many calls fail.
    pub count: u32,
    pub answer: Result<Status, NoSeam>,
}

/// Fails the calls that its rules name, and makes the others. `N` bounds the number of rules.
#[derive(Clone, Debug)]
pub struct Faulty<L, const N: usize = 16> {
    inner: L,
    /// Each with the calls of its leaf so far.
    rules: [Option<(FaultRule, u32)>; N],
}

impl<L, const N: usize> Faulty<L, N> {
    /// The first `N` of `rules`; the first that applies to a call decides.
    pub fn new(inner: L, rules: impl IntoIterator<Item = FaultRule>) -> Self {
        let mut rules = rules.into_iter();
        Faulty {
            inner,
            rules: core::array::from_fn(|_| rules.next().map(|rule| (rule, 0))),
        }
    }
    pub fn into_inner(self) -> L {
        self.inner
    }

    /// Counts the call for every rule; the answer of the first that fails it.
    fn fault(&mut self, leaf: HostLeaf) -> Option<Result<Status, NoSeam>> {
        let mut fault = None;
        for (rule, calls) in self
            .rules
            .iter_mut()
            .flatten()
            .filter(|(r, _)| r.leaf == leaf)
        {
            *calls = calls.saturating_add(1);
            if *calls >= rule.first && *calls - rule.first < rule.count {
                fault = fault.or(Some(rule.answer));
            }
        }
        fault
    }
}

impl<L: SeamcallLp, const N: usize> SeamcallLp for Faulty<L, N> {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        match self.fault(HostLeaf(leaf.number())) {
            Some(answer) => answer,
            None => self.inner.seamcall(leaf, args, traffic),
        }
    }

    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        match self.fault(HostLeaf::VP_ENTER) {
            Some(answer) => {
                let rax = answer.unwrap_or_else(NoSeam::status);
                entry.exited(coco_regs::ExitWords {
                    rax,
                    ..Default::default()
                });
                answer
            }
            None => self.inner.vp_enter(entry),
        }
    }
}

/// The text is no fault rule; which part is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidFaultRule {
    /// There is no `:` between what and where.
    NoColon,
    /// Not one of the words, a status's name or a number.
    What,
    /// Not the name of a SEAMCALL leaf.
    Leaf,
    /// Not a number from 1, or not `FIRST+COUNT`.
    Position,
}

impl FromStr for FaultRule {
    type Err = InvalidFaultRule;

    fn from_str(text: &str) -> Result<Self, InvalidFaultRule> {
        let (what, place) = text.split_once(':').ok_or(InvalidFaultRule::NoColon)?;
        let (leaf, position) = match place.split_once('@') {
            Some((leaf, position)) => (leaf, Some(position)),
            None => (place, None),
        };
        let number = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(InvalidFaultRule::Position),
            Ok(number) => Ok(number),
        };
        let (first, count) = match position.map(|p| p.split_once('+').ok_or(p)) {
            None => (1, u32::MAX),
            Some(Err(first)) => (number(first)?, 1),
            Some(Ok((first, count))) => (number(first)?, number(count)?),
        };
        Ok(FaultRule {
            leaf: HostLeaf::parse(leaf).ok_or(InvalidFaultRule::Leaf)?,
            first,
            count,
            answer: answer(what).ok_or(InvalidFaultRule::What)?,
        })
    }
}

fn answer(what: &str) -> Option<Result<Status, NoSeam>> {
    Some(Ok(match what {
        "busy" => Status::OPERAND_BUSY,
        "no-entropy" => Status::RND_NO_ENTROPY,
        "interrupted" => Status::INTERRUPTED_RESUMABLE,
        "no-module" => return Some(Err(NoSeam::VmFailInvalid)),
        other => match other.strip_prefix("0x") {
            Some(digits) => Status(u64::from_str_radix(digits, 16).ok()?),
            None => {
                let name = other.strip_prefix("TDX_").unwrap_or(other);
                *Status::ALL
                    .iter()
                    .find(|status| status.name().is_some_and(|n| n.eq_ignore_ascii_case(name)))?
            }
        },
    }))
}

impl fmt::Display for InvalidFaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidFaultRule::NoColon => "a fault is WHAT:LEAF[@N[+COUNT]]",
            InvalidFaultRule::What => {
                "a fault is busy, no-entropy, interrupted, no-module, or a status by name or number"
            }
            InvalidFaultRule::Leaf => "not a SEAMCALL leaf (such as TDH.MEM.RANGE.BLOCK)",
            InvalidFaultRule::Position => "calls are counted from 1: @N, or @N+COUNT",
        })
    }
}

impl core::error::Error for InvalidFaultRule {}
