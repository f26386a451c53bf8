//! Packed decimal: 18 digits and a sign in 80 bits (FBLD and FBSTP).

use super::{Context, Format, Value, flag, from_integer, to_integer};

/// What FBSTP stores for an invalid operand.
pub const INDEFINITE: u128 = 0xFFFF_C000_0000_0000_0000;

/// The 80-bit encoding of a packed decimal. Digits above 9 count as what they are; the result is always exact.
pub fn load(bits: u128) -> u128 {
    let magnitude = (0..18).rev().fold(0u64, |sum, digit| {
        sum * 10 + (bits >> (4 * digit) & 15) as u64
    });
    let mut exact = Context::from_fcw(0x37F);
    let value = match magnitude {
        0 => Value::Zero(false),
        _ => from_integer(magnitude as i64, Format::EXTENDED, &mut exact),
    };
    Format::EXTENDED.pack(value.with_sign(bits >> 79 & 1 != 0))
}

/// Rounds to an integer of 18 digits; indefinite and invalid when it has more.
pub fn store(value: Value, context: &mut Context) -> u128 {
    let mut attempt = *context;
    let rounding = context.rounding;
    match to_integer(value, 64, rounding, &mut attempt) {
        Some(integer) if integer.unsigned_abs() < 1_000_000_000_000_000_000 => {
            *context = attempt;
            let mut rest = integer.unsigned_abs();
            let mut bits = u128::from(value.sign()) << 79;
            for digit in 0..18 {
                bits |= u128::from(rest % 10) << (4 * digit);
                rest /= 10;
            }
            bits
        }
        _ => {
            context.raise(flag::INVALID);
            INDEFINITE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighteen_digits_go_both_ways() {
        let bits = 1 << 79 | 0x12_3456_7890_1234_5678;
        let loaded = load(bits);
        let mut context = Context::from_fcw(0x37F);
        assert_eq!(
            store(Format::EXTENDED.unpack(loaded, false), &mut context),
            bits
        );
        assert_eq!(context.raised, 0);
    }

    #[test]
    fn nineteen_digits_are_invalid() {
        let mut context = Context::from_fcw(0x37F);
        let value = from_integer(
            1_000_000_000_000_000_000,
            Format::EXTENDED,
            &mut Context::from_fcw(0x37F),
        );
        assert_eq!(store(value, &mut context), INDEFINITE);
        assert_eq!(context.raised, flag::INVALID);
    }
}
