//! Deliberate bugs: tests switch one on and show that the checks find it. Other builds have none.

use crate::machine::Machine;
use crate::module::Module;

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// PAGE.ADD does not count the page as the TD's.
    ForgetsChild,
    /// PAGE.REMOVE frees the page but leaves the Secure-EPT entry.
    LeavesEntry,
    /// MNG.CREATE does not mark the key ID as assigned.
    ForgetsHkid,
    /// PAGE.REMOVE does not wait for TLB tracking.
    SkipsTracking,
    /// VP.FLUSH does not take the vCPU off the count of associated ones.
    ForgetsFlush,
    /// PAGE.ADD writes the page with the host's key ID instead of the TD's.
    WritesInTheClear,
    /// VP.ENTER keeps a processor's translations although the TD's epoch has moved on.
    KeepsTranslations,
    /// PAGE.AUG takes the page before it looks at its R8 operand, and keeps the entry when that is refused.
    ChangesBeforeRefusing,
}

impl<M: Machine> Module<M> {
    /// Whether this module has the bug.
    #[cfg(test)]
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
    #[cfg(not(test))]
    pub(crate) const fn has(&self, bug: Bug) -> bool {
        let _ = bug;
        false
    }
}
