//! Register files and register windows for confidential VMs.
#![no_std]
#![forbid(unsafe_code)]

mod gprs;

pub use gprs::{GprFile, XmmFile};
