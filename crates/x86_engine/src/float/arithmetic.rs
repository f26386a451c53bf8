//! Addition, multiplication, division, square root, fused multiply-add and comparison.

use core::cmp::Ordering;

use super::round::{round, shift_right_sticky};
use super::{Context, Format, Number, Rounding, Value, flag, propagate_nan};

pub fn add(a: Value, b: Value, format: Format, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[a, b], context) {
        return nan;
    }
    if let (Value::Infinity(x), Value::Infinity(y)) = (a, b)
        && x != y
    {
        return context.invalid();
    }
    context.note_denormals(&[a, b]);
    match (a, b) {
        (Value::Infinity(_), _) => a,
        (_, Value::Infinity(_)) => b,
        (Value::Zero(x), Value::Zero(y)) => Value::Zero(sum_of_zeros(x, y, context)),
        (Value::Finite(x), Value::Zero(_)) | (Value::Zero(_), Value::Finite(x)) => {
            round(x.sign, x.exponent, wide(x), format, context)
        }
        (Value::Finite(x), Value::Finite(y)) => add_wide(
            Wide {
                sign: x.sign,
                exponent: x.exponent,
                significand: wide(x),
            },
            Wide {
                sign: y.sign,
                exponent: y.exponent,
                significand: wide(y),
            },
            format,
            context,
        ),
        _ => Value::INDEFINITE,
    }
}

pub fn subtract(a: Value, b: Value, format: Format, context: &mut Context) -> Value {
    // A NaN keeps its sign.
    let b = if b.is_nan() { b } else { b.negated() };
    add(a, b, format, context)
}

pub fn multiply(a: Value, b: Value, format: Format, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[a, b], context) {
        return nan;
    }
    let sign = a.sign() != b.sign();
    match (a, b) {
        (Value::Infinity(_), Value::Zero(_)) | (Value::Zero(_), Value::Infinity(_)) => {
            return context.invalid();
        }
        _ => context.note_denormals(&[a, b]),
    }
    match (a, b) {
        (Value::Infinity(_), _) | (_, Value::Infinity(_)) => Value::Infinity(sign),
        (Value::Finite(x), Value::Finite(y)) => {
            let p = product(x, y, sign);
            round(sign, p.exponent, p.significand, format, context)
        }
        _ => Value::Zero(sign),
    }
}

pub fn divide(a: Value, b: Value, format: Format, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[a, b], context) {
        return nan;
    }
    let sign = a.sign() != b.sign();
    match (a, b) {
        (Value::Infinity(_), Value::Infinity(_)) | (Value::Zero(_), Value::Zero(_)) => {
            return context.invalid();
        }
        (Value::Finite(_), Value::Zero(_)) => {
            context.raise(flag::ZERO_DIVIDE);
            return Value::Infinity(sign);
        }
        _ => context.note_denormals(&[a, b]),
    }
    match (a, b) {
        (Value::Infinity(_), _) => Value::Infinity(sign),
        (Value::Finite(x), Value::Finite(y)) => {
            let (mut numerator, divisor) = (u128::from(x.significand), u128::from(y.significand));
            // 1 or 0 before the point, then 127 quotient bits in two steps of 64, then sticky.
            let one = numerator >= divisor;
            if one {
                numerator -= divisor;
            }
            let (high, rest) = ((numerator << 64) / divisor, (numerator << 64) % divisor);
            let (low, rest) = ((rest << 64) / divisor, (rest << 64) % divisor);
            let fraction = high << 64 | low;
            let quotient =
                u128::from(one) << 127 | fraction >> 1 | u128::from(fraction & 1 != 0 || rest != 0);
            round(sign, x.exponent - y.exponent, quotient, format, context)
        }
        _ => Value::Zero(sign),
    }
}

pub fn square_root(a: Value, format: Format, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[a], context) {
        return nan;
    }
    match a {
        Value::Zero(_) | Value::Infinity(false) => a,
        Value::Finite(n) if !n.sign => {
            context.note_denormals(&[a]);
            // The radicand in [1, 4) with 64 fraction bits more than the significand has.
            let odd = n.exponent & 1;
            let mut remainder = 0u128;
            let mut root = 0u128;
            let radicand = u128::from(n.significand) << (63 + odd);
            for step in 0..68 {
                let pair = if step < 64 {
                    radicand >> (126 - 2 * step) & 3
                } else {
                    0
                };
                remainder = remainder << 2 | pair;
                let trial = root << 2 | 1;
                root <<= 1;
                if remainder >= trial {
                    remainder -= trial;
                    root |= 1;
                }
            }
            // The root has 68 bits, the first of them at 2^(exponent / 2).
            let significand = root << 60 | u128::from(remainder != 0);
            round(false, (n.exponent - odd) / 2, significand, format, context)
        }
        _ => context.invalid(),
    }
}

/// `a * b + c` with one rounding.
pub fn fused_multiply_add(
    a: Value,
    b: Value,
    c: Value,
    format: Format,
    context: &mut Context,
) -> Value {
    let sign = a.sign() != b.sign();
    let meaningless = matches!(
        (a, b),
        (Value::Infinity(_), Value::Zero(_)) | (Value::Zero(_), Value::Infinity(_))
    );
    if let Some(nan) = propagate_nan(&[a, b, c], context) {
        return nan;
    }
    let infinite = matches!(a, Value::Infinity(_)) || matches!(b, Value::Infinity(_));
    if meaningless || infinite && c == Value::Infinity(!sign) {
        return context.invalid();
    }
    context.note_denormals(&[a, b, c]);
    if infinite {
        return Value::Infinity(sign);
    }
    match (a, b, c) {
        (_, _, Value::Infinity(_)) => c,
        (Value::Finite(x), Value::Finite(y), _) => {
            let p = product(x, y, sign);
            match c {
                Value::Finite(z) => add_wide(
                    p,
                    Wide {
                        sign: z.sign,
                        exponent: z.exponent,
                        significand: wide(z),
                    },
                    format,
                    context,
                ),
                _ => round(sign, p.exponent, p.significand, format, context),
            }
        }
        (_, _, Value::Finite(z)) => round(z.sign, z.exponent, wide(z), format, context),
        _ => Value::Zero(sum_of_zeros(sign, c.sign(), context)),
    }
}

/// How `a` compares with `b`; `None` when unordered. Raises invalid for signalling NaNs, with `signalling` for all.
pub fn compare(a: Value, b: Value, signalling: bool, context: &mut Context) -> Option<Ordering> {
    if a.is_nan() || b.is_nan() || a == Value::Unsupported || b == Value::Unsupported {
        if signalling
            || a.is_signalling()
            || b.is_signalling()
            || a == Value::Unsupported
            || b == Value::Unsupported
        {
            context.raise(flag::INVALID);
        }
        return None;
    }
    context.note_denormals(&[a, b]);
    Some(order(a, b))
}

/// The order of two values that are not NaNs; the zeros are equal.
fn order(a: Value, b: Value) -> Ordering {
    let rank = |v: Value| match v {
        Value::Zero(_) => (0, i32::MIN, 0),
        Value::Finite(n) => (1, n.exponent, n.significand),
        _ => (1, i32::MAX, 0),
    };
    let signum = |v: Value| match v {
        Value::Zero(_) => 0,
        _ if v.sign() => -1,
        _ => 1,
    };
    signum(a).cmp(&signum(b)).then_with(|| {
        let magnitudes = rank(a).cmp(&rank(b));
        if a.sign() {
            magnitudes.reverse()
        } else {
            magnitudes
        }
    })
}

/// A number with 128 significant bits, bit 127 (or, for products, 126) the leading one.
#[derive(Clone, Copy)]
struct Wide {
    sign: bool,
    exponent: i32,
    significand: u128,
}

fn wide(n: Number) -> u128 {
    u128::from(n.significand) << 64
}

fn product(x: Number, y: Number, sign: bool) -> Wide {
    let significand = u128::from(x.significand) * u128::from(y.significand);
    let shift = significand.leading_zeros();
    Wide {
        sign,
        exponent: x.exponent + y.exponent + 1 - shift as i32,
        significand: significand << shift,
    }
}

fn add_wide(a: Wide, b: Wide, format: Format, context: &mut Context) -> Value {
    let (big, small) = if (a.exponent, a.significand) >= (b.exponent, b.significand) {
        (a, b)
    } else {
        (b, a)
    };
    // One bit of headroom. Bits fall out of `big` only for a product of two 64-bit significands,
    // which no fused operation makes: those have at most 53.
    let left = shift_right_sticky(big.significand, 1);
    let right = shift_right_sticky(
        small.significand,
        (big.exponent - small.exponent) as u32 + 1,
    );
    let (sign, sum) = if a.sign == b.sign {
        (a.sign, left + right)
    } else {
        (big.sign, left - right)
    };
    if sum == 0 {
        return Value::Zero(context.rounding == Rounding::Down);
    }
    round(sign, big.exponent + 1, sum, format, context)
}

fn sum_of_zeros(a: bool, b: bool, context: &Context) -> bool {
    if a == b {
        a
    } else {
        context.rounding == Rounding::Down
    }
}
