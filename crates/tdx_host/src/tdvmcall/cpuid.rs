//! Instruction.CPUID: R12 leaf, R13 sub-leaf; back in R12 to R15.

use x86_arch::Gpr;

use super::{Refusal, Request};
use crate::window::Shown;

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    Ok(Request::Cpuid {
        leaf: shown.arg(Gpr::R12)? as u32,
        subleaf: shown.arg(Gpr::R13)? as u32,
    })
}

pub(super) fn write(shown: &mut Shown<'_>, values: [u32; 4]) {
    for (reg, value) in [Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15]
        .into_iter()
        .zip(values)
    {
        shown.put(reg, value.into());
    }
}
