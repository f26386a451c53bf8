//! What the module keeps for each logical processor (spec: vp-enter.md 0.3).

use crate::lock_order::Order;
use crate::machine::{HostEvent, PackageId};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;
use x86_arch::Hpa;

/// One processor's local data.
///
/// Aligned so that two processors never write one cache line.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct LpState {
    /// From dispatcher entry to SEAMRET, time inside a TD included.
    pub(crate) busy: AtomicBool,
    /// TDH.SYS.LP.INIT was done here.
    pub(crate) initialized: AtomicBool,
    /// Owned by the processor: only its own calls lock it, so a try never fails.
    pub(crate) local: Mutex<LpLocal>,
    /// The locks that the processor's call holds.
    pub(crate) order: Order,
}

impl LpState {
    pub fn is_initialized(&self) -> bool {
        self.initialized.load(Ordering::Acquire)
    }
}

/// The part that only the processor itself touches.
#[derive(Default, Debug)]
pub struct LpLocal {
    pub package: PackageId,
    /// TDVPR that ran last on this processor; `None` after LP.INIT and after VP.FLUSH.
    pub last_tdvpr: Option<Hpa>,
    /// Seed of the single-step defence.
    pub lfsr: u32,
    /// A bus lock was detected and not reported yet.
    pub bus_lock_preempted: bool,
    /// Single-step and zero-step defence: this processor's part.
    pub stepping: Stepping,
}

/// State of the stepping defences that belongs to the processor, not to the vCPU.
#[derive(Default, Debug)]
pub struct Stepping {
    /// Instructions that the vCPU runs before the held events are seen; `None` unless it is being held to that.
    pub steps_left: Option<u32>,
    /// Events that the host does not see yet.
    pub held: Vec<HostEvent>,
    pub last_entry_tsc: u64,
    pub guest_rip_on_tdentry: u64,
}
