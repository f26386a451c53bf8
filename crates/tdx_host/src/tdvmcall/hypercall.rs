//! The hypervisor's own calls: R10 the number, R11 to R14 arguments, the result in R10 (KVM's convention).

use x86_arch::Gpr;

use super::{Refusal, Request};
use crate::window::Shown;

/// KVM's answer to a hypercall it does not know (-ENOSYS).
pub(super) const NOT_IMPLEMENTED: u64 = -1000_i64 as u64;

pub(super) fn read(shown: &Shown<'_>) -> Result<Request, Refusal> {
    // A guest shows only the arguments that its call has.
    let arg = |reg| shown.arg(reg).unwrap_or(0);
    Ok(Request::Hypercall {
        nr: shown.arg(Gpr::R10)?,
        args: [arg(Gpr::R11), arg(Gpr::R12), arg(Gpr::R13), arg(Gpr::R14)],
    })
}
