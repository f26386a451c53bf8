//! What a TD shows its VMM: by kind of exit (spec: vp-enter.md 6 and 12).

mod exit;
mod mask;
mod subfunction;

pub use exit::{Exit, ExitKind, ExitWords, Tdvmcall};
pub use mask::{IllegalMask, TdvmcallMask};
pub use subfunction::{Malformed, Request};
