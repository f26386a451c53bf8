//! A virtio driver that lies: in its rings, in the BAR and in the configuration space.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdx_devices::virtio::fuzz_driver(bytes));
