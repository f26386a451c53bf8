//! One SEAMCALL or TDCALL: the instruction, typed leaf wrappers, TD entry in place.
#![no_std]
#![deny(unsafe_code)]

mod args;
mod error;
pub mod guest;
pub mod host;
mod lp;
mod operands;
pub mod retry;

pub use coco_regs::{ExitKind, ExitWords};

pub use args::TdxModuleArgs;
pub use error::{CallError, Leaf, Refused};
pub use lp::{
    HostMemory, LastExit, NoSeam, OutsideMemory, SeamcallLp, TdcallCpu, TdvprAndFlags, Traffic,
};
pub use operands::{FieldId, FieldValue, GpaMapping, Progress, SeptEntry, Tdr, Tdvpr};
