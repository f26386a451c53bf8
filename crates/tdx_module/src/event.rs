//! What the module tells a listener: typed events, never text.

use crate::LpId;
use tdx_abi::{GuestLeaf, HostLeaf, Status};
use x86_arch::{ExitReason, Hpa};

/// Something happened in the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A SEAMCALL completed.
    Seamcall {
        lp: LpId,
        leaf: HostLeaf,
        status: Status,
    },
    /// A TDCALL completed inside a TD.
    Tdcall {
        lp: LpId,
        tdvpr: Hpa,
        leaf: GuestLeaf,
        status: Status,
    },
    /// A vCPU is about to run.
    TdEntry { lp: LpId, tdvpr: Hpa },
    /// A VM exit reached the module.
    VmExit {
        lp: LpId,
        tdvpr: Hpa,
        reason: ExitReason,
    },
    /// The module stopped for good.
    Shutdown { lp: LpId, why: &'static str },
}

/// Takes the module's events. Called on the thread of the processor that caused them.
pub trait EventSink: Send + Sync {
    fn event(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync> EventSink for F {
    fn event(&self, event: Event) {
        self(event)
    }
}
