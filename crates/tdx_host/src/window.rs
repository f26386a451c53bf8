//! The registers that a TDVMCALL shows its VMM.

use coco_regs::GprFile;
use x86_arch::Gpr;

use crate::tdvmcall::Refusal;

/// The register file of a vCPU through the mask of the TDVMCALL it waits in.
#[derive(Debug)]
pub struct Shown<'a> {
    gprs: &'a mut GprFile,
    mask: u32,
}

impl<'a> Shown<'a> {
    pub fn new(gprs: &'a mut GprFile, mask: u32) -> Self {
        Self { gprs, mask }
    }
    /// A register that the sub-function needs.
    pub fn arg(&self, reg: Gpr) -> Result<u64, Refusal> {
        match self.mask & 1 << reg as u32 {
            0 => Err(Refusal::Hidden(reg)),
            _ => Ok(self.gprs[reg]),
        }
    }
    /// Part of an answer; dropped where the guest would not see it.
    pub fn put(&mut self, reg: Gpr, value: u64) {
        if self.mask & 1 << reg as u32 != 0 {
            self.gprs[reg] = value;
        }
    }
}
