//! x87's FSCALE, FXTRACT, FPREM and FPREM1.

use super::{Context, Format, Number, Rounding, Value, flag, propagate_nan, round, to_integer};

const EXTENDED: Format = Format::EXTENDED;

/// `a * 2^trunc(b)`.
pub fn scale(a: Value, b: Value, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[a, b], context) {
        return nan;
    }
    match (a, b) {
        (Value::Zero(_), Value::Infinity(false)) | (Value::Infinity(_), Value::Infinity(true)) => {
            return context.invalid();
        }
        _ => context.note_denormals(&[a, b]),
    }
    match (a, b) {
        (_, Value::Infinity(true)) => Value::Zero(a.sign()),
        (_, Value::Infinity(false)) => Value::Infinity(a.sign()),
        (Value::Finite(n), _) => {
            let mut quiet = Context::from_fcw(0x37F);
            let by = to_integer(b, 32, Rounding::Zero, &mut quiet);
            let by = by
                .unwrap_or(if b.sign() { -0x1_0000 } else { 0x1_0000 })
                .clamp(-0x1_0000, 0x1_0000) as i32;
            round(
                n.sign,
                n.exponent + by,
                u128::from(n.significand) << 64,
                EXTENDED,
                context,
            )
        }
        _ => a,
    }
}

/// Exponent and significand of `a` as two numbers.
pub fn extract(a: Value, context: &mut Context) -> (Value, Value) {
    if let Some(nan) = propagate_nan(&[a], context) {
        return (nan, nan);
    }
    match a {
        Value::Zero(_) => {
            context.raise(flag::ZERO_DIVIDE);
            (Value::Infinity(true), a)
        }
        Value::Finite(n) => {
            context.note_denormals(&[a]);
            let mut exact = Context::from_fcw(0x37F);
            let exponent = super::from_integer(n.exponent.into(), EXTENDED, &mut exact);
            (
                exponent,
                Value::Finite(Number {
                    exponent: 0,
                    denormal: false,
                    ..n
                }),
            )
        }
        _ => (Value::Infinity(false), a),
    }
}

/// One step of FPREM (or FPREM1, `nearest`): the remainder and the quotient's low bits, or `None` for the quotient
/// when the operands' exponents are so far apart that another step must follow.
pub fn partial(a: Value, b: Value, nearest: bool, context: &mut Context) -> (Value, Option<u64>) {
    if let Some(nan) = propagate_nan(&[a, b], context) {
        return (nan, Some(0));
    }
    if matches!(a, Value::Infinity(_)) || matches!(b, Value::Zero(_)) {
        return (context.invalid(), Some(0));
    }
    context.note_denormals(&[a, b]);
    let (Value::Finite(x), Value::Finite(y)) = (a, b) else {
        return (a, Some(0));
    };
    let difference = x.exponent - y.exponent;
    if difference < -1 || difference < 0 && !nearest {
        // Already smaller; it is still rounded, for underflow.
        let result = round(
            x.sign,
            x.exponent,
            u128::from(x.significand) << 64,
            EXTENDED,
            context,
        );
        return (result, Some(0));
    }
    // As many quotient bits as one step gives: all of up to 63, else 32 to 63.
    let complete = difference < 64;
    let bits = if complete {
        difference.max(0)
    } else {
        32 + (difference & 31)
    };
    let divisor = u128::from(y.significand) << 1;
    let mut rest = u128::from(x.significand) << (1 + difference.min(0));
    let mut quotient = 0u64;
    for step in 0..=bits {
        if step > 0 {
            rest <<= 1;
        }
        quotient <<= 1;
        if rest >= divisor && difference >= 0 {
            rest -= divisor;
            quotient |= 1;
        }
    }
    // The scale of `rest`: its bit 64 stands for 2^exponent.
    let exponent = if difference < 0 {
        y.exponent
    } else {
        x.exponent - bits
    };
    let mut sign = x.sign;
    if complete && nearest {
        let twice = rest << 1;
        if twice > divisor || twice == divisor && quotient & 1 != 0 {
            rest = divisor - rest;
            sign = !sign;
            quotient = quotient.wrapping_add(1);
        }
    }
    let result = if rest == 0 {
        Value::Zero(x.sign)
    } else {
        round(sign, exponent + 63, rest, EXTENDED, context)
    };
    (result, complete.then_some(quotient))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: i64) -> Value {
        super::super::from_integer(value, EXTENDED, &mut Context::from_fcw(0x37F))
    }

    #[test]
    fn remainders_of_small_integers() {
        let mut context = Context::from_fcw(0x37F);
        assert_eq!(
            partial(number(17), number(5), false, &mut context),
            (number(2), Some(3))
        );
        assert_eq!(
            partial(number(18), number(5), true, &mut context),
            (number(-2), Some(4))
        );
        assert_eq!(
            partial(number(-17), number(5), false, &mut context),
            (number(-2), Some(3))
        );
        assert_eq!(
            partial(number(4), number(5), true, &mut context),
            (number(-1), Some(1))
        );
        assert_eq!(context.raised, 0);
    }

    #[test]
    fn scaling_moves_the_exponent() {
        let mut context = Context::from_fcw(0x37F);
        assert_eq!(scale(number(3), number(4), &mut context), number(48));
        assert_eq!(
            scale(number(1), number(100_000), &mut context),
            Value::Infinity(false)
        );
    }
}
