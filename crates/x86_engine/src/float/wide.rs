//! Numbers with 128 significant bits, for the transcendental functions. Results are truncated, not rounded: what is
//! lost is far below the 64 bits that are kept in the end.

use super::{Number, Value};

pub const PI: u128 = 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1;
pub const LN_2: u128 = 0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF;
pub const LOG2_E: u128 = 0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E88;
pub const LOG2_10: u128 = 0xD49A_784B_CD1B_8AFE_492B_F6FF_4DAF_DB4C;
pub const LOG10_2: u128 = 0x9A20_9A84_FBCF_F798_8F89_59AC_0B7C_9178;

/// `significand * 2^(exponent - 127)`, bit 127 set; or zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wide {
    pub sign: bool,
    pub exponent: i32,
    pub significand: u128,
}

impl Wide {
    pub const ZERO: Self = Self {
        sign: false,
        exponent: 0,
        significand: 0,
    };
    pub const ONE: Self = Self::constant(0, 1 << 127);

    pub const fn constant(exponent: i32, significand: u128) -> Self {
        Self {
            sign: false,
            exponent,
            significand,
        }
    }

    pub fn from_number(n: Number) -> Self {
        Self {
            sign: n.sign,
            exponent: n.exponent,
            significand: u128::from(n.significand) << 64,
        }
    }

    pub fn from_integer(value: i64) -> Self {
        Self::normal(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    fn normal(sign: bool, exponent: i32, significand: u128) -> Self {
        if significand == 0 {
            return Self::ZERO;
        }
        let shift = significand.leading_zeros();
        Self {
            sign,
            exponent: exponent - shift as i32,
            significand: significand << shift,
        }
    }

    pub fn is_zero(self) -> bool {
        self.significand == 0
    }

    pub fn negated(self) -> Self {
        Self {
            sign: !self.sign,
            ..self
        }
    }

    /// Times a power of two.
    pub fn scaled(self, by: i32) -> Self {
        Self {
            exponent: self.exponent + by,
            ..self
        }
    }

    pub fn plus(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (big, small) =
            if (self.exponent, self.significand) >= (other.exponent, other.significand) {
                (self, other)
            } else {
                (other, self)
            };
        let shift = (big.exponent - small.exponent) as u32;
        let aligned = if shift < 128 {
            small.significand >> shift
        } else {
            0
        };
        if big.sign != small.sign {
            return Self::normal(big.sign, big.exponent, big.significand - aligned);
        }
        match big.significand.checked_add(aligned) {
            Some(sum) => Self {
                significand: sum,
                ..big
            },
            None => Self {
                sign: big.sign,
                exponent: big.exponent + 1,
                significand: big.significand.wrapping_add(aligned) >> 1 | 1 << 127,
            },
        }
    }

    pub fn multiply(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        let high = high_product(self.significand, other.significand);
        Self::normal(
            self.sign != other.sign,
            self.exponent + other.exponent + 1,
            high,
        )
    }

    pub fn divide(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        // Bit by bit; the remainder has up to 129 bits.
        let mut rest = self.significand;
        let mut exponent = self.exponent - other.exponent;
        let mut carry = false;
        if rest < other.significand {
            carry = rest >> 127 != 0;
            rest <<= 1;
            exponent -= 1;
        }
        let mut quotient = 0u128;
        for _ in 0..128 {
            quotient <<= 1;
            if carry || rest >= other.significand {
                rest = rest.wrapping_sub(other.significand);
                quotient |= 1;
            }
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        Self {
            sign: self.sign != other.sign,
            exponent,
            significand: quotient,
        }
    }

    /// The nearest integer; must be below 2^63 in magnitude.
    pub fn nearest_integer(self) -> i64 {
        let magnitude = match self.exponent {
            0..63 => {
                let whole = self.significand >> (126 - self.exponent);
                ((whole >> 1) + (whole & 1)) as i64
            }
            -1 => i64::from(!self.is_zero()),
            _ => 0,
        };
        if self.sign { -magnitude } else { magnitude }
    }
}

/// The upper 128 bits of a product.
fn high_product(a: u128, b: u128) -> u128 {
    let low = u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, a & low, b >> 64, b & low);
    let middle = a1 * b0 + (a0 * b0 >> 64);
    let other = a0 * b1 + (middle & low);
    a1 * b1 + (middle >> 64) + (other >> 64)
}

/// A finite value other than zero.
pub fn wide(value: Value) -> Wide {
    match value {
        Value::Finite(n) => Wide::from_number(n),
        _ => Wide::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotient_times_the_divisor_is_the_dividend() {
        let (a, b) = (Wide::constant(1, PI), Wide::constant(-1, LN_2));
        let back = a.divide(b).multiply(b);
        assert!(back.significand.abs_diff(a.significand) < 8 && back.exponent == a.exponent);
        assert_eq!(
            Wide::from_integer(-7)
                .divide(Wide::from_integer(2))
                .scaled(1),
            Wide::from_integer(-7)
        );
    }

    #[test]
    fn the_constants_fit_together() {
        let one = Wide::constant(-1, LN_2).multiply(Wide::constant(0, LOG2_E));
        assert!(one.plus(Wide::ONE.negated()).exponent < -120);
        let one = Wide::constant(1, LOG2_10).multiply(Wide::constant(-2, LOG10_2));
        assert!(one.plus(Wide::ONE.negated()).exponent < -120);
    }
}
