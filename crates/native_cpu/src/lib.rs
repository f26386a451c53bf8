//! Compares the CPU engine with the processor it runs on.
#![deny(unsafe_code)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

pub mod native;
pub mod state;
