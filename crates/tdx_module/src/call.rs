//! One SEAMCALL on its way: the registers, the processor, and the right to change things.

use crate::lock::Contended;
use crate::lock_order::{Held, Lock};
use crate::lp::LpState;
use crate::machine::{LpId, Machine};
use crate::module::Module;
use crate::refusal::Stop;
use coco_regs::{GprFile, XmmFile};
use tdx_abi::{LeafWord, Status};
use x86_arch::Gpr;

/// A SEAMCALL that a leaf works on. `'m` is the life of the module, so guards taken through
/// [`Call::module`] do not borrow the call.
pub struct Call<'m, M: Machine> {
    pub module: &'m Module<M>,
    pub lp: LpId,
    /// The state of the calling processor; nobody else touches it during the call.
    pub lp_state: &'m LpState,
    /// The VMM's registers, inputs and outputs. Only outputs of the leaf may be written; RAX is written by the
    /// dispatcher from what the leaf returns.
    pub gprs: &'m mut GprFile,
    /// The VMM's XMM registers: only TDH.VP.ENTER uses them.
    pub xmms: &'m mut XmmFile,
    pub leaf: LeafWord,
}

impl<'m, M: Machine> Call<'m, M> {
    /// An input register.
    pub fn get(&self, reg: Gpr) -> u64 {
        self.gprs[reg]
    }
    /// An output register.
    pub fn set(&mut self, reg: Gpr, value: u64) {
        self.gprs[reg] = value;
    }
    /// Default values of output registers, written before any check.
    pub fn defaults<const N: usize>(&mut self, regs: [Gpr; N], value: u64) {
        for reg in regs {
            self.gprs[reg] = value;
        }
    }
    pub fn machine(&self) -> &'m M {
        &self.module.machine
    }
    pub const fn version(&self) -> u8 {
        self.leaf.version()
    }
    /// Counts a lock that was tried: every lock that a leaf takes goes through here ([`crate::lock_order`]).
    #[inline]
    pub fn hold<T>(
        &self,
        lock: Lock,
        tried: Result<T, Contended>,
    ) -> Result<Held<'m, T>, Contended> {
        self.lp_state.order.hold(lock, tried)
    }
    /// The end of the checks: the right to change things, and the promise not to refuse any more.
    pub fn commit(&self) -> Commit {
        Commit::new()
    }
    /// The right to make one of the changes that the specification lets stay although the call is refused later.
    pub fn sticky(&self) -> Sticky {
        Sticky(())
    }
    /// Whether a host event is pending that stops an interruptible leaf (spec: host-platform.md 7.1).
    pub fn interrupted(&self) -> bool {
        let pending = self.machine().pending_events(self.lp);
        pending.nmi
            || pending.smi
            || (pending.interrupt && self.machine().host_interrupts_enabled(self.lp))
    }
}

/// What a leaf returns: the right to go on, used up.
pub type LeafResult = Result<Done, Stop>;

/// A leaf did its work; the status becomes RAX.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    pub(crate) status: Status,
}

mod sealed {
    pub trait Sealed {}
}

/// A right to change module state: [`Commit`], or [`Sticky`] for the few changes that survive a refusal.
pub trait Right: sealed::Sealed {}

/// The right to change state. It ends in [`Commit::done`]; dropping it on the way, as `?` would, is a bug
/// that debug builds stop at.
#[must_use]
#[derive(Debug)]
pub struct Commit(());

impl Commit {
    /// For what is not a SEAMCALL leaf: guest-side leaves and TD exits.
    pub(crate) fn new() -> Commit {
        Commit(())
    }
    /// The leaf succeeded.
    pub fn done(self) -> Done {
        self.done_with(Status::SUCCESS)
    }
    /// The leaf did what it could, and says more than success (an exit reason, `INTERRUPTED_RESUMABLE`).
    pub fn done_with(self, status: Status) -> Done {
        core::mem::forget(self);
        Done { status }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        // A test that fails inside a guest unwinds through here.
        #[cfg(any(test, feature = "testing"))]
        if std::thread::panicking() {
            return;
        }
        debug_assert!(false, "a leaf refused after its commit");
    }
}

/// The right to make one sticky change.
#[derive(Debug)]
pub struct Sticky(());

impl Sticky {
    /// For changes that happen outside a SEAMCALL leaf.
    pub(crate) fn new() -> Sticky {
        Sticky(())
    }
}

impl sealed::Sealed for Commit {}
impl sealed::Sealed for Sticky {}
impl Right for Commit {}
impl Right for Sticky {}
