//! What each leaf is: versions, registers, the states it is allowed in, its locks and the statuses its
//! handler names (spec: host-*.md, guest-leaves.md, vp-enter.md). One row a leaf, one file a category.

mod guest;
mod lock;
mod memory;
mod migration;
mod module;
mod physical_memory;
mod td;
mod vcpu;

use core::fmt;

pub use lock::LockKind;
use x86_arch::Gpr;

use crate::{GuestLeaf, HostLeaf, OpState, SeptState, Status};

/// What a leaf is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafCategory {
    Module,
    TdManagement,
    Vcpu,
    PrivateMemory,
    SecureEpt,
    PhysicalMemory,
    Measurement,
    Metadata,
    ServiceTd,
    Migration,
    TdPartitioning,
    Vmcall,
}

/// A register, or several, that a leaf takes or returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafOperand {
    /// As the manual writes it: `RCX`, `R9-R11`, `RBX,RDX,R8-R15`, `XMM0-XMM15`.
    pub registers: &'static str,
    pub name: &'static str,
    /// The structure or word that it is (or points to), by the manual's name; empty for a plain value.
    pub format: &'static str,
}

impl LeafOperand {
    /// The GPRs, one bit each by x86 encoding.
    pub fn gprs(&self) -> u16 {
        self.registers
            .split(',')
            .map(gpr_range)
            .fold(0, |all, some| all | some)
    }
    /// Whether XMM0 to XMM15 are meant.
    pub fn is_xmm(&self) -> bool {
        self.registers == "XMM0-XMM15"
    }
}

/// The bits of `R8` or `R8-R15`.
fn gpr_range(text: &str) -> u16 {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (Gpr::parse(first), Gpr::parse(last)) {
        (Some(first), Some(last)) => Gpr::ALL
            .into_iter()
            .filter(|gpr| (first..=last).contains(gpr))
            .fold(0, |bits, gpr| bits | 1 << gpr.index()),
        _ => 0,
    }
}

/// How a lock is taken. All locks try and never wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    Shared,
    Exclusive,
    Mutex,
    /// Not taken: the TDR is locked exclusively, which implies it.
    Implied,
}

/// A lock of a leaf, in the order in which the handler names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafLock {
    pub object: &'static str,
    pub mode: LockMode,
}

/// What happens when an interrupt is pending in a long leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interruption {
    /// The leaf runs to its end.
    Never,
    /// INTERRUPTED_RESUMABLE: call again with the operands returned, or with the resume command.
    Resumable,
    /// INTERRUPTED_RESTARTABLE: call again; the leaf starts over.
    Restartable,
    /// A TDCALL: RIP stays, and the guest executes it again.
    Reexecuted,
}

/// One leaf. RAX is LEAF_AND_VERSION going in and the completion status coming out of every leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafRow {
    pub number: u16,
    pub name: &'static str,
    pub versions: &'static [u8],
    pub category: LeafCategory,
    /// What it does, in a phrase.
    pub summary: &'static str,
    /// False: the number is reserved, without a handler in 1.5.01.
    pub implemented: bool,
    pub inputs: &'static [LeafOperand],
    pub outputs: &'static [LeafOperand],
    /// The op-states it is allowed in; `None`: it does not check.
    pub op_states: Option<&'static [OpState]>,
    /// The states its Secure EPT entry may be in; `None`: it has none, or does not check.
    pub sept_states: Option<&'static [SeptState]>,
    pub interruption: Interruption,
    pub locks: &'static [LeafLock],
    /// Binds the vCPU to the LP it runs on.
    pub associates: bool,
    /// What its own handler names; statuses of shared checks come on top.
    pub statuses: &'static [Status],
}

const HOST: [&[LeafRow]; 6] = [
    module::ROWS,
    td::ROWS,
    vcpu::ROWS,
    memory::ROWS,
    physical_memory::ROWS,
    migration::ROWS,
];

impl HostLeaf {
    /// The leaf's row.
    pub fn row(self) -> Option<&'static LeafRow> {
        HOST.into_iter().flatten().find(|row| row.number == self.0)
    }
}

impl GuestLeaf {
    /// The leaf's row.
    pub fn row(self) -> Option<&'static LeafRow> {
        guest::ROWS.iter().find(|row| row.number == self.0)
    }
}

impl fmt::Display for LeafOperand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.registers, self.name)
    }
}

/// Writes a file's rows, one line for each aspect of a leaf.
macro_rules! rows {
    ($($number:literal $name:literal v[$($version:literal),*] $category:ident $summary:literal
        in[$($ir:literal $in:literal $if:literal),*]
        out[$($or:literal $on:literal $of:literal),*]
        ops($ops:expr) septs($septs:expr) $interruption:ident
        locks[$($lock:literal $mode:ident),*]
        $associates:ident
        statuses[$($status:ident),*];)*) => {
        pub(super) const ROWS: &[LeafRow] = &[$(LeafRow {
            number: $number,
            name: $name,
            versions: &[$($version),*],
            category: LeafCategory::$category,
            summary: $summary,
            implemented: !$summary.is_empty(),
            inputs: &[$(LeafOperand { registers: $ir, name: $in, format: $if },)*],
            outputs: &[$(LeafOperand { registers: $or, name: $on, format: $of },)*],
            op_states: $ops,
            sept_states: $septs,
            interruption: Interruption::$interruption,
            locks: &[$(LeafLock { object: $lock, mode: LockMode::$mode },)*],
            associates: $associates,
            statuses: &[$(Status::$status,)*],
        },)*];
    };
}
use rows;
