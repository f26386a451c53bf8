//! Pages that begin to hold code, told to all engines of the process.
//!
//! Translated code writes to pages directly, which no code version counts. So the first engine that begins to watch a
//! page drops it from its own mirror, announces a new epoch, and waits until no other engine is in translated code
//! that it entered in an earlier one. Whoever enters translated code in a new epoch drops its mirror of writable
//! pages first, and does not get watched pages back. Only then is the page's code decoded: every later write counts.
//! Another engine that comes to the page meanwhile waits as well; later ones find it watched.
//!
//! The wait is short: translated code leaves for the run loop every few thousand instructions, and takes no lock that
//! is held here.

use super::fast::Fast;
use std::sync::atomic::{AtomicU64, Ordering::Release, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use x86_arch::RamPage;

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

/// Begins to watch a page whose code is about to be decoded, if nobody did. Returns when every engine respects it. The
/// caller is not in translated code.
pub(crate) fn begin<P: RamPage>(ram: &P, fast: Option<&mut Fast>) {
    let engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    if ram.is_watched() {
        return;
    }
    ram.watch_code();
    let epoch = EPOCH.fetch_add(1, SeqCst) + 1;
    if let (Some(fast), Some(host)) = (fast, ram.host()) {
        fast.watch(host.bytes.as_ptr() as u64);
        if fast.epoch == epoch - 1 {
            fast.epoch = epoch;
        }
    }
    for engine in engines.iter().filter_map(Weak::upgrade) {
        while engine.load(SeqCst) < epoch {
            std::thread::yield_now();
        }
    }
}
