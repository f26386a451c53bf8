//! Any bytes as what a client of the GDB server sends.
#![no_main]

#[path = "../../crates/tdx_debug/tests/hostile/talk.rs"]
mod talk;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| talk::talk(bytes));
