//! Powering off, as an ACPI hardware-reduced platform does it.

use super::vmcall;

/// SLEEP_CONTROL_REG of the platform's FADT.
const SLEEP_CONTROL: u16 = 0x600;
/// SLP_EN with SLP_TYP of S5.
const S5: u32 = 1 << 5 | 5 << 2;

pub fn off() -> ! {
    loop {
        vmcall::out(SLEEP_CONTROL, 1, S5);
    }
}
