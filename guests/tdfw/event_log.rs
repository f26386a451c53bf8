//! Measurements: RTMR extends and the CC event log that the ACPI table CCEL points at.
//!
//! Format: TCG PC Client Platform Firmware Profile, section 10.2 (crypto agile log); the measurement-register
//! index of RTMR n is n + 1 (UEFI 2.10, 38.4.1).

use crate::direct_boot::Range;
use crate::rt::sha384::Sha384;
use crate::rt::tdcall::{MR_RTMR_EXTEND, Registers, tdcall};

/// EV_PLATFORM_CONFIG_FLAGS.
pub const PLATFORM_CONFIG: u32 = 0xA;
/// EV_IPL.
pub const IPL: u32 = 0xD;
const EV_NO_ACTION: u32 = 3;
const TPM_ALG_SHA384: u16 = 0xC;

#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Rtmr {
    R0 = 0,
    R1 = 1,
    R2 = 2,
}

#[repr(C, align(64))]
struct Digest([u8; 48]);

/// The log under way. What no longer fits is measured and not logged.
pub struct EventLog {
    memory: Range,
    used: u64,
}

impl EventLog {
    /// Starts a log with its specification-id event.
    pub fn at(memory: Range) -> EventLog {
        let mut log = EventLog { memory, used: 0 };
        let mut event = [0u8; 37];
        event[..16].copy_from_slice(b"Spec ID Event03\0");
        // Platform class 0 (4), minor 0, major 2, errata 0, uintn size 2, one algorithm.
        event[21] = 2;
        event[23] = 2;
        event[24..28].copy_from_slice(&1u32.to_le_bytes());
        event[28..30].copy_from_slice(&TPM_ALG_SHA384.to_le_bytes());
        event[30..32].copy_from_slice(&48u16.to_le_bytes());
        let event = &event[..33];
        log.put(&[
            &0u32.to_le_bytes(),
            &EV_NO_ACTION.to_le_bytes(),
            &[0; 20],
            &33u32.to_le_bytes(),
            event,
        ]);
        log
    }

    /// Hashes `bytes`, extends the register with the digest, and logs the event under `name`.
    pub fn measure(&mut self, register: Rtmr, kind: u32, name: &str, bytes: &[u8]) {
        let digest = Digest(Sha384::digest(bytes));
        let mut regs = Registers {
            rcx: digest.0.as_ptr() as u64,
            rdx: register as u64,
            ..Default::default()
        };
        if tdcall(MR_RTMR_EXTEND, &mut regs) != 0 {
            crate::fail("TDG.MR.RTMR.EXTEND failed");
        }
        self.put(&[
            &(register as u32 + 1).to_le_bytes(),
            &kind.to_le_bytes(),
            &1u32.to_le_bytes(),
            &TPM_ALG_SHA384.to_le_bytes(),
            &digest.0,
            &(name.len() as u32).to_le_bytes(),
            name.as_bytes(),
        ]);
    }

    fn put(&mut self, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        if self.memory.length - self.used < length as u64 {
            return;
        }
        for part in parts {
            let to = (self.memory.start + self.used) as *mut u8;
            // SAFETY: the log area is accepted private memory that the VMM set aside, and the part fits in it.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len()) };
            self.used += part.len() as u64;
        }
    }
}
