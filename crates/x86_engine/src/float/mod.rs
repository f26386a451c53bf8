//! IEEE 754 arithmetic in integers, as x86 does it: exact exception flags, rounding modes, denormals and NaN rules
//! of SSE/AVX (binary16, 32, 64) and of x87 (80-bit with precision control).
//!
//! Operations take and give [`Value`]s; [`Format::unpack`] and [`Format::pack`] are the edges. A [`Context`] holds the
//! control bits of MXCSR or FCW and collects what one operation raised. Nothing here uses the host's floating point, so
//! the result does not depend on the host.

mod arithmetic;
mod convert;
pub mod decimal;
pub mod remainder;
mod round;
pub mod transcendental;
pub mod wide;

pub use arithmetic::{add, compare, divide, fused_multiply_add, multiply, square_root, subtract};
pub use convert::{from_integer, to_format, to_integer, to_integral};
pub use round::round;

/// Exception flags, at the bit positions of MXCSR and FSW.
pub mod flag {
    pub const INVALID: u8 = 1;
    pub const DENORMAL: u8 = 2;
    pub const ZERO_DIVIDE: u8 = 4;
    pub const OVERFLOW: u8 = 8;
    pub const UNDERFLOW: u8 = 16;
    pub const INEXACT: u8 = 32;
    /// Those found before the operation is done: they suppress the others when unmasked.
    pub const BEFORE: u8 = INVALID | DENORMAL | ZERO_DIVIDE;
}

/// Rounding control, in the encoding of MXCSR.RC and FCW.RC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    /// Reads the low two bits.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// How one operation rounds and which exceptions are masked; collects what it raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    pub rounding: Rounding,
    /// MXCSR.DAZ.
    pub denormals_are_zero: bool,
    /// MXCSR.FTZ; acts only while underflow is masked.
    pub flush_to_zero: bool,
    /// Set bits are masked exceptions.
    pub masks: u8,
    /// x87: NaN rules of the x87, and the significand's length for results in the 80-bit format.
    pub x87: bool,
    pub precision: u32,
    /// Raised so far.
    pub raised: u8,
    /// x87's C1: the last rounding went away from zero.
    pub rounded_up: bool,
    /// Raised by steps that are complete, where an instruction has several (DPPS): a later step's fault keeps them.
    pub settled: u8,
}

impl Context {
    /// The control bits of an MXCSR value; its sticky flags are not taken over.
    pub const fn from_mxcsr(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_bits(mxcsr >> 13),
            denormals_are_zero: mxcsr & 1 << 6 != 0,
            flush_to_zero: mxcsr & 1 << 15 != 0,
            masks: (mxcsr >> 7) as u8 & 0x3F,
            x87: false,
            precision: 64,
            raised: 0,
            rounded_up: false,
            settled: 0,
        }
    }

    /// The control bits of an x87 control word. The reserved precision 1 acts as 64 bits.
    pub const fn from_fcw(fcw: u16) -> Self {
        Self {
            rounding: Rounding::from_bits(fcw as u32 >> 10),
            denormals_are_zero: false,
            flush_to_zero: false,
            masks: fcw as u8 & 0x3F,
            x87: true,
            precision: match fcw >> 8 & 3 {
                0 => 24,
                2 => 53,
                _ => 64,
            },
            raised: 0,
            rounded_up: false,
            settled: 0,
        }
    }

    pub const fn raise(&mut self, flags: u8) {
        self.raised |= flags;
    }

    pub const fn is_masked(&self, flags: u8) -> bool {
        self.masks & flags == flags
    }

    /// Raises invalid and gives the answer to it.
    pub const fn invalid(&mut self) -> Value {
        self.raise(flag::INVALID);
        Value::INDEFINITE
    }

    /// Raises denormal-operand if an operand is one.
    pub fn note_denormals(&mut self, operands: &[Value]) {
        if operands
            .iter()
            .any(|v| matches!(v, Value::Finite(n) if n.denormal))
        {
            self.raise(flag::DENORMAL);
        }
    }
}

/// A finite number other than zero: `significand * 2^(exponent - 63)`, bit 63 of the significand set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    pub sign: bool,
    pub exponent: i32,
    pub significand: u64,
    /// It came from a denormal (or pseudo-denormal) encoding.
    pub denormal: bool,
}

/// What a floating-point encoding stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    Zero(bool),
    Finite(Number),
    Infinity(bool),
    /// Bit 63 is set, bit 62 tells quiet from signalling, the payload follows.
    Nan {
        sign: bool,
        significand: u64,
    },
    /// An 80-bit encoding that the x87 has no meaning for (unnormal, pseudo-infinity, pseudo-NaN).
    Unsupported,
}

const QUIET: u64 = 1 << 62;

impl Value {
    /// The NaN that stands for "invalid".
    pub const INDEFINITE: Self = Self::Nan {
        sign: true,
        significand: 3 << 62,
    };

    pub const ONE: Self = Self::Finite(Number {
        sign: false,
        exponent: 0,
        significand: 1 << 63,
        denormal: false,
    });

    pub const fn is_nan(self) -> bool {
        matches!(self, Self::Nan { .. })
    }

    pub const fn is_signalling(self) -> bool {
        matches!(self, Self::Nan { significand, .. } if significand & QUIET == 0)
    }

    pub const fn sign(self) -> bool {
        match self {
            Self::Zero(sign) | Self::Infinity(sign) | Self::Nan { sign, .. } => sign,
            Self::Finite(n) => n.sign,
            Self::Unsupported => false,
        }
    }

    /// With the sign given; also for NaNs.
    pub const fn with_sign(self, sign: bool) -> Self {
        match self {
            Self::Zero(_) => Self::Zero(sign),
            Self::Infinity(_) => Self::Infinity(sign),
            Self::Nan { significand, .. } => Self::Nan { sign, significand },
            Self::Finite(n) => Self::Finite(Number { sign, ..n }),
            Self::Unsupported => Self::Unsupported,
        }
    }

    pub const fn negated(self) -> Self {
        self.with_sign(!self.sign())
    }

    pub const fn quieted(self) -> Self {
        match self {
            Self::Nan { sign, significand } => Self::Nan {
                sign,
                significand: significand | QUIET,
            },
            other => other,
        }
    }
}

/// The NaN that an operation on `operands` gives, if one of them is a NaN; raises invalid for signalling ones.
///
/// SSE takes the first NaN. x87 takes the NaN with the larger significand, but a quiet one before a signalling one
/// (SDM volume 1, table 4-7).
pub fn propagate_nan(operands: &[Value], context: &mut Context) -> Option<Value> {
    if operands.contains(&Value::Unsupported) {
        return Some(context.invalid());
    }
    if operands.iter().any(|v| v.is_signalling()) {
        context.raise(flag::INVALID);
    }
    let mut nans = operands.iter().copied().filter(|v| v.is_nan());
    let first = nans.next()?;
    if !context.x87 {
        return Some(first.quieted());
    }
    let chosen = nans.fold(first, |best, next| match (best, next) {
        (
            Value::Nan {
                significand: a,
                sign,
            },
            Value::Nan {
                significand: b,
                sign: other,
            },
        ) => match (a & QUIET != 0, b & QUIET != 0) {
            (true, false) => best,
            (false, true) => next,
            _ if a > b || a == b && !sign => best,
            _ if a == b && other => best,
            _ => next,
        },
        _ => best,
    });
    Some(chosen.quieted())
}

/// A binary interchange format, or x87's 80-bit format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Significant bits, the leading one included.
    pub precision: u32,
    pub exponent_bits: u32,
    /// The leading bit is stored.
    pub explicit: bool,
}

impl Format {
    pub const HALF: Self = Self {
        precision: 11,
        exponent_bits: 5,
        explicit: false,
    };
    pub const SINGLE: Self = Self {
        precision: 24,
        exponent_bits: 8,
        explicit: false,
    };
    pub const DOUBLE: Self = Self {
        precision: 53,
        exponent_bits: 11,
        explicit: false,
    };
    pub const EXTENDED: Self = Self {
        precision: 64,
        exponent_bits: 15,
        explicit: true,
    };

    pub const fn max_exponent(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    pub const fn min_exponent(self) -> i32 {
        1 - self.max_exponent()
    }

    /// Bits of the stored significand.
    const fn stored(self) -> u32 {
        self.precision - !self.explicit as u32
    }

    /// Reads an encoding. With `denormals_are_zero` a denormal is a zero of its sign.
    pub const fn unpack(self, bits: u128, denormals_are_zero: bool) -> Value {
        let stored = self.stored();
        let sign = bits >> (stored + self.exponent_bits) & 1 != 0;
        let all_ones = (1 << self.exponent_bits) - 1;
        let exponent = (bits >> stored) as i32 & all_ones;
        // The fraction at the top, its leading bit included only where it is stored.
        let fraction =
            ((bits as u64) << (64 - self.precision)) & !(((!self.explicit) as u64) << 63);
        let leading = 1 << 63;
        if exponent == all_ones {
            if self.explicit && fraction & leading == 0 {
                return Value::Unsupported;
            }
            return match fraction & !leading {
                0 => Value::Infinity(sign),
                payload => Value::Nan {
                    sign,
                    significand: payload | leading,
                },
            };
        }
        if exponent == 0 {
            if fraction == 0 || denormals_are_zero {
                return Value::Zero(sign);
            }
            let shift = fraction.leading_zeros();
            return Value::Finite(Number {
                sign,
                exponent: self.min_exponent() - shift as i32,
                significand: fraction << shift,
                denormal: true,
            });
        }
        if self.explicit && fraction & leading == 0 {
            return Value::Unsupported;
        }
        Value::Finite(Number {
            sign,
            exponent: exponent - self.max_exponent(),
            significand: fraction | leading,
            denormal: false,
        })
    }

    /// Writes an encoding. A number must already be rounded to this format; NaN payloads are cut.
    pub const fn pack(self, value: Value) -> u128 {
        let stored = self.stored();
        let all_ones = (1u128 << self.exponent_bits) - 1;
        let drop = 64 - self.precision;
        let mask = (1u128 << stored) - 1;
        let (exponent, significand) = match value {
            Value::Zero(_) => (0, 0),
            Value::Infinity(_) => (all_ones, 1 << 63),
            Value::Nan { significand, .. } => (all_ones, significand),
            Value::Unsupported => (all_ones, 3 << 62),
            Value::Finite(n) if n.exponent < self.min_exponent() => {
                let shift = (self.min_exponent() - n.exponent) as u32;
                (
                    0,
                    if shift < 64 {
                        n.significand >> shift
                    } else {
                        0
                    },
                )
            }
            // A result of an unmasked overflow in SSE: nobody sees it.
            Value::Finite(n) if n.exponent > self.max_exponent() => (all_ones, 1 << 63),
            Value::Finite(n) => ((n.exponent + self.max_exponent()) as u128, n.significand),
        };
        let sign = matches!(value, Value::Unsupported) || value.sign();
        (sign as u128) << (stored + self.exponent_bits)
            | exponent << stored
            | (significand >> drop) as u128 & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_packs_to_the_same_bits() {
        for bits in [
            0u32,
            1,
            0x7F_FFFF,
            0x80_0000,
            0x3F80_0000,
            0x7F80_0000,
            0x7FC0_0001,
            0xFF80_0001,
            0x8000_0001,
        ] {
            assert_eq!(
                Format::SINGLE.pack(Format::SINGLE.unpack(bits.into(), false)),
                bits.into(),
                "{bits:x}"
            );
        }
        for bits in [0u16, 1, 0x3FF, 0x400, 0x7BFF, 0xFC00, 0x7E01] {
            assert_eq!(
                Format::HALF.pack(Format::HALF.unpack(bits.into(), false)),
                bits.into(),
                "{bits:x}"
            );
        }
        let one = 0x3FFF_8000_0000_0000_0000;
        assert_eq!(Format::EXTENDED.unpack(one, false), Value::ONE);
        assert_eq!(Format::EXTENDED.pack(Value::ONE), one);
    }

    #[test]
    fn unnormals_are_unsupported() {
        assert_eq!(
            Format::EXTENDED.unpack(0x3FFF_4000_0000_0000_0000, false),
            Value::Unsupported
        );
        assert_eq!(
            Format::EXTENDED.unpack(0x7FFF_0000_0000_0000_0000, false),
            Value::Unsupported
        );
    }
}
