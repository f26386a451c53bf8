//! Conversions between formats and integers.

use super::round::{round, shift_right_sticky};
use super::{Context, Format, Number, Rounding, Value, flag, propagate_nan};

/// Rounds a value of another format to `format`.
pub fn to_format(value: Value, format: Format, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[value], context) {
        return nan;
    }
    context.note_denormals(&[value]);
    match value {
        Value::Finite(n) => round(
            n.sign,
            n.exponent,
            u128::from(n.significand) << 64,
            format,
            context,
        ),
        other => other,
    }
}

/// Rounds an integer to `format`.
pub fn from_integer(value: i64, format: Format, context: &mut Context) -> Value {
    round(
        value < 0,
        127,
        u128::from(value.unsigned_abs()),
        format,
        context,
    )
}

/// Rounds to an integer of `bits` bits in two's complement. `None` (and invalid) when it does not fit.
pub fn to_integer(
    value: Value,
    bits: u32,
    rounding: Rounding,
    context: &mut Context,
) -> Option<i64> {
    let limit = 1u128 << (bits - 1);
    let result = match value {
        Value::Zero(_) => Some(0),
        Value::Finite(n) => {
            let (magnitude, inexact, up) = integral(n, rounding);
            match magnitude {
                Some(m) if m < limit || n.sign && m == limit => {
                    if inexact {
                        context.raise(flag::INEXACT);
                    }
                    context.rounded_up = up;
                    Some(if n.sign {
                        (m as i64).wrapping_neg()
                    } else {
                        m as i64
                    })
                }
                _ => None,
            }
        }
        _ => None,
    };
    if result.is_none() {
        context.raise(flag::INVALID);
    }
    result
}

/// Rounds to an integral value of the same format; raises inexact unless `quietly`.
pub fn to_integral(
    value: Value,
    rounding: Rounding,
    quietly: bool,
    context: &mut Context,
) -> Value {
    if let Some(nan) = propagate_nan(&[value], context) {
        return nan;
    }
    let Value::Finite(n) = value else {
        return value;
    };
    let (magnitude, inexact, up) = integral(n, rounding);
    // Larger ones have no fraction.
    let Some(magnitude) = magnitude else {
        return value;
    };
    if inexact && !quietly {
        context.raise(flag::INEXACT);
    }
    context.rounded_up = up;
    match magnitude.leading_zeros() {
        128 => Value::Zero(n.sign),
        zeros => Value::Finite(Number {
            sign: n.sign,
            exponent: 127 - zeros as i32,
            significand: (magnitude << zeros >> 64) as u64,
            denormal: false,
        }),
    }
}

/// The magnitude as an integer (`None` from 2^64 on), whether that lost something, whether it went up.
fn integral(n: Number, rounding: Rounding) -> (Option<u128>, bool, bool) {
    if n.exponent >= 64 {
        return (None, false, false);
    }
    // Fixed point with 64 bits of fraction, the last of them sticky.
    let fixed = u128::from(n.significand) << 64;
    let fixed = shift_right_sticky(fixed, (63 - n.exponent) as u32);
    let (whole, rest) = (fixed >> 64, fixed as u64);
    let half = 1 << 63;
    let up = rest != 0
        && match rounding {
            Rounding::Nearest => rest > half || rest == half && whole & 1 != 0,
            Rounding::Down => n.sign,
            Rounding::Up => !n.sign,
            Rounding::Zero => false,
        };
    (Some(whole + u128::from(up)), rest != 0, up)
}
