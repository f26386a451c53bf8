//! Any bytes as a sequence of calls on several processors; the module's invariants hold after each.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdx_module::testing::play(bytes));
