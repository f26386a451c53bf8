//! What the engine asks of the machine around it.

use x86_arch::{Access, EptFault, Gpa, Hpa, KeyedHpa, RamPage, SecondLevelMapping};

/// An access met poison or another key's integrity tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCheck(pub Hpa);

/// Host events that wait for this processor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PendingEvents {
    pub interrupt: bool,
    pub nmi: bool,
    pub smi: bool,
    pub init: bool,
}

impl PendingEvents {
    pub const fn any(self) -> bool {
        self.interrupt || self.nmi || self.smi || self.init
    }
}

/// The machine as one processor in VMX non-root mode meets it. All methods are slow paths: translations and
/// pages are cached until [`crate::Engine::invalidate`] drops them.
pub trait Platform {
    /// A page of RAM that may be cached and accessed directly.
    type Page: RamPage + 'static;

    /// Second-level translation of the 4 KiB page of `gpa`.
    fn translate(&mut self, gpa: Gpa, access: Access) -> Result<SecondLevelMapping, EptFault>;
    /// The page for direct access, or `None` when every access to it has to go through [`Platform::read`] and
    /// [`Platform::write`] (poison, a foreign key, no RAM).
    fn page(&mut self, page: KeyedHpa) -> Option<Self::Page>;
    /// Reads inside one 4 KiB page.
    fn read(&mut self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck>;
    /// Writes inside one 4 KiB page.
    fn write(&mut self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck>;
    /// The processor's time-stamp counter after `ticks` of this run's virtual time ([`crate::Ran::ticks`]).
    fn tsc(&mut self, ticks: u64) -> u64;
    /// RDRAND and RDSEED; `None` when the generator has nothing.
    fn random(&mut self) -> Option<u64>;
    /// Asked at run entry and every few thousand instructions.
    fn pending_events(&mut self) -> PendingEvents;
    /// Acknowledges the pending external interrupt and gives its vector.
    fn acknowledge_interrupt(&mut self) -> u8;
    /// Clears ON and takes the 256 request bits of the posted-interrupt descriptor at this host physical address
    /// (key-ID bits included).
    fn take_posted_interrupts(&mut self, descriptor: u64) -> [u64; 4];
    /// RDMSR of an MSR that does not exit and that the vCPU state does not hold; `None` raises #GP(0).
    fn read_msr(&mut self, msr: u32) -> Option<u64>;
    /// WRMSR likewise; false raises #GP(0).
    fn write_msr(&mut self, msr: u32, value: u64) -> bool;
}
