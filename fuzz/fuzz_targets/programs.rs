//! Any bytes as a program of many pages, run by every kind of engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| x86_engine::fuzz::fuzz_programs(bytes));
