//! Any bytes as the memory map or kernel log that a plan is made of.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| swtdx::fuzz_cmrs(bytes));
