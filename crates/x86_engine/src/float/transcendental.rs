//! x87's transcendental functions by series on 128-bit numbers: correctly rounded but for rare cases within 2^-50 units
//! of the last place of a rounding boundary. Arguments of the trigonometric functions are reduced with the processor's 66-bit pi.

use super::wide::{LN_2, LOG2_E, PI, Wide, wide};
use super::{Context, Format, Number, Value, flag, multiply, propagate_nan, round};

const EXTENDED: Format = Format::EXTENDED;
const LOG2_E_WIDE: Wide = Wide::constant(0, LOG2_E);
/// Terms below this exponent (relative to 1) no longer matter.
const NEGLIGIBLE: i32 = -132;

/// Rounds a result that is not exact.
fn inexact(value: Wide, context: &mut Context) -> Value {
    round(
        value.sign,
        value.exponent,
        value.significand | 1,
        EXTENDED,
        context,
    )
}

/// `2^x - 1` for |x| <= 1; larger arguments are undefined and stay as they are.
pub fn exp2_minus_1(a: Value, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[a], context) {
        return nan;
    }
    match a {
        Value::Finite(n) => {
            context.note_denormals(&[a]);
            if n.exponent >= 0 {
                let half = Number {
                    sign: true,
                    exponent: -1,
                    significand: 1 << 63,
                    denormal: false,
                };
                // Inexact even where it is not.
                context.raise(flag::INEXACT);
                if n.exponent > 0 || n.significand != 1 << 63 {
                    return a;
                }
                return if n.sign {
                    Value::Finite(half)
                } else {
                    Value::ONE
                };
            }
            let y = Wide::from_number(n).multiply(Wide::constant(-1, LN_2));
            let (mut sum, mut term, mut k) = (y, y, 1);
            while term.exponent > sum.exponent + NEGLIGIBLE && !term.is_zero() {
                k += 1;
                term = term.multiply(y).divide(Wide::from_integer(k));
                sum = sum.plus(term);
            }
            inexact(sum, context)
        }
        Value::Infinity(true) => Value::ONE.negated(),
        other => other,
    }
}

/// `2 * atanh(s) * log2(e)`, which is log2((1 + s) / (1 - s)).
fn log2_of_ratio(s: Wide) -> Wide {
    let square = s.multiply(s);
    let (mut sum, mut power, mut k) = (s, s, 1);
    loop {
        power = power.multiply(square);
        k += 2;
        let term = power.divide(Wide::from_integer(k));
        if term.is_zero() || term.exponent < sum.exponent + NEGLIGIBLE {
            return sum.scaled(1).multiply(LOG2_E_WIDE);
        }
        sum = sum.plus(term);
    }
}

/// log2 of a positive number that is no power of two.
fn log2(x: Wide) -> Wide {
    // x = m * 2^e with m between sqrt(1/2) and sqrt(2).
    let high = x.significand > 0xB504_F333_F9DE_6484_597D_89B3_754A_BE9F;
    let e = x.exponent + i32::from(high);
    let m = Wide {
        exponent: x.exponent - e,
        ..x
    };
    let s = m.plus(Wide::ONE.negated()).divide(m.plus(Wide::ONE));
    log2_of_ratio(s).plus(Wide::from_integer(e.into()))
}

/// `y * log2(x)`.
pub fn y_log2_x(x: Value, y: Value, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[x, y], context) {
        return nan;
    }
    let zero_y = matches!(y, Value::Zero(_));
    let infinite_y = matches!(y, Value::Infinity(_));
    match x {
        Value::Zero(_) if zero_y => context.invalid(),
        Value::Zero(_) => {
            if !infinite_y {
                context.raise(flag::ZERO_DIVIDE);
            }
            Value::Infinity(!y.sign())
        }
        _ if x.sign() => context.invalid(),
        Value::Infinity(_) if zero_y => context.invalid(),
        Value::Infinity(_) => {
            context.note_denormals(&[y]);
            Value::Infinity(y.sign())
        }
        Value::Finite(n) => {
            let one = n.exponent == 0 && n.significand == 1 << 63;
            if one && infinite_y {
                return context.invalid();
            }
            context.note_denormals(&[x, y]);
            let negative = n.exponent < 0;
            match y {
                Value::Infinity(sign) => Value::Infinity(sign != negative),
                Value::Finite(_) if n.significand == 1 << 63 => {
                    let mut exact = Context::from_fcw(0x37F);
                    let log = super::from_integer(n.exponent.into(), EXTENDED, &mut exact);
                    let before = context.raised;
                    let result = multiply(log, y, EXTENDED, context);
                    context.raised |= before;
                    if one { Value::Zero(y.sign()) } else { result }
                }
                Value::Finite(_) => inexact(log2(Wide::from_number(n)).multiply(wide(y)), context),
                _ => Value::Zero(y.sign() != negative),
            }
        }
        _ => context.invalid(),
    }
}

/// `y * log2(x + 1)` for |x| < 1 - sqrt(1/2); larger arguments are undefined.
pub fn y_log2_x_plus_1(x: Value, y: Value, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[x, y], context) {
        return nan;
    }
    let sign = x.sign() != y.sign();
    match (x, y) {
        (Value::Zero(_), Value::Infinity(_)) | (Value::Infinity(_), Value::Zero(_)) => {
            context.invalid()
        }
        (Value::Zero(_), _) => {
            context.note_denormals(&[y]);
            Value::Zero(sign)
        }
        (Value::Finite(n), _) if n.sign && n.exponent >= 0 => context.invalid(),
        (Value::Infinity(true), _) => context.invalid(),
        (Value::Infinity(_), _) | (_, Value::Infinity(_)) => {
            context.note_denormals(&[x, y]);
            Value::Infinity(sign)
        }
        (Value::Finite(n), Value::Finite(_)) => {
            context.note_denormals(&[x, y]);
            let x = Wide::from_number(n);
            // The sum is exact enough where it does not cancel, and there the series would be slow.
            let log = if n.exponent >= -2 {
                log2(x.plus(Wide::ONE))
            } else {
                log2_of_ratio(x.divide(x.plus(Wide::from_integer(2))))
            };
            inexact(log.multiply(wide(y)), context)
        }
        _ => {
            context.note_denormals(&[x, y]);
            Value::Zero(sign)
        }
    }
}

/// atan(k/8) for k = 1 to 8.
const ATAN_EIGHTHS: [(i32, u128); 8] = [
    (-4, 0xFEADD4D5617B6E32C897989F3E888EF7),
    (-3, 0xFADBAFC96406EB156DC79EF5F7A217E5),
    (-2, 0xB7B0CA0F26F784738AA32122DCFE4483),
    (-2, 0xED63382B0DDA7B456FE445ECBC3A8D03),
    (-1, 0x8F005D5EF7F59F9B5C835E1665C43747),
    (-1, 0xA4BC7D1934F7092419A87F2A457DAC9E),
    (-1, 0xB8053E2BC2319E73CB2DA55210A4443D),
    (-1, 0xC90FDAA22168C234C4C6628B80DC1CD1),
];

/// atan of a number from 0 to 1.
fn atan(t: Wide) -> Wide {
    let k = t.scaled(3).nearest_integer();
    let c = Wide::from_integer(k).scaled(-3);
    let x = t.plus(c.negated()).divide(Wide::ONE.plus(t.multiply(c)));
    let square = x.multiply(x).negated();
    let (mut sum, mut power, mut n) = (x, x, 1);
    loop {
        power = power.multiply(square);
        n += 2;
        let term = power.divide(Wide::from_integer(n));
        if term.is_zero() || term.exponent < sum.exponent + NEGLIGIBLE {
            break;
        }
        sum = sum.plus(term);
    }
    match ATAN_EIGHTHS.get((k - 1) as usize) {
        Some(&(exponent, significand)) if k > 0 => sum.plus(Wide::constant(exponent, significand)),
        _ => sum,
    }
}

/// The angle of the point (x, y).
pub fn arctangent(y: Value, x: Value, context: &mut Context) -> Value {
    if let Some(nan) = propagate_nan(&[x, y], context) {
        return nan;
    }
    context.note_denormals(&[x, y]);
    let pi = Wide::constant(1, PI);
    let three_quarters = pi.plus(pi.scaled(-1)).scaled(-1);
    let magnitude = match (y, x) {
        (Value::Zero(_), _) if !x.sign() => return y,
        (Value::Zero(_), _) => pi,
        (Value::Infinity(_), Value::Infinity(true)) => three_quarters,
        (Value::Infinity(_), Value::Infinity(false)) => pi.scaled(-2),
        (_, Value::Infinity(false)) => return Value::Zero(y.sign()),
        (_, Value::Infinity(true)) => pi,
        (Value::Infinity(_), _) | (_, Value::Zero(_)) => pi.scaled(-1),
        _ => {
            let (a, b) = (
                Wide {
                    sign: false,
                    ..wide(y)
                },
                Wide {
                    sign: false,
                    ..wide(x)
                },
            );
            let steep = (a.exponent, a.significand) > (b.exponent, b.significand);
            let angle = if steep {
                pi.scaled(-1).plus(atan(b.divide(a)).negated())
            } else if a.exponent - b.exponent < -60 {
                // The ratio itself, to more bits than are kept.
                let ratio = a.divide(b);
                ratio.plus(ratio.scaled(2 * ratio.exponent - 1).negated())
            } else {
                atan(a.divide(b))
            };
            if x.sign() {
                pi.plus(angle.negated())
            } else {
                angle
            }
        }
    };
    inexact(
        Wide {
            sign: y.sign(),
            ..magnitude
        },
        context,
    )
}

/// The processor's pi/2, which has 66 bits (SDM volume 1, 8.3.8), in pieces of 64, so that their products with a
/// 64-bit number are exact.
const HALF_PI: [u64; 2] = [0xC90F_DAA2_2168_C234, 0xC000_0000_0000_0000];
const TWO_OVER_PI: Wide = Wide::constant(-1, 0xA2F9_836E_4E44_1529_FC27_57D1_F534_DDC0);

/// The rest of an angle below 2^63 after whole quarter turns (between -pi/4 and pi/4), and their number.
fn reduce(n: Number) -> (Wide, i64) {
    let x = Wide::from_number(n);
    let quarters = x.multiply(TWO_OVER_PI).nearest_integer();
    let count = Wide::from_integer(quarters);
    let rest = HALF_PI.iter().enumerate().fold(x, |rest, (i, piece)| {
        let piece = from_piece(*piece, i);
        rest.plus(count.multiply(piece).negated())
    });
    (rest, quarters)
}

fn from_piece(piece: u64, index: usize) -> Wide {
    let whole = Wide::from_integer((piece >> 1) as i64).scaled(1);
    whole
        .plus(Wide::from_integer((piece & 1) as i64))
        .scaled(-63 - 64 * index as i32)
}

fn sine_series(r: Wide) -> Wide {
    series(r, r, 1)
}

fn cosine_series(r: Wide) -> Wide {
    series(Wide::ONE, r, 0)
}

/// Sums `first - first * r^2 / ((n+1)(n+2)) + ...`.
fn series(first: Wide, r: Wide, mut n: i64) -> Wide {
    let square = r.multiply(r).negated();
    let (mut sum, mut term) = (first, first);
    while !term.is_zero() && term.exponent > sum.exponent + NEGLIGIBLE {
        term = term
            .multiply(square)
            .divide(Wide::from_integer((n + 1) * (n + 2)));
        n += 2;
        sum = sum.plus(term);
    }
    sum
}

/// Sine and cosine; `None` when the argument is out of range (C2).
pub fn sine_cosine(a: Value, context: &mut Context) -> Option<(Wide, Wide)> {
    let Value::Finite(n) = a else { return None };
    if n.exponent >= 63 {
        return None;
    }
    context.note_denormals(&[a]);
    let (rest, quarters) = reduce(n);
    let (s, c) = (sine_series(rest), cosine_series(rest));
    Some(match quarters & 3 {
        0 => (s, c),
        1 => (c, s.negated()),
        2 => (s.negated(), c.negated()),
        _ => (c.negated(), s),
    })
}

/// What a trigonometric function makes of values that are not finite numbers; `None` for those that are.
pub fn trigonometric_special(a: Value, at_zero: Value, context: &mut Context) -> Option<Value> {
    if let Some(nan) = propagate_nan(&[a], context) {
        return Some(nan);
    }
    match a {
        Value::Infinity(_) => Some(context.invalid()),
        Value::Zero(_) => Some(at_zero),
        _ => None,
    }
}

/// Rounds a function's value to the 80-bit format.
pub fn rounded(value: Wide, context: &mut Context) -> Value {
    inexact(value, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(x: f64) -> Value {
        Format::DOUBLE.unpack(x.to_bits().into(), false)
    }
    fn double(value: Value) -> f64 {
        let mut context = Context::from_fcw(0x37F);
        f64::from_bits(Format::DOUBLE.pack(super::super::to_format(
            value,
            Format::DOUBLE,
            &mut context,
        )) as u64)
    }
    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= b.abs() * 4.0 * f64::EPSILON
    }

    #[test]
    fn results_are_those_of_the_hosts_library() {
        let mut context = Context::from_fcw(0x37F);
        for i in 1..200 {
            let x = f64::from(i) * 0.37;
            let (s, c) = sine_cosine(value(x), &mut context).expect("in range");
            assert!(near(double(rounded(s, &mut context)), x.sin()), "sin {x}");
            assert!(near(double(rounded(c, &mut context)), x.cos()), "cos {x}");
            assert!(
                near(
                    double(y_log2_x(value(x), Value::ONE, &mut context)),
                    x.log2()
                ),
                "log2 {x}"
            );
            assert!(
                near(
                    double(arctangent(value(x), value(-3.0), &mut context)),
                    x.atan2(-3.0)
                ),
                "atan {x}"
            );
            assert!(
                near(
                    double(arctangent(value(-1.0), value(x), &mut context)),
                    (-1f64).atan2(x)
                ),
                "atan {x}"
            );
            let y = f64::from(i - 100) / 101.0;
            assert!(
                near(
                    double(exp2_minus_1(value(y), &mut context)),
                    (y * 2f64.ln()).exp_m1()
                ),
                "2^{y}-1"
            );
            let z = y / 4.0;
            let log = double(y_log2_x_plus_1(value(z), Value::ONE, &mut context));
            assert!(near(log, z.ln_1p() / 2f64.ln()), "log2(1+{z})");
        }
    }
}
