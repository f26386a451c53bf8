//! GFNI: arithmetic in GF(2^8) with the polynomial of AES, x^8 + x^4 + x^3 + x + 1.

use super::lanes::{Lane, build};

/// The product in the field.
pub const fn multiply(a: u8, b: u8) -> u8 {
    let mut product = 0;
    let mut power = a;
    let mut bit = 0;
    while bit < 8 {
        if b >> bit & 1 != 0 {
            product ^= power;
        }
        power = power << 1 ^ (0x1B & 0u8.wrapping_sub(power >> 7));
        bit += 1;
    }
    product
}

/// The inverse in the field; 0 for 0.
pub const fn inverse(a: u8) -> u8 {
    // a^254 = a^2 * a^4 * ... * a^128
    let mut square = a;
    let mut result = 1;
    let mut i = 0;
    while i < 7 {
        square = multiply(square, square);
        result = multiply(result, square);
        i += 1;
    }
    result
}

/// The affine map of each byte of `x` (or of its inverse) by the 8x8 bit matrix of its quadword in `matrix`.
pub fn affine(x: u128, matrix: u128, constant: u8, inverted: bool) -> u128 {
    build(|i| {
        let rows = u64::get(matrix, i / 8).to_be_bytes();
        let byte = u8::get(x, i);
        let byte = if inverted { inverse(byte) } else { byte };
        let mut result = constant;
        for (bit, row) in rows.iter().enumerate() {
            result ^= ((row & byte).count_ones() as u8 & 1) << bit;
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_but_zero_times_its_inverse_is_one() {
        assert_eq!(inverse(0), 0);
        assert!((1..=255).all(|a| multiply(a, inverse(a)) == 1));
    }

    #[test]
    fn the_identity_matrix_changes_nothing() {
        let x = 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210;
        let identity = 0x0102_0408_1020_4080_0102_0408_1020_4080;
        assert_eq!(affine(x, identity, 0, false), x);
    }
}
