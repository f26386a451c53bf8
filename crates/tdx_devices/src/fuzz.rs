//! What the fuzzer and the tests do with arbitrary bytes: a guest that asks its devices for anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coco_regs::GprFile;
use tdx_host::Shown;
use tdx_host::tdvmcall::{self, Services};
use x86_arch::Gpr;

use crate::virtio::{Console, Device, Entropy};
use crate::{Board, BoardConfig};

/// Bytes of one request.
const REQUEST: usize = 16;
const VCPUS: u32 = 2;
const SHARED_BIT: u64 = 1 << 47;
/// Ports and addresses at which something is.
const PORTS: [u64; 13] = [
    0x3F8, 0x3FD, 0x70, 0x71, 0x42, 0x43, 0x61, 0xCF8, 0xCFC, 0x510, 0x514, 0x608, 0x604,
];
const PAGES: [u64; 6] = [
    0xFEE0_0000,
    0xFEC0_0000,
    0xE000_0000,
    0xC000_0000,
    0xFED0_0000,
    0,
];
/// Most interrupts that one request may raise: every vCPU's, every line's.
const INTERRUPTS: usize = 64;

/// Plays a guest whose TDVMCALLs the bytes choose: sub-function, mask, operands; often near something that is there.
///
/// # Panics
/// When a device panics, or one request raises more interrupts than there are receivers and lines.
pub fn fuzz_guest(bytes: &[u8]) {
    let now = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&now);
    let devices: Vec<Box<dyn Device>> = vec![
        Box::new(Console::new(Box::new(io::sink()))),
        Box::new(Entropy::new(1)),
    ];
    let mut board = Board::new(BoardConfig {
        vcpus: VCPUS,
        memory: 1 << 30,
        tsc_khz: 1_000_000,
        clock: Arc::new(move || clock.load(Relaxed)),
        console: Box::new(io::sink()),
        firmware: None,
        devices,
    });
    for request in bytes.chunks_exact(REQUEST) {
        let mut word = [0; 8];
        word.copy_from_slice(&request[8..]);
        let value = u64::from_le_bytes(word);
        ask(&mut board, request, value);
        now.fetch_add(u64::from(request[1]) << (request[2] & 31), Relaxed);
        board.run_timers();
        let raised = std::iter::from_fn(|| board.next_interrupt()).take(INTERRUPTS + 1);
        assert!(raised.count() <= INTERRUPTS, "one request, {request:?}");
        let _ = board.wants_owner();
    }
}

/// One TDVMCALL.
fn ask(board: &mut Board, request: &[u8], value: u64) {
    const FUNCTIONS: [u64; 8] = [10, 12, 30, 31, 32, 48, 0x10000, 0x10004];
    let pick = |list: &[u64], byte: u8| list[byte as usize % list.len()];
    let offset = u64::from(request[5]);
    let function = match request[0] {
        0..32 => value >> 40,
        byte => pick(&FUNCTIONS, byte),
    };
    // R12 to R15, so that most requests of each sub-function are well formed.
    let operands = match function {
        10 => [value & 0xFFFF_FFFF, offset, 0, 0],
        30 => {
            let port = pick(&PORTS, request[4]) + (offset & 3);
            [
                1 << (request[3] % 4),
                u64::from(request[3] >> 7),
                port,
                value & 0xFFFF_FFFF,
            ]
        }
        31 | 32 => [0x800 + offset, value, 0, 0],
        48 => {
            let page = pick(&PAGES, request[4]) + offset * 16 + u64::from(request[6]) * 4096;
            let size = 1 << (request[3] % 5);
            [size, u64::from(request[3] >> 7), SHARED_BIT | page, value]
        }
        _ => [value, value >> 8, value >> 16, value >> 24],
    };
    let mut gprs = GprFile::default();
    gprs[Gpr::R11] = function;
    gprs[Gpr::R10] = u64::from(request[7] == 255);
    gprs.0[12..].copy_from_slice(&operands);
    let mask = match request[7] {
        0..224 => 0xFC00,
        byte => u32::from(byte) << 8,
    };
    let vcpu = u32::from(request[6]) % (VCPUS + 1);
    let mut shown = Shown::new(&mut gprs, mask);
    let answer = match tdvmcall::read(&shown, SHARED_BIT) {
        Ok(request) => tdvmcall::serve(board, vcpu, &request),
        Err(refusal) => Some(refusal.answer()),
    };
    if let Some(answer) = answer {
        tdvmcall::write(&mut shown, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_guest_brings_the_devices_down(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_guest(&bytes);
        }
    }
}
