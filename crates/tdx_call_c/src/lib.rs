//! Linux's six SEAMCALL and TDCALL functions as a C library.
//!
//! `cargo build --release -p tdx_call_c` makes `libtdx_call_c.a`; `include/tdx_call.h` declares what is in it: the
//! six functions with Linux's names and prototypes, and two for user space, where the instructions fault.
#![deny(unsafe_code)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod symbols;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use symbols::*;
