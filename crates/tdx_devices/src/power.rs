//! Power and reset, as an ACPI hardware-reduced platform has them: SLEEP_CONTROL_REG, SLEEP_STATUS_REG, RESET_REG.

pub(crate) const SLEEP_CONTROL: u16 = 0x600;
pub(crate) const SLEEP_STATUS: u16 = 0x601;
pub(crate) const RESET: u16 = 0x602;

/// SLP_EN; the sleep type is in bits 4:2.
const SLEEP_ENABLE: u32 = 1 << 5;
const S5: u32 = 5;

/// What the guest wants of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    Off,
    Reset,
}

/// A byte written to one of the ports.
pub(crate) fn write(port: u16, value: u32) -> Option<Power> {
    match port {
        SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == S5 => Some(Power::Off),
        RESET if value & 0xFF == 1 => Some(Power::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_with_its_enable_bit_powers_off() {
        assert_eq!(write(SLEEP_CONTROL, 0x34), Some(Power::Off));
        assert_eq!(write(SLEEP_CONTROL, 0x14), None);
        assert_eq!(write(SLEEP_CONTROL, 0x20), None);
        assert_eq!(write(RESET, 1), Some(Power::Reset));
        assert_eq!(write(RESET, 0), None);
    }
}
