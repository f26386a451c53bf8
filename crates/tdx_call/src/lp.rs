//! The seam between host software and a TDX module: a logical processor that takes SEAMCALL.

use core::fmt;

use tdx_abi::{LeafWord, Status};
use x86_arch::Hpa;

use crate::{Tdvpr, TdxModuleArgs, VpEntry};

/// Which registers cross a call: the kernel's three variants as data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// RCX, RDX, R8 to R11 in, nothing but RAX out (`__seamcall`).
    In,
    /// The same in, and the same six out (`__seamcall_ret`).
    InOut,
    /// All thirteen registers both ways (`__seamcall_saved_ret`).
    Saved,
}

/// SEAMCALL did not reach a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSeam {
    /// CF=1 after the instruction: no module is loaded, or it is busy.
    VmFailInvalid,
    /// #GP: TDX is not enabled by the firmware.
    GeneralProtection,
    /// #UD: the processor is not in VMX root operation, or knows no SEAMCALL.
    InvalidOpcode,
}

impl NoSeam {
    /// The word that Linux's call layer returns for it: ERROR, and a class (FF) that no module uses.
    pub const fn status(self) -> Status {
        Status(match self {
            NoSeam::VmFailInvalid => 0x8000_FF00_FFFF_0000,
            NoSeam::GeneralProtection => 0x8000_FF00_0000_000D,
            NoSeam::InvalidOpcode => 0x8000_FF00_0000_0006,
        })
    }
    /// Sorts a RAX of the stubs: one of software's words, or a status of the module.
    pub const fn sort(rax: u64) -> Result<Status, NoSeam> {
        match rax {
            0x8000_FF00_FFFF_0000 => Err(NoSeam::VmFailInvalid),
            0x8000_FF00_0000_000D => Err(NoSeam::GeneralProtection),
            0x8000_FF00_0000_0006 => Err(NoSeam::InvalidOpcode),
            status => Ok(Status(status)),
        }
    }
}

impl fmt::Display for NoSeam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoSeam::VmFailInvalid => "no TDX module answered (VMfailInvalid)",
            NoSeam::GeneralProtection => "the instruction raised #GP: TDX is not enabled",
            NoSeam::InvalidOpcode => "the instruction raised #UD: no TDX here",
        })
    }
}

impl core::error::Error for NoSeam {}

/// RCX of TDH.VP.ENTER: the TDVPR page and the two flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct TdvprAndFlags(pub u64);

impl TdvprAndFlags {
    /// Bit 52: the guest's RAX of a trap-like exit tells it that the host may recover.
    pub const HOST_RECOVERABILITY_HINT: u64 = 1 << 52;
    /// Bit 53: leave the L2 VM that ran and resume L1.
    pub const RESUME_L1: u64 = 1 << 53;

    pub const fn new(tdvpr: Tdvpr) -> Self {
        Self(tdvpr.raw())
    }
    pub const fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }
}

impl From<Tdvpr> for TdvprAndFlags {
    fn from(tdvpr: Tdvpr) -> Self {
        Self::new(tdvpr)
    }
}

/// What the last exit of a vCPU obliges the next entry to load.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LastExit {
    /// Nothing but RCX: the vCPU never ran, or left asynchronously.
    #[default]
    Asynchronous,
    /// A TDG.VP.VMCALL with this RCX mask, not answered yet by an entry that succeeded.
    Tdvmcall { mask: u32 },
}

/// A logical processor on which host software may call the TDX module.
///
/// Holding `&mut` to it is the permission to call on that processor: nothing else runs there meanwhile. The
/// methods are safe, unlike the instruction: who builds a handle on real hardware vouches for it once.
pub trait SeamcallLp {
    /// One SEAMCALL; `args` is read and written as `traffic` says, and untouched when the call reached no module.
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam>;

    /// TDH.VP.ENTER in place on the registers of `entry`: loads what the module will read, stores what a TDVMCALL's
    /// mask selects. RAX is returned; it and the other words of the exit are in `entry` too.
    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam>;
}

/// A virtual processor of a TD on which guest software may call the TDX module.
pub trait TdcallCpu {
    /// One TDCALL; `args` is read and written as `traffic` says, and untouched when the call reached no module.
    fn tdcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam>;
}

/// The physical address lies in no memory that the host may touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutsideMemory(pub Hpa);

/// Physical memory as host software reaches it, with the host's own key.
pub trait HostMemory {
    fn read(&self, from: Hpa, to: &mut [u8]) -> Result<(), OutsideMemory>;
    fn write(&self, to: Hpa, from: &[u8]) -> Result<(), OutsideMemory>;
    /// Sets bits of an aligned 64-bit word, and gives its value before: one atomic step for processors and devices.
    fn set_bits(&self, at: Hpa, bits: u64) -> Result<u64, OutsideMemory>;
    /// Fills a 4 KiB page with zeros by full-line direct stores (MOVDIR64B), which also heals a poisoned line.
    fn clear_page(&self, page: Hpa) -> Result<(), OutsideMemory>;
}
