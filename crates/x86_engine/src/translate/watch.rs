//! Pages that begin to hold code, told to all engines of the process.
//!
//! Translated code writes to pages directly, which no code version counts. So an engine that begins to watch a
//! page drops it from its own mirror, announces a new epoch, and waits until no other engine is in translated code
//! that it entered in an earlier one. Whoever enters translated code in a new epoch drops its mirror of writable
//! pages first, and does not get watched pages back. Only then is the page's code decoded: every later write counts.
//!
//! The wait is short: translated code leaves for the run loop every few thousand instructions, and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering::Release, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};

static EPOCH: AtomicU64 = AtomicU64::new(0);
/// The epoch in which each engine entered translated code; [`OUTSIDE`] while it is not there.
static ENGINES: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());

const OUTSIDE: u64 = u64::MAX;

/// One engine's part.
pub(super) struct Watcher {
    inside: Arc<AtomicU64>,
}

impl Watcher {
    pub(super) fn new() -> Watcher {
        let inside = Arc::new(AtomicU64::new(OUTSIDE));
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(Arc::downgrade(&inside));
        Watcher { inside }
    }

    /// Before translated code; `seen` is the epoch that the engine's mirror respects. True when other engines
    /// began to watch pages since then.
    #[inline]
    pub(super) fn enter(&mut self, seen: &mut u64) -> bool {
        loop {
            let epoch = EPOCH.load(SeqCst);
            self.inside.store(epoch, SeqCst);
            if EPOCH.load(SeqCst) == epoch {
                return std::mem::replace(seen, epoch) != epoch;
            }
        }
    }

    /// After translated code.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.inside.store(OUTSIDE, Release);
    }
}

/// A page is watched now that the caller's mirror respects. Returns when every engine does. The caller is not in
/// translated code.
pub(crate) fn announce(seen: &mut u64) {
    let epoch = EPOCH.fetch_add(1, SeqCst) + 1;
    if *seen == epoch - 1 {
        *seen = epoch;
    }
    let engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    let engines: Vec<Arc<AtomicU64>> = engines.iter().filter_map(Weak::upgrade).collect();
    for engine in engines {
        while engine.load(SeqCst) < epoch {
            std::thread::yield_now();
        }
    }
}
