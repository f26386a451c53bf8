//! What may be attached to a platform: somebody who keeps the shared memory, somebody who watches.

use coco_regs::{GprFile, XmmFile};
use tdx_module::PendingEvents;
use x86_arch::vmx::Vcpu;
use x86_arch::{Gpa, Hpa};

/// Memory under the host's keys (those that are not private), kept outside of the machine. The machine keeps what is
/// written under private keys; so what the host reads at a private page is what it wrote there before.
///
/// Addresses are inside RAM; an access may cross pages.
pub trait SharedMemory: Send + Sync {
    fn read(&self, from: Hpa, to: &mut [u8]);
    fn write(&self, to: Hpa, from: &[u8]);
}

/// Watches everything that crosses the edges of the module: calls of the host and entries of guests. The methods are
/// called on the thread of the processor `lp`.
pub trait Observer: Send + Sync {
    /// A SEAMCALL begins with these registers.
    fn called(&self, lp: u32, gprs: &GprFile, xmms: &XmmFile);
    /// It is over: with these registers, or the module stopped for good.
    fn returned(&self, lp: u32, registers: Option<(&GprFile, &XmmFile)>);
    /// Host software wrote memory.
    fn host_wrote(&self, to: Hpa, bytes: &[u8]);
    /// A vCPU is about to run.
    fn entering(&self, lp: u32, vcpu: &Vcpu);
    /// A vCPU has left with the exit in it; `memory` is what its second-level translation shows.
    fn exited(&self, lp: u32, vcpu: &Vcpu, memory: &dyn GuestView);
    /// The module asked which events wait for a processor.
    fn pending_events(&self, lp: u32, events: PendingEvents);
}

/// A guest's memory for an [`Observer`].
pub trait GuestView {
    /// Reads inside one 4 KiB page, and gives the host address; `None` where nothing may be read.
    fn read(&self, from: Gpa, to: &mut [u8]) -> Option<Hpa>;
}

/// What is attached to a platform; nothing by default.
#[derive(Default)]
pub struct Attachments {
    pub shared_memory: Option<Box<dyn SharedMemory>>,
    pub observer: Option<Box<dyn Observer>>,
}
