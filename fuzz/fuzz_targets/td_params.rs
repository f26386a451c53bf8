//! Any bytes as a file of TD parameters.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| swtdx::fuzz_td_params(bytes));
