//! Rounding a wide significand to a format, with overflow and underflow.

use super::{Context, Format, Number, Rounding, Value, flag};

/// What unmasked overflow and underflow move the exponent of an x87 register result by.
const X87_WRAP: i32 = 24576;

/// Rounds `(-1)^sign * significand * 2^(exponent - 127)` to `format`. Bit 0 of the significand may be a sticky bit:
/// it stands for anything nonzero below. Tininess is detected after rounding, as on every x86.
pub fn round(
    sign: bool,
    exponent: i32,
    significand: u128,
    format: Format,
    context: &mut Context,
) -> Value {
    if significand == 0 {
        return Value::Zero(sign);
    }
    let shift = significand.leading_zeros();
    let (exponent, significand) = (exponent - shift as i32, significand << shift);
    let precision = if format == Format::EXTENDED {
        context.precision
    } else {
        format.precision
    };

    let rounded = cut(sign, significand, precision, context.rounding);
    let result = |exponent, significand| {
        Value::Finite(Number {
            sign,
            exponent,
            significand,
            denormal: false,
        })
    };
    let (new_exponent, new_significand) = rounded.normal(exponent);

    if new_exponent > format.max_exponent() {
        context.raise(flag::OVERFLOW);
        if !context.is_masked(flag::OVERFLOW) {
            if rounded.inexact {
                context.raise(flag::INEXACT);
            }
            context.rounded_up = rounded.up;
            if new_exponent - X87_WRAP > format.max_exponent() {
                // Too large even so (FSCALE).
                context.raise(flag::INEXACT);
                context.rounded_up = true;
                return Value::Infinity(sign);
            }
            return result(new_exponent - X87_WRAP, new_significand);
        }
        context.raise(flag::INEXACT);
        let to_infinity = match context.rounding {
            Rounding::Nearest => true,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
        context.rounded_up = to_infinity;
        return if to_infinity {
            Value::Infinity(sign)
        } else {
            result(format.max_exponent(), u64::MAX << (64 - precision))
        };
    }

    if new_exponent < format.min_exponent() {
        if !context.is_masked(flag::UNDERFLOW) {
            context.raise(flag::UNDERFLOW);
            if rounded.inexact {
                context.raise(flag::INEXACT);
            }
            context.rounded_up = rounded.up;
            if new_exponent + X87_WRAP < format.min_exponent() {
                context.raise(flag::INEXACT);
                return Value::Zero(sign);
            }
            return result(new_exponent + X87_WRAP, new_significand);
        }
        if context.flush_to_zero {
            context.raise(flag::UNDERFLOW | flag::INEXACT);
            return Value::Zero(sign);
        }
        let shift = (format.min_exponent() - exponent) as u32;
        let rounded = cut(
            sign,
            shift_right_sticky(significand, shift),
            precision,
            context.rounding,
        );
        context.rounded_up = rounded.up;
        if rounded.inexact {
            context.raise(flag::UNDERFLOW | flag::INEXACT);
        }
        return match rounded.normal(format.min_exponent()) {
            (_, 0) => Value::Zero(sign),
            (exponent, significand) => {
                let shift = significand.leading_zeros();
                result(exponent - shift as i32, significand << shift)
            }
        };
    }

    context.rounded_up = rounded.up;
    if rounded.inexact {
        context.raise(flag::INEXACT);
    }
    result(new_exponent, new_significand)
}

/// Shifts right; a one that falls out is kept in bit 0.
pub fn shift_right_sticky(value: u128, count: u32) -> u128 {
    match count {
        0 => value,
        1..128 => value >> count | u128::from(value << (128 - count) != 0),
        _ => u128::from(value != 0),
    }
}

struct Cut {
    /// The kept bits at the top of 65: a carry out of rounding is bit 64.
    kept: u128,
    inexact: bool,
    up: bool,
}

impl Cut {
    /// Exponent and significand after a possible carry.
    fn normal(&self, exponent: i32) -> (i32, u64) {
        if self.kept >> 64 != 0 {
            (exponent + 1, 1 << 63)
        } else {
            (exponent, self.kept as u64)
        }
    }
}

/// Keeps the top `precision` bits.
fn cut(sign: bool, significand: u128, precision: u32, rounding: Rounding) -> Cut {
    let dropped = 128 - precision;
    let rest = significand & ((1 << dropped) - 1);
    let kept = significand >> dropped;
    let half = 1 << (dropped - 1);
    let up = rest != 0
        && match rounding {
            Rounding::Nearest => rest > half || rest == half && kept & 1 != 0,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
    Cut {
        kept: (kept + u128::from(up)) << (64 - precision),
        inexact: rest != 0,
        up,
    }
}
