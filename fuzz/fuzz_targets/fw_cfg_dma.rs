//! Any guest memory with a fw_cfg DMA descriptor somewhere in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tdx_devices::fuzz_dma(bytes));
