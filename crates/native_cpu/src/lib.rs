//! Compares the CPU engine with the processor it runs on.
#![deny(unsafe_code)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

pub mod campaign;
pub mod compare;
pub mod engine;
pub mod form;
pub mod minimize;
pub mod native;
pub mod random;
pub mod state;
pub mod values;
pub mod vendor;
