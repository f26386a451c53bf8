//! Sleep and reset registers of an ACPI hardware-reduced platform (ACPI 6.5, 4.8.3.7 and 4.8.3.6).

/// I/O port of SLEEP_CONTROL_REG; the status register follows it.
pub const SLEEP_CONTROL: u16 = 0x600;
pub const SLEEP_STATUS: u16 = 0x601;
/// I/O port of RESET_REG, and the value that resets.
pub const RESET: u16 = 0x602;
pub const RESET_VALUE: u8 = 1;

/// SLP_TYP of S5 in the DSDT's `_S5` object.
pub const S5: u8 = 5;
const SLP_EN: u8 = 1 << 5;

/// What the guest asked of the platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    Off,
    Reset,
}

/// What a byte written to one of the ports asks for.
pub fn request(port: u16, value: u8) -> Option<Power> {
    match port {
        SLEEP_CONTROL if value & SLP_EN != 0 && value >> 2 & 7 == S5 => Some(Power::Off),
        RESET if value == RESET_VALUE => Some(Power::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_counts() {
        assert_eq!(request(SLEEP_CONTROL, 0x34), Some(Power::Off));
        assert_eq!(request(SLEEP_CONTROL, 0x14), None, "SLP_EN is clear");
        assert_eq!(request(SLEEP_CONTROL, 0x2C), None, "S3");
        assert_eq!(request(RESET, 1), Some(Power::Reset));
        assert_eq!(request(RESET, 6), None);
    }
}
