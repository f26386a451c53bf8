//! Any bytes as a conformance trace.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    conformance::fuzz_trace(bytes);
    conformance::show::fuzz_rows(bytes);
});
