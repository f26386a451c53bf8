//! The module's locks: they try, they never wait, and a guard gives them back.
//!
//! Four kinds, after the module's own ([`Mutex`], [`ShareEx`], [`HpLock`] and the Secure-EPT entry lock, which lives in
//! the entry's bits: [`crate::sept::EntryGuard`]). A failed try becomes `TDX_OPERAND_BUSY` with the operand that the
//! leaf names (spec: host-platform.md 5).
//! The order in which a call takes them is [`crate::lock_order`].

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use spin::{Mutex, MutexGuard};

/// A point where another processor may come in between: tests that explore interleavings switch here.
#[inline(always)]
pub(crate) fn interleave() {
    #[cfg(test)]
    crate::testing::explore::switch();
}

/// Shared hold of a lock's data.
pub type Shared<'a, T> = RwLockReadGuard<'a, T>;
/// Exclusive hold of a lock's data.
pub type Exclusive<'a, T> = RwLockWriteGuard<'a, T>;

/// Somebody else holds the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contended {
    /// `TDX_OPERAND_BUSY`.
    Busy,
    /// The host asked first: `TDX_OPERAND_BUSY_HOST_PRIORITY`, for guest-side calls only.
    HostPriority,
}

/// Who asks for a lock that honours host priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Host,
    Guest,
}

/// A sharex lock: many readers or one writer.
#[derive(Default, Debug)]
pub struct ShareEx<T> {
    lock: RwLock<T>,
}

impl<T> ShareEx<T> {
    pub const fn new(value: T) -> Self {
        Self {
            lock: RwLock::new(value),
        }
    }
    pub fn shared(&self) -> Result<Shared<'_, T>, Contended> {
        interleave();
        self.lock.try_read().ok_or(Contended::Busy)
    }
    pub fn exclusive(&self) -> Result<Exclusive<'_, T>, Contended> {
        interleave();
        self.lock.try_write().ok_or(Contended::Busy)
    }
    /// The data, when the holder of the whole structure makes locking needless.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }
}

/// A sharex lock with host priority: after the host lost it once, guests are refused until the host had its turn.
#[derive(Default, Debug)]
pub struct HpLock<T> {
    lock: RwLock<T>,
    host_waits: AtomicBool,
}

impl<T> HpLock<T> {
    pub const fn new(value: T) -> Self {
        Self {
            lock: RwLock::new(value),
            host_waits: AtomicBool::new(false),
        }
    }
    pub fn shared(&self, side: Side) -> Result<Shared<'_, T>, Contended> {
        self.admit(side)?;
        self.settle(side, self.lock.try_read())
    }
    pub fn exclusive(&self, side: Side) -> Result<Exclusive<'_, T>, Contended> {
        self.admit(side)?;
        self.settle(side, self.lock.try_write())
    }
    /// The data, when the holder of the whole structure makes locking needless.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }
    /// Whether a host-side call lost this lock and has not got it since.
    pub fn host_waits(&self) -> bool {
        self.host_waits.load(Ordering::Acquire)
    }
    /// The data, if nobody writes it now, whoever waits: for consistency checks.
    pub fn peek(&self) -> Option<Shared<'_, T>> {
        self.lock.try_read()
    }
    /// Whether anybody holds the lock: for consistency checks.
    pub fn is_held(&self) -> bool {
        self.lock.reader_count() + self.lock.writer_count() != 0
    }

    fn admit(&self, side: Side) -> Result<(), Contended> {
        interleave();
        match side {
            Side::Guest if self.host_waits() => Err(Contended::HostPriority),
            _ => Ok(()),
        }
    }
    fn settle<G>(&self, side: Side, got: Option<G>) -> Result<G, Contended> {
        if side == Side::Host {
            // Only the host's own tries move the flag (spec: host-platform.md 5).
            self.host_waits.store(got.is_none(), Ordering::Release);
        }
        got.ok_or(Contended::Busy)
    }
}

/// A hold of either kind, for leaves that only read what a caller may have locked exclusively.
pub enum Hold<'a, T> {
    Shared(Shared<'a, T>),
    Exclusive(Exclusive<'a, T>),
}

impl<T> Deref for Hold<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Hold::Shared(guard) => guard,
            Hold::Exclusive(guard) => guard,
        }
    }
}

impl<T> Hold<'_, T> {
    /// The data for writing, if the hold is exclusive.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Hold::Shared(_) => None,
            Hold::Exclusive(guard) => Some(guard.deref_mut()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_host_try_keeps_guests_out_until_the_host_had_its_turn() {
        let lock = HpLock::new(0);
        let held = lock.shared(Side::Guest).unwrap();
        assert_eq!(lock.exclusive(Side::Host).err(), Some(Contended::Busy));
        drop(held);
        assert_eq!(
            lock.shared(Side::Guest).err(),
            Some(Contended::HostPriority)
        );
        drop(lock.shared(Side::Host).unwrap());
        assert!(lock.exclusive(Side::Guest).is_ok());
    }

    #[test]
    fn a_lost_guest_try_leaves_no_trace() {
        let lock = HpLock::new(0);
        let held = lock.exclusive(Side::Host).unwrap();
        assert_eq!(lock.shared(Side::Guest).err(), Some(Contended::Busy));
        drop(held);
        assert!(lock.shared(Side::Guest).is_ok());
    }
}
