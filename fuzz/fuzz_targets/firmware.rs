//! Any bytes as a firmware image.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdvf::fuzz_image(bytes));
