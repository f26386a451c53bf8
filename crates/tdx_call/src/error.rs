//! Why a call did not do what was asked.

use core::fmt;

use tdx_abi::{GuestLeaf, HostLeaf, LeafWord, OperandId, SeptEntry, SeptEntryInfo, Status};

use crate::{NoSeam, ShownEntry, TdxModuleArgs};

/// A call that failed: it reached no module, or the module answered with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// The instruction reached no module.
    NoSeam { leaf: Leaf, why: NoSeam },
    /// The module answered with bit 63 set.
    Refused(Refused),
}

/// The side of the module that was called; it gives a leaf number its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    Host(HostLeaf),
    Guest(GuestLeaf),
}

/// An error status, the leaf that answered it, and the words some leaves return beside an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub leaf: Leaf,
    pub status: Status,
    /// RCX, RDX, R8, R9 and R10 as the module left them: the Secure EPT entry where a walk stopped (RCX, RDX),
    /// the CPUID leaf that a check disliked (RCX), a field id (RCX). The inputs where the leaf returns nothing.
    pub words: [u64; 5],
}

impl CallError {
    /// RAX, with software's own error words for a call that reached no module.
    pub const fn status(&self) -> Status {
        match self {
            CallError::NoSeam { why, .. } => why.status(),
            CallError::Refused(refused) => refused.status,
        }
    }
    /// Whether the module answered this status, whatever its details of level 2.
    pub const fn is(&self, status: Status) -> bool {
        match self {
            CallError::NoSeam { .. } => false,
            CallError::Refused(refused) => refused.status.code().0 == status.code().0,
        }
    }
    /// The answer of the module, if there was one.
    pub const fn refused(&self) -> Option<&Refused> {
        match self {
            CallError::NoSeam { .. } => None,
            CallError::Refused(refused) => Some(refused),
        }
    }
}

impl Refused {
    /// The operand named in the details of level 2, where its number is one.
    pub fn operand(&self) -> Option<OperandId> {
        let operand = OperandId(self.status.details());
        operand.name().is_some().then_some(operand)
    }
}

impl Refused {
    /// The Secure EPT entry where a walk or a check stopped, as the TDH.MEM leaves return it beside an error.
    pub const fn sept_entry(&self) -> ShownEntry {
        ShownEntry {
            entry: SeptEntry(self.words[0]),
            info: SeptEntryInfo(self.words[1]),
        }
    }
}

/// Sorts a status: no error is `Ok` with the status, which may still carry information
/// (for instance `KEY_CONFIGURED`); an error keeps the output words.
pub(crate) fn sort(
    leaf: Leaf,
    answer: Result<Status, NoSeam>,
    args: &TdxModuleArgs,
) -> Result<Status, CallError> {
    let status = answer.map_err(|why| CallError::NoSeam { leaf, why })?;
    if !status.is_error() {
        return Ok(status);
    }
    Err(CallError::Refused(Refused {
        leaf,
        status,
        words: [args.rcx, args.rdx, args.r8, args.r9, args.r10],
    }))
}

impl Leaf {
    pub const fn host(word: LeafWord) -> Leaf {
        Leaf::Host(HostLeaf(word.number()))
    }
    pub const fn guest(word: LeafWord) -> Leaf {
        Leaf::Guest(GuestLeaf(word.number()))
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leaf::Host(leaf) => leaf.fmt(f),
            Leaf::Guest(leaf) => leaf.fmt(f),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NoSeam { leaf, why } => write!(f, "{leaf}: {why}"),
            CallError::Refused(refused) => write!(f, "{}: {}", refused.leaf, refused.status),
        }
    }
}

impl core::error::Error for CallError {}
