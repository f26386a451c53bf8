//! The software Intel TDX module: what TDH.* and TDG.* leaves do, over a trait [`Machine`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod machine;

pub use machine::{
    CpuidValue, KeyError, LpId, Machine, MachineCheck, PackageId, PendingEvents, PlatformInfo,
};
