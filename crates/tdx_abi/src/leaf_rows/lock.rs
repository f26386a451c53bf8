//! The locks of the leaves by kind: what each is called, and how a leaf answers when it finds one held.

use core::fmt;

use super::{LeafLock, LeafRow, LockMode};
use crate::{OperandId, Status};

/// What a lock protects. Its name is that of the operand which OPERAND_BUSY names, where there is one
/// (spec: host-platform.md 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// The module's global lock; held, it answers SYS_BUSY.
    Sys,
    Tdmr,
    Wbcache,
    /// PAMT entry of a TDR.
    Tdr,
    /// PAMT entry of any other page.
    Page,
    OpState,
    Kot,
    Mig,
    Migsc,
    TdEpoch,
    ServtdBindings,
    Rtmr,
    SeptTree,
    SeptEntry,
}

impl LockKind {
    pub const ALL: [LockKind; 14] = [
        LockKind::Sys,
        LockKind::Tdmr,
        LockKind::Wbcache,
        LockKind::Tdr,
        LockKind::Page,
        LockKind::OpState,
        LockKind::Kot,
        LockKind::Mig,
        LockKind::Migsc,
        LockKind::TdEpoch,
        LockKind::ServtdBindings,
        LockKind::Rtmr,
        LockKind::SeptTree,
        LockKind::SeptEntry,
    ];

    /// The operand of that name.
    pub const fn operand(self) -> OperandId {
        match self {
            LockKind::Sys => OperandId::SYS,
            LockKind::Tdmr => OperandId::TDMR,
            LockKind::Wbcache => OperandId::WBCACHE,
            LockKind::Tdr => OperandId::TDR,
            LockKind::Page => OperandId::PAGE,
            LockKind::OpState => OperandId::OP_STATE,
            LockKind::Kot => OperandId::KOT,
            LockKind::Mig => OperandId::MIG,
            LockKind::Migsc => OperandId::MIGSC,
            LockKind::TdEpoch => OperandId::TD_EPOCH,
            LockKind::ServtdBindings => OperandId::SERVTD_BINDINGS,
            LockKind::Rtmr => OperandId::RTMR,
            LockKind::SeptTree => OperandId::SEPT_TREE,
            LockKind::SeptEntry => OperandId::SEPT_ENTRY,
        }
    }
    /// Reads a name such as `SEPT_TREE`, in either case.
    pub fn parse(name: &str) -> Option<LockKind> {
        let is = |kind: &LockKind| {
            let own = kind.operand().name();
            own.is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        LockKind::ALL.into_iter().find(is)
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operand().fmt(f)
    }
}

impl LeafLock {
    /// What it protects.
    pub fn kind(&self) -> LockKind {
        match self.object {
            name if name.starts_with("module global") => LockKind::Sys,
            name if name.starts_with("TDMR") => LockKind::Tdmr,
            name if name.starts_with("cache write-back") => LockKind::Wbcache,
            name if name.starts_with("TDR") || name.starts_with("target TDR") => LockKind::Tdr,
            name if name.starts_with("OP_STATE") => LockKind::OpState,
            name if name.starts_with("KOT") => LockKind::Kot,
            name if name.starts_with("migration lock") => LockKind::Mig,
            name if name.starts_with("migration stream") => LockKind::Migsc,
            name if name.starts_with("TD epoch") => LockKind::TdEpoch,
            name if name.starts_with("service TD") => LockKind::ServtdBindings,
            name if name.starts_with("RTMR") => LockKind::Rtmr,
            name if name.starts_with("Secure EPT tree") => LockKind::SeptTree,
            name if name.starts_with("Secure EPT entry") => LockKind::SeptEntry,
            _ => LockKind::Page,
        }
    }

    /// What the leaf answers when somebody else holds it: a page that a register names is known by the register,
    /// a Secure EPT entry and its page by RCX, which holds the GPA.
    pub fn busy(&self) -> Status {
        let register = ["(RCX)", "(RDX)", "(R8"].into_iter().zip([
            OperandId::RCX,
            OperandId::RDX,
            OperandId::R8,
        ]);
        let named = register
            .into_iter()
            .find_map(|(text, operand)| self.object.contains(text).then_some(operand));
        let operand = match self.kind() {
            LockKind::Sys => return Status::SYS_BUSY,
            LockKind::SeptEntry => OperandId::RCX,
            LockKind::Page | LockKind::Tdmr => named.unwrap_or(OperandId::RCX),
            LockKind::Tdr => named.unwrap_or(OperandId::TDR),
            other => other.operand(),
        };
        Status::OPERAND_BUSY.with_operand(operand)
    }
}

impl LeafRow {
    /// The locks that the leaf takes itself.
    pub fn taken_locks(&self) -> impl Iterator<Item = &'static LeafLock> + use<> {
        let taken = |lock: &&LeafLock| lock.mode != LockMode::Implied;
        self.locks.iter().filter(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostLeaf;

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in LockKind::ALL {
            let name = kind.operand().name().expect("a named operand");
            assert_eq!(LockKind::parse(name), Some(kind));
        }
        assert_eq!(LockKind::parse("sept_tree"), Some(LockKind::SeptTree));
        assert_eq!(LockKind::parse("RCX"), None);
    }

    #[test]
    fn a_held_lock_is_answered_with_the_operand_that_names_it() {
        let answers = |leaf: HostLeaf| -> [Option<Status>; 6] {
            let mut locks = leaf.row().expect("a row").taken_locks();
            core::array::from_fn(|_| locks.next().map(LeafLock::busy))
        };
        let busy = |operand| Some(Status::OPERAND_BUSY.with_operand(operand));
        let remove = answers(HostLeaf::MEM_PAGE_REMOVE);
        let operands = [
            OperandId::RDX,
            OperandId::OP_STATE,
            OperandId::SEPT_TREE,
            OperandId::RCX,
            OperandId::RCX,
        ];
        assert_eq!(remove[..5], operands.map(busy));
        assert_eq!(answers(HostLeaf::SYS_INIT)[0], Some(Status::SYS_BUSY));
        let flush = answers(HostLeaf::VP_FLUSH);
        assert_eq!(flush[..2], [OperandId::RCX, OperandId::TDR].map(busy));
    }

    #[test]
    fn every_lock_of_every_leaf_has_a_kind_of_its_own_name() {
        let pages = (0..128)
            .filter_map(|number| HostLeaf(number).row())
            .flat_map(LeafRow::taken_locks)
            .filter(|lock| lock.kind() == LockKind::Page);
        for lock in pages {
            let named = ["page (", "PAMT entry of the"];
            assert!(
                named.iter().any(|name| lock.object.starts_with(name)),
                "{}",
                lock.object
            );
        }
    }
}
