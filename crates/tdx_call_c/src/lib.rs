//! Linux's six SEAMCALL and TDCALL functions for C.
//!
//! `cargo rustc --release -p tdx_call_c --crate-type staticlib -- -C panic=abort` makes `libtdx_call_c.a`, without
//! standard library and allocator, for kernels and for user space; `include/tdx_call.h` declares what is in it: the six
//! functions with Linux's names and prototypes, and the exception table.
#![no_std]
#![deny(unsafe_code)]

#[cfg(all(target_arch = "x86_64", not(any(windows, target_vendor = "apple"))))]
mod symbols;

#[cfg(all(target_arch = "x86_64", not(any(windows, target_vendor = "apple"))))]
pub use symbols::*;
