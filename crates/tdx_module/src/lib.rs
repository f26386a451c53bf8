//! The software Intel TDX module: what TDH.* and TDG.* leaves do, over a trait [`Machine`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cpuid;
mod machine;
pub mod msr;
pub mod xstate;

pub use machine::{
    CpuidValue, KeyError, LpId, Machine, MachineCheck, PackageId, PendingEvents, PlatformInfo,
};
