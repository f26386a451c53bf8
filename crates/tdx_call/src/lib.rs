//! One SEAMCALL or TDCALL: the instruction, typed leaf wrappers, TD entry in place.
#![no_std]
#![deny(unsafe_code)]

mod args;
mod lp;

pub use args::TdxModuleArgs;
pub use lp::{
    ExitWords, HostMemory, LastExit, NoSeam, OutsideMemory, SeamcallLp, TdvprAndFlags, Traffic,
};
