//! The order in which one call takes the module's locks, and the debug check of it.
//!
//! Every lock tries and never waits, so a wrong order could not deadlock, but it would let two leaves refuse each other
//! for ever. [`Lock`] is the order: a call takes a lock only while it holds none of a later row, save what
//! [`OUT_OF_ORDER`] lists (spec: host-platform.md 5, and the order of checks of each leaf).
//!
//! A processor makes one call at a time, so what its call holds is counted in its [`Order`]. Release builds count and
//! check nothing.

use crate::lock::Contended;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
#[cfg(debug_assertions)]
use core::sync::atomic::{AtomicU16, Ordering};

/// The kinds of lock, first to last.
///
/// The vCPU's data and the processor's own data are no rows: nobody else can want them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lock {
    /// The global lock: TDH.SYS.*.
    Global,
    /// A TDMR's mutex: SYS.TDMR.INIT.
    Tdmr,
    /// Cache write-back of a package: PHYMEM.CACHE.WB.
    WriteBack,
    /// PAMT path (1G, 2M, 4K) of the page that the call is about: TDR, TDVPR, or any page for PHYMEM.*.
    ControlPage,
    /// PAMT entry of the TDR that owns that page: VP.*, PHYMEM.PAGE.RECLAIM.
    ImplicitTdr,
    /// OP_STATE: leaves on a TD that hold its TDR shared.
    OpState,
    /// Key-ownership table: MNG.*, PHYMEM.CACHE.WB, SYS.CONFIG.
    Kot,
    /// Migration context: MIG.STREAM.CREATE, EXPORT.STATE.IMMUTABLE.
    Migration,
    /// TD epoch: MEM.TRACK, VP.ENTER.
    Epoch,
    /// Service TD bindings.
    ServtdBindings,
    /// RTMRs.
    Rtmr,
    /// Secure-EPT tree: MEM.*, and VP.ENTER to look up repeated faults.
    SeptTree,
    /// Secure-EPT entry: MEM.*, TDG.MEM.PAGE.*.
    SeptEntry,
    /// PAMT of a page that the call adds, changes or removes.
    Page,
}

/// What is taken although a later row is held: the lock, what may be held, and why.
pub const OUT_OF_ORDER: &[(Lock, Lock, &str)] = &[
    (
        Lock::Kot,
        Lock::Page,
        "MNG.CREATE: the TDR is still a free page when it is locked, before the table",
    ),
    (
        Lock::ControlPage,
        Lock::OpState,
        "SERVTD.BIND: TDR and OP_STATE of the target, then of the service TD; all four shared",
    ),
    (
        Lock::SeptEntry,
        Lock::Page,
        "MEM.PAGE.PROMOTE: the 512 entries of a table, whose page and parent entry are held already",
    ),
    (
        Lock::ServtdBindings,
        Lock::Rtmr,
        "TDG.MR.REPORT reads its TD's bindings under RTMR; SERVTD.BIND takes the RTMR of the other TD, shared",
    ),
];

/// What the call in progress on a processor holds.
#[derive(Default, Debug)]
pub struct Order {
    #[cfg(debug_assertions)]
    held: [AtomicU16; Lock::Page as usize + 1],
}

impl Order {
    /// Counts a lock that was tried, for as long as it is held.
    ///
    /// # Panics
    ///
    /// In debug builds, whether or not the try succeeded, if the call holds a lock of a later row.
    #[inline]
    pub fn hold<T>(
        &self,
        lock: Lock,
        tried: Result<T, Contended>,
    ) -> Result<Held<'_, T>, Contended> {
        #[cfg(debug_assertions)]
        self.check(lock);
        tried.map(|guard| Held {
            guard,
            _turn: Turn::new(self, lock),
        })
    }

    #[cfg(debug_assertions)]
    fn check(&self, lock: Lock) {
        let listed = |held: usize| {
            OUT_OF_ORDER
                .iter()
                .any(|(taken, later, _)| *taken == lock && *later as usize == held)
        };
        for held in lock as usize + 1..self.held.len() {
            let count = self.held[held].load(Ordering::Relaxed);
            debug_assert!(
                count == 0 || listed(held),
                "{lock:?} is taken while a lock of row {held} is held"
            );
        }
    }
}

/// A guard that its call's [`Order`] counts.
pub struct Held<'o, T> {
    guard: T,
    _turn: Turn<'o>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// One held lock in the count; nothing in release builds.
struct Turn<'o> {
    #[cfg(debug_assertions)]
    count: &'o AtomicU16,
    order: PhantomData<&'o Order>,
}

impl<'o> Turn<'o> {
    #[cfg(debug_assertions)]
    fn new(order: &'o Order, lock: Lock) -> Turn<'o> {
        let count = &order.held[lock as usize];
        count.fetch_add(1, Ordering::Relaxed);
        Turn {
            count,
            order: PhantomData,
        }
    }
    #[cfg(not(debug_assertions))]
    fn new(_: &'o Order, _: Lock) -> Turn<'o> {
        Turn { order: PhantomData }
    }
}

#[cfg(debug_assertions)]
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::testing::World;
    use tdx_abi::HostLeaf;
    use x86_arch::Gpr;

    fn take(order: &Order, lock: Lock) -> Held<'_, ()> {
        order.hold(lock, Ok(())).unwrap()
    }

    #[test]
    fn locks_are_taken_in_order_and_skipped_and_given_back() {
        let order = Order::default();
        let _tdr = take(&order, Lock::ControlPage);
        drop(take(&order, Lock::SeptTree));
        let _op_state = take(&order, Lock::OpState);
        let _tree = take(&order, Lock::SeptTree);
        let _again = take(&order, Lock::SeptTree);
    }

    #[test]
    #[should_panic(expected = "OpState is taken while")]
    fn a_wrong_order_is_caught() {
        let order = Order::default();
        let _tree = take(&order, Lock::SeptTree);
        let _op_state = take(&order, Lock::OpState);
    }

    #[test]
    #[should_panic(expected = "OpState is taken while")]
    fn a_wrong_order_is_caught_although_the_lock_is_busy() {
        let order = Order::default();
        let _tree = take(&order, Lock::SeptTree);
        let _ = order.hold::<()>(Lock::OpState, Err(Contended::Busy));
    }

    #[test]
    #[should_panic(expected = "ControlPage is taken while")]
    fn a_leaf_that_comes_too_late_is_caught() {
        let mut world = World::ready(1);
        let td = world.td(33);
        let _page = take(&world.module.lps[0].order, Lock::Page);
        world.call(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
    }

    #[test]
    fn each_exception_is_one_and_is_allowed_alone() {
        for (taken, held, _) in OUT_OF_ORDER {
            assert!(taken < held);
            let order = Order::default();
            let _held = take(&order, *held);
            let _taken = take(&order, *taken);
        }
    }
}
