//! The virtual IA32_ARCH_CAPABILITIES (host-td.md 3.4, guest-virtualization.md 6.3).

/// Bits that SYS.INIT needs to be 1 (host-platform.md 3.1, row 4).
pub const ARCH_CAPABILITIES_REQUIRED_1: u64 =
    1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 0x3F << 10 | 1 << 21;
/// Bits that SYS.INIT needs to be 0.
pub const ARCH_CAPABILITIES_REQUIRED_0: u64 = 1 << 2;
/// Bits that TD_PARAMS may configure: SSB_NO, RRSBA, BHI_NO, PBRSB_NO.
pub const ARCH_CAPABILITIES_CONFIGURABLE: u64 = KEPT | RRSBA;

/// Kept from the native value only where configured.
const KEPT: u64 = 1 << 4 | 1 << 20 | 1 << 24;
/// Forced to 1 where configured.
const RRSBA: u64 = 1 << 19;
const TSX_CTRL: u64 = 1 << 7;
const HIDDEN: u64 = 7 << 9 | 7 << 16 | 7 << 21 | !0 << 25;

/// The value a TD sees, or `None` for a configuration that TD_PARAMS must not hold.
pub fn virtual_arch_capabilities(
    native: u64,
    controlled: bool,
    config: u64,
    tsx: bool,
) -> Option<u64> {
    let allowed = if controlled {
        ARCH_CAPABILITIES_CONFIGURABLE
    } else {
        0
    };
    if config & !allowed != 0 {
        return None;
    }
    let mut value = native & !HIDDEN & (!KEPT | config) | config & RRSBA;
    if !tsx {
        value &= !TSX_CTRL;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: u64 = 0x1A0_FD6B;

    #[test]
    fn configurable_bits_follow_the_configuration() {
        let plain = virtual_arch_capabilities(NATIVE, false, 0, false);
        assert_eq!(plain, Some(0xF16B & !0x80 | NATIVE & RRSBA));
        let kept =
            virtual_arch_capabilities(NATIVE | 1 << 4, true, 1 << 4 | 1 << 24 | RRSBA, false);
        assert_eq!(kept, plain.map(|value| value | 1 << 4 | 1 << 24 | RRSBA));
    }

    #[test]
    fn other_bits_or_a_missing_control_are_refused() {
        assert_eq!(virtual_arch_capabilities(NATIVE, true, 1, false), None);
        assert_eq!(
            virtual_arch_capabilities(NATIVE, false, 1 << 4, false),
            None
        );
    }

    #[test]
    fn tsx_ctrl_needs_tsx() {
        let with = virtual_arch_capabilities(NATIVE | TSX_CTRL, false, 0, true);
        assert_eq!(with.map(|value| value & TSX_CTRL), Some(TSX_CTRL));
        let without = virtual_arch_capabilities(NATIVE | TSX_CTRL, false, 0, false);
        assert_eq!(without.map(|value| value & TSX_CTRL), Some(0));
    }
}
