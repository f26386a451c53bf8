//! Carry-less multiplication (PCLMULQDQ).

/// The 127-bit product of two polynomials over GF(2).
pub fn multiply(a: u64, b: u64) -> u128 {
    // The sixteen multiples of `a` by polynomials of degree below 4; then a nibble of `b` at a time.
    let mut multiples = [0u128; 16];
    multiples[1] = u128::from(a);
    for n in 2..16 {
        multiples[n] = multiples[n / 2] << 1 ^ multiples[n & 1];
    }
    (0..16).rev().fold(0, |product, nibble| {
        product << 4 ^ multiples[(b >> (4 * nibble) & 15) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_spread_the_bits() {
        assert_eq!(multiply(0xF, 0xF), 0x55);
        assert_eq!(multiply(u64::MAX, 1), u128::from(u64::MAX));
        assert_eq!(multiply(1 << 63, 1 << 63), 1 << 126);
    }
}
