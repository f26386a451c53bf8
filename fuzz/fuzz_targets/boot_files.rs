//! Any bytes as a kernel, its command line and its initrd.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdx_devices::fuzz_boot_files(bytes));
