//! What may be attached to a platform: somebody who keeps the shared memory, somebody who watches.

use std::sync::Arc;

use coco_regs::{GprFile, XmmFile};
use tdx_module::PendingEvents;
use x86_arch::vmx::Vcpu;
use x86_arch::{Hpa, KeyedHpa};

/// Memory under the host's keys (those that are not private), kept outside of the machine. The machine keeps what is
/// written under private keys; so what the host reads at a private page is what it wrote there before.
///
/// Addresses are inside RAM; an access may cross pages.
pub trait SharedMemory: Send + Sync {
    fn read(&self, from: Hpa, to: &mut [u8]);
    fn write(&self, to: Hpa, from: &[u8]);
}

/// Watches everything that crosses the edges of the module: calls of the host, entries of guests, and what the module
/// reads. The methods are called on the thread of the processor `lp`.
pub trait Observer: Send + Sync {
    /// A SEAMCALL begins with these registers, at this time.
    fn called(&self, lp: u32, gprs: &GprFile, xmms: &XmmFile, tsc: u64);
    /// It is over: with these registers, or the module stopped for good.
    fn returned(&self, lp: u32, registers: Option<(&GprFile, &XmmFile)>);
    /// The module read memory.
    fn module_read(&self, from: KeyedHpa, bytes: &[u8]);
    /// The module asked which events wait for a processor.
    fn pending_events(&self, lp: u32, events: PendingEvents);
    /// A vCPU is about to run.
    fn entering(&self, lp: u32, vcpu: &Vcpu);
    /// A vCPU has left with the exit in it.
    fn exited(&self, lp: u32, vcpu: &Vcpu);
}

impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn called(&self, lp: u32, gprs: &GprFile, xmms: &XmmFile, tsc: u64) {
        (**self).called(lp, gprs, xmms, tsc);
    }
    fn returned(&self, lp: u32, registers: Option<(&GprFile, &XmmFile)>) {
        (**self).returned(lp, registers);
    }
    fn module_read(&self, from: KeyedHpa, bytes: &[u8]) {
        (**self).module_read(from, bytes);
    }
    fn pending_events(&self, lp: u32, events: PendingEvents) {
        (**self).pending_events(lp, events);
    }
    fn entering(&self, lp: u32, vcpu: &Vcpu) {
        (**self).entering(lp, vcpu);
    }
    fn exited(&self, lp: u32, vcpu: &Vcpu) {
        (**self).exited(lp, vcpu);
    }
}

/// What is attached to a platform; nothing by default.
#[derive(Default)]
pub struct Attachments {
    pub shared_memory: Option<Box<dyn SharedMemory>>,
    pub observer: Option<Box<dyn Observer>>,
}
