//! Any bytes as the TDVMCALLs of a guest, against the devices.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdx_devices::fuzz_guest(bytes));
