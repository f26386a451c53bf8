//! The two error planes: what the caller did wrong, and what cannot be.

use crate::lock::Contended;
use tdx_abi::{OperandId, Status};

/// Why a leaf refuses: the caller's doing. Becomes RAX in one place, [`Refusal::status`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `TDX_OPERAND_INVALID`.
    Invalid(OperandId),
    /// `TDX_OPERAND_BUSY`, or its host-priority form for a guest.
    Busy(OperandId, Contended),
    /// `TDX_OPERAND_ADDR_RANGE_ERROR`: not in initialised TDMR memory.
    NotInTdmr(OperandId),
    /// `TDX_PAGE_METADATA_INCORRECT`: the page's use is not what the leaf needs.
    PageUse(OperandId),
    /// `TDX_SYS_BUSY`: the global lock is held.
    SysBusy,
    /// Any other status, with its details.
    Status(Status),
}

impl Refusal {
    pub const fn status(self) -> Status {
        match self {
            Refusal::Invalid(op) => Status::OPERAND_INVALID.with_operand(op),
            Refusal::Busy(op, Contended::Busy) => Status::OPERAND_BUSY.with_operand(op),
            Refusal::Busy(op, Contended::HostPriority) => {
                Status::OPERAND_BUSY_HOST_PRIORITY.with_operand(op)
            }
            Refusal::NotInTdmr(op) => Status::OPERAND_ADDR_RANGE_ERROR.with_operand(op),
            Refusal::PageUse(op) => Status::PAGE_METADATA_INCORRECT.with_operand(op),
            Refusal::SysBusy => Status::SYS_BUSY,
            Refusal::Status(status) => status,
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal::Status(status)
    }
}

/// An impossible state was met: the module stops for good (the real one executes UD2 in SEAM root mode).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken(pub &'static str);

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the TDX module stopped: {}", self.0)
    }
}

impl core::error::Error for Broken {}

/// Why a leaf did not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    Refused(Refusal),
    Broken(Broken),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}
impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Stop::Refused(Refusal::Status(status))
    }
}
impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Stop::Broken(broken)
    }
}

/// Names the operand of a lost lock.
pub trait BusyOn<T> {
    fn busy(self, operand: OperandId) -> Result<T, Refusal>;
}

impl<T> BusyOn<T> for Result<T, Contended> {
    fn busy(self, operand: OperandId) -> Result<T, Refusal> {
        self.map_err(|why| Refusal::Busy(operand, why))
    }
}

/// Where a call would go on into migration or L2 state, which this module does not have, it stops with this status
/// (`TDX_INCOMPATIBLE_SEAM_CAPABILITIES`; the real module returns it only while it is brought up).
pub const NOT_MODELLED: Status = Status::INCOMPATIBLE_SEAM_CAPABILITIES;
