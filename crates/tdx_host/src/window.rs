//! The registers that a TDVMCALL shows its VMM.

use coco_regs::tdx::TdvmcallMask;
use coco_regs::{GprFile, Window};
use x86_arch::Gpr;

use crate::tdvmcall::Refusal;

/// The register file of a vCPU through the mask of the TDVMCALL it waits in.
#[derive(Debug)]
pub struct Shown<'a>(Window<'a, GprFile>);

impl<'a> Shown<'a> {
    pub fn new(gprs: &'a mut GprFile, mask: u32) -> Self {
        let mask = TdvmcallMask::of_exit(mask.into());
        Self(Window::both(gprs, mask.gprs()))
    }
    /// A register that the sub-function needs.
    pub fn arg(&self, reg: Gpr) -> Result<u64, Refusal> {
        self.0
            .get(reg)
            .map_err(|hidden| Refusal::Hidden(hidden.reg))
    }
    /// Part of an answer; dropped where the guest would not see it.
    pub fn put(&mut self, reg: Gpr, value: u64) {
        // A hidden register is the guest's own choice, and every sub-function was checked for those it needs.
        let _ = self.0.set(reg, value);
    }
}
