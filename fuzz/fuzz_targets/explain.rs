//! Any bytes as a value, a kernel log or a report to explain.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| swtdx::fuzz_explain(bytes));
