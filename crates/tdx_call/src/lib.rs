//! One SEAMCALL or TDCALL: the instruction, typed leaf wrappers, TD entry in place.
#![no_std]
#![deny(unsafe_code)]

mod args;
pub mod backend;
mod direct;
mod error;
pub mod guest;
pub mod host;
#[cfg(all(target_arch = "x86_64", not(any(windows, target_vendor = "apple"))))]
pub mod instruction;
mod lp;
mod operands;
pub mod retry;
mod vp_entry;

pub use coco_regs::{ExitKind, ExitWords};

pub use args::TdxModuleArgs;
pub use direct::{Direct, SoftwareSeam, SoftwareTd};
pub use error::{CallError, Leaf, Refused};
pub use lp::{
    HostMemory, LastExit, NoSeam, OutsideMemory, SeamcallLp, TdcallCpu, TdvprAndFlags, Traffic,
};
pub use operands::{FieldValue, Progress, ShownEntry, Tdr, Tdvpr};
pub use tdx_abi::{FieldId, GpaMapping};
pub use vp_entry::VpEntry;
