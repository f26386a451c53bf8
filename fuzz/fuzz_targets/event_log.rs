//! Any bytes as a firmware's event log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdvf::fuzz_event_log(bytes));
