//! Any bytes as the state and the code of a guest.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| x86_engine::fuzz::fuzz_code(bytes));
