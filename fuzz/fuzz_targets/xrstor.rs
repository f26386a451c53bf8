//! Any bytes as an XSAVE area to restore from.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| x86_engine::simd::xstate::fuzz_restore(bytes));
