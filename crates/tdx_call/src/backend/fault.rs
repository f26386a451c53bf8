//! Fault rules: what goes wrong, where, and at which calls. Read from text such as `busy:SEPT_TREE@3`.

use core::fmt;
use core::str::FromStr;

use tdx_abi::{HostLeaf, Interruption, LeafRow, LockKind, Status};

use crate::NoSeam;

/// What goes wrong with which calls.
///
/// Written `WHAT:WHERE[@WHEN]`:
/// - WHAT: `busy`, `no-entropy`, `interrupted`, `no-module`, `gp`, `ud`, a status by name or number: the call is not
///   made, and this is its answer. `listed`: one of the statuses that the leaf's row lists, drawn by the seed. `lost`:
///   the call is not made and succeeds all the same, as a host with a bug would have it. `interrupt`, `poison`,
///   `lost-flush`: the call is made, and the hardware disturbs it ([`super::Disturbance`]). `lie`: TDH.VP.ENTER delivers
///   other values than the VMM's answer to a TDVMCALL, drawn by the seed.
/// - WHERE: a leaf, a lock (`SEPT_TREE`: every leaf that takes it), or `*` for every leaf.
/// - WHEN: `N` the Nth such call, from 1; `N+COUNT` COUNT calls from there on; `/N` every Nth; `~N` one in N on
///   average, drawn by the seed. Without it: every call.
///
/// ```
/// use tdx_abi::HostLeaf;
/// use tdx_call::backend::{Fault, FaultRule, Site, When};
///
/// let rule: FaultRule = "busy:TDH.MEM.RANGE.BLOCK@3".parse()?;
/// assert_eq!(rule.fault, Fault::Busy);
/// assert_eq!(rule.site, Site::Leaf(HostLeaf::MEM_RANGE_BLOCK));
/// assert_eq!(rule.when, When::From { first: 3, count: 1 });
/// # Ok::<(), tdx_call::backend::InvalidFaultRule>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRule {
    pub fault: Fault,
    pub site: Site,
    pub when: When,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A held lock: the one that the site names, or the leaf's first.
    Busy,
    /// INTERRUPTED_RESUMABLE, or INTERRUPTED_RESTARTABLE of a leaf that starts over.
    Interrupted,
    Answer(Status),
    NoSeam(NoSeam),
    /// One of the statuses of the leaf's row, drawn by the seed.
    Listed,
    /// Success, though the call was not made.
    Lost,
    /// An interrupt waits for the processor while the call is made.
    Interrupt,
    /// The page that the call gives to the TD is bad memory afterwards.
    Poison,
    /// What the call flushes from the processor's TLB stays there.
    LostFlush,
    /// The guest's TDVMCALL is answered with values drawn by the seed.
    Lie,
}

/// Which calls a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    Every,
    Leaf(HostLeaf),
    /// Every leaf that takes the lock.
    Lock(LockKind),
}

/// Which of the calls at its site a rule fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    Always,
    /// `count` calls from the one numbered `first` on, counted from 1.
    From {
        first: u32,
        count: u32,
    },
    /// Each call whose number is a multiple.
    Multiple(u32),
    /// One in so many, by the seed.
    OneIn(u32),
}

impl Site {
    pub(super) fn takes(self, leaf: HostLeaf) -> bool {
        match self {
            Site::Every => true,
            Site::Leaf(own) => own == leaf,
            Site::Lock(kind) => leaf
                .row()
                .is_some_and(|row| row.taken_locks().any(|lock| lock.kind() == kind)),
        }
    }

    /// How `leaf` answers when the lock of this site is held; its first lock for other sites.
    pub(super) fn busy(self, leaf: HostLeaf) -> Status {
        let Site::Lock(kind) = self else {
            return Status::OPERAND_BUSY;
        };
        let mut locks = leaf.row().into_iter().flat_map(LeafRow::taken_locks);
        locks
            .find(|lock| lock.kind() == kind)
            .map_or(Status::OPERAND_BUSY, |lock| lock.busy())
    }
}

impl When {
    /// Whether the call with this number is one; `draw` gives a random number below its argument.
    pub(super) fn is_due(self, number: u32, draw: impl FnOnce(u32) -> u32) -> bool {
        match self {
            When::Always => true,
            When::From { first, count } => number >= first && number - first < count,
            When::Multiple(n) => number.is_multiple_of(n),
            When::OneIn(n) => draw(n) == 0,
        }
    }
}

/// What a leaf answers when an interrupt ends it.
pub(super) fn interrupted(leaf: HostLeaf) -> Status {
    match leaf.row().map(|row| row.interruption) {
        Some(Interruption::Restartable) => Status::INTERRUPTED_RESTARTABLE,
        _ => Status::INTERRUPTED_RESUMABLE,
    }
}

/// The text is no fault rule; which part is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidFaultRule {
    /// There is no `:` between what and where.
    NoColon,
    /// Not one of the words, a status's name or a number.
    What,
    /// Not the name of a SEAMCALL leaf or a lock.
    Where,
    /// Not a number from 1, or none of the forms.
    When,
    /// Poison without a leaf that gives the TD a page.
    NoPage,
}

impl FromStr for FaultRule {
    type Err = InvalidFaultRule;

    fn from_str(text: &str) -> Result<Self, InvalidFaultRule> {
        let (what, place) = text.split_once(':').ok_or(InvalidFaultRule::NoColon)?;
        let (place, position) = match place.split_once('@') {
            Some((place, position)) => (place, Some(position)),
            None => (place, None),
        };
        let rule = FaultRule {
            fault: fault(what).ok_or(InvalidFaultRule::What)?,
            site: site(place).ok_or(InvalidFaultRule::Where)?,
            when: position
                .map_or(Some(When::Always), when)
                .ok_or(InvalidFaultRule::When)?,
        };
        let gives_a_page = [HostLeaf::MEM_PAGE_ADD, HostLeaf::MEM_PAGE_AUG];
        match rule.fault {
            Fault::Poison if !gives_a_page.map(Site::Leaf).contains(&rule.site) => {
                Err(InvalidFaultRule::NoPage)
            }
            _ => Ok(rule),
        }
    }
}

fn fault(what: &str) -> Option<Fault> {
    Some(match what {
        "busy" => Fault::Busy,
        "no-entropy" => Fault::Answer(Status::RND_NO_ENTROPY),
        "interrupted" => Fault::Interrupted,
        "no-module" => Fault::NoSeam(NoSeam::VmFailInvalid),
        "gp" => Fault::NoSeam(NoSeam::GeneralProtection),
        "ud" => Fault::NoSeam(NoSeam::InvalidOpcode),
        "listed" => Fault::Listed,
        "lost" => Fault::Lost,
        "interrupt" => Fault::Interrupt,
        "poison" => Fault::Poison,
        "lost-flush" => Fault::LostFlush,
        "lie" => Fault::Lie,
        other => Fault::Answer(match other.strip_prefix("0x") {
            Some(digits) => Status(u64::from_str_radix(digits, 16).ok()?),
            None => {
                let name = other.strip_prefix("TDX_").unwrap_or(other);
                *Status::ALL
                    .iter()
                    .find(|status| status.name().is_some_and(|n| n.eq_ignore_ascii_case(name)))?
            }
        }),
    })
}

fn site(place: &str) -> Option<Site> {
    if place == "*" {
        return Some(Site::Every);
    }
    let leaf = HostLeaf::parse(place).map(Site::Leaf);
    leaf.or_else(|| LockKind::parse(place).map(Site::Lock))
}

fn when(position: &str) -> Option<When> {
    let number = |text: &str| text.parse().ok().filter(|&number: &u32| number != 0);
    Some(if let Some(n) = position.strip_prefix('/') {
        When::Multiple(number(n)?)
    } else if let Some(n) = position.strip_prefix('~') {
        When::OneIn(number(n)?)
    } else {
        let (first, count) = position.split_once('+').unwrap_or((position, "1"));
        When::From {
            first: number(first)?,
            count: number(count)?,
        }
    })
}

impl fmt::Display for FaultRule {
    /// As it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::Busy => f.write_str("busy"),
            Fault::Interrupted => f.write_str("interrupted"),
            Fault::Answer(Status::RND_NO_ENTROPY) => f.write_str("no-entropy"),
            Fault::Answer(status) => match status.name() {
                Some(name) if status.details() == 0 => f.write_str(name),
                _ => write!(f, "{:#x}", status.raw()),
            },
            Fault::NoSeam(NoSeam::VmFailInvalid) => f.write_str("no-module"),
            Fault::NoSeam(NoSeam::GeneralProtection) => f.write_str("gp"),
            Fault::NoSeam(NoSeam::InvalidOpcode) => f.write_str("ud"),
            Fault::Listed => f.write_str("listed"),
            Fault::Lost => f.write_str("lost"),
            Fault::Interrupt => f.write_str("interrupt"),
            Fault::Poison => f.write_str("poison"),
            Fault::LostFlush => f.write_str("lost-flush"),
            Fault::Lie => f.write_str("lie"),
        }?;
        match self.site {
            Site::Every => f.write_str(":*"),
            Site::Leaf(leaf) => write!(f, ":{leaf}"),
            Site::Lock(kind) => write!(f, ":{kind}"),
        }?;
        match self.when {
            When::Always => Ok(()),
            When::From { first, count: 1 } => write!(f, "@{first}"),
            When::From { first, count } => write!(f, "@{first}+{count}"),
            When::Multiple(n) => write!(f, "@/{n}"),
            When::OneIn(n) => write!(f, "@~{n}"),
        }
    }
}

impl fmt::Display for InvalidFaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidFaultRule::NoColon => "a fault is WHAT:WHERE[@WHEN], such as busy:SEPT_TREE@3",
            InvalidFaultRule::What => {
                "a fault is busy, no-entropy, interrupted, no-module, gp, ud, listed, lost, interrupt, poison, lost-flush, lie, \
                 or a status by name or number"
            }
            InvalidFaultRule::Where => {
                "not a SEAMCALL leaf (such as TDH.MEM.RANGE.BLOCK), a lock (such as SEPT_TREE) or *"
            }
            InvalidFaultRule::When => {
                "calls are counted from 1: @N, @N+COUNT, @/N for every Nth, @~N for one in N"
            }
            InvalidFaultRule::NoPage => {
                "poison hits the page of TDH.MEM.PAGE.ADD or TDH.MEM.PAGE.AUG"
            }
        })
    }
}

impl core::error::Error for InvalidFaultRule {}
