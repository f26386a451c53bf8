//! What the module needs of hardware, in its own words.

use alloc::vec::Vec;
use core::ops::Range;
use x86_arch::vmx::Vcpu;
use x86_arch::{Gpa, Hkid, Hpa, KeyedHpa, SecondLevel};

/// Index of a logical processor, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LpId(pub u32);

/// Index of a package, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PackageId(pub u32);

/// What the firmware (MCHECK) tells the module about the platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlatformInfo {
    pub lps: u32,
    pub packages: u32,
    /// Convertible memory ranges, ascending.
    pub cmrs: Vec<Range<u64>>,
    /// The range that the module itself owns.
    pub seamrr: Range<u64>,
    /// How many sub-blocks a whole-cache write-back is made of.
    pub cache_wb_sub_blocks: u32,
}

/// The four registers of a CPUID answer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuidValue {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Events pending on a processor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PendingEvents {
    pub interrupt: bool,
    pub nmi: bool,
    pub smi: bool,
}

/// An access met poison or another key's integrity tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCheck(pub Hpa);

/// PCONFIG could not program a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// The key generator had no entropy (PCONFIG error 2).
    Entropy,
    /// Another processor holds the key table (PCONFIG error 5).
    DeviceBusy,
    /// Any other PCONFIG error code.
    Other(u32),
}

/// An event for a processor's host software.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostEvent {
    Interrupt(u8),
    Nmi,
    Init,
}

/// A translation in a processor's caches, for the audit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedTranslation {
    pub vpid: u16,
    /// The guest physical page; `None` where only a linear address leads to the entry.
    pub gpa: Option<Gpa>,
    pub page: KeyedHpa,
}

/// The hardware under the module. All methods act on the processor they name; memory is shared by all.
pub trait Machine: Send + Sync {
    fn platform(&self) -> PlatformInfo;
    fn package(&self, lp: LpId) -> PackageId;

    /// Reads with a key. Reads outside memory give all ones.
    fn read(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck>;
    /// Writes with a key, through the cache. Writes outside memory vanish.
    fn write(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck>;
    /// As `write`, of what software outside asked for, to memory that it named: nobody's secret.
    fn write_outside(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.write(to, from)
    }
    /// Full-line direct stores (MOVDIR64B) of whole 64-byte lines: never reads, heals poison.
    fn write_direct(&self, to: KeyedHpa, from: &[u8]);
    /// Fills a 4 KiB page with zeros by `write_direct`.
    fn clear_page(&self, page: KeyedHpa) {
        self.write_direct(page, &[0; 4096]);
    }
    /// Copies a 4 KiB page: what `read` gives, by `write_direct`.
    fn copy_page(&self, from: KeyedHpa, to: KeyedHpa) -> Result<(), MachineCheck> {
        let mut bytes = [0; 4096];
        self.read(from, &mut bytes)?;
        self.write_direct(to, &bytes);
        Ok(())
    }
    /// Writes back and invalidates one page's lines of one key (CLFLUSH loop).
    fn flush_page(&self, page: KeyedHpa);
    /// Writes back and invalidates sub-block `index` of this package's caches.
    fn write_back_sub_block(&self, lp: LpId, index: u32);
    /// Programs a fresh random key for `hkid` in the caller's package (PCONFIG).
    fn program_random_key(&self, lp: LpId, hkid: Hkid) -> Result<(), KeyError>;

    fn cpuid(&self, lp: LpId, leaf: u32, subleaf: u32) -> CpuidValue;
    /// EBX of CPUID(0xD, `subleaf`) while XCR0 and IA32_XSS hold these values: bytes of the XSAVE area.
    ///
    /// By default it follows from the component sizes; a machine whose CPUID does not depend on XCR0 says so itself.
    fn xsave_size(&self, lp: LpId, subleaf: u32, xcr0: u64, xss: u64) -> u32 {
        xsave_size(|n| self.cpuid(lp, 0xD, n), subleaf, xcr0, xss)
    }
    fn read_msr(&self, lp: LpId, msr: u32) -> u64;
    fn write_msr(&self, lp: LpId, msr: u32, value: u64);
    fn tsc(&self, lp: LpId) -> u64;
    /// RDRAND or RDSEED; `None` when the generator has nothing.
    fn random(&self, lp: LpId) -> Option<u64>;
    fn pending_events(&self, lp: LpId) -> PendingEvents;
    /// RFLAGS.IF of the host software that made the SEAMCALL: whether a pending interrupt stops an interruptible leaf.
    fn host_interrupts_enabled(&self, lp: LpId) -> bool {
        let _ = lp;
        false
    }
    /// Makes an event pending again that an exit had taken: the next VM entry ends with it before the vCPU moves, or
    /// the host software takes it. Only [`Module::with_single_step_defence`](crate::Module) makes it happen.
    fn post(&self, lp: LpId, event: HostEvent) {
        let _ = (lp, event);
    }
    /// The machine's secret under every TDREPORT. A machine that has none of its own shares this public one.
    fn report_key(&self) -> [u8; 32] {
        *b"swtdx: no secret, reports tell it"
            .first_chunk()
            .unwrap_or(&[0; 32])
    }
    /// Drops this processor's cached translations of these VPIDs, second level included.
    fn invalidate_translations(&self, lp: LpId, vpids: &[u16]);

    /// The translations that a processor's caches hold: the audit asks while nothing runs there.
    /// A machine that caches none has none to tell.
    fn cached_translations(&self, lp: LpId) -> Vec<CachedTranslation> {
        let _ = lp;
        Vec::new()
    }
    /// The first page in a range of physical addresses where something that this module wrote, and nobody else since,
    /// can be read with a shared key: for the audit. A machine without keys has no such page.
    fn exposed(&self, range: Range<u64>) -> Option<Hpa> {
        let _ = range;
        None
    }

    /// Whether the CPU has SEAMVERIFYREPORT (SEAMOPS capability bit 6): local attestation.
    fn has_verify_report(&self) -> bool {
        true
    }

    /// VM entry: runs `vcpu` until its next VM exit, which `vcpu.exit` then describes.
    fn run(&self, lp: LpId, vcpu: &mut Vcpu, second_level: &dyn SecondLevel);
}

/// Bytes of the XSAVE area, standard for `subleaf` 0 and compacted for 1, from CPUID(0xD, n) of each component n.
pub fn xsave_size(component: impl Fn(u32) -> CpuidValue, subleaf: u32, xcr0: u64, xss: u64) -> u32 {
    let mut end = 576u32;
    for n in 2..63u32 {
        if (xcr0 | xss) >> n & 1 == 0 || (subleaf == 0 && xcr0 >> n & 1 == 0) {
            continue;
        }
        let component = component(n);
        if subleaf == 0 {
            end = end.max(component.ebx + component.eax);
        } else {
            let align = if component.ecx & 2 != 0 { 64 } else { 1 };
            end = end.next_multiple_of(align) + component.eax;
        }
    }
    end
}
