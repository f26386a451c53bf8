//! Carry-less multiplication (PCLMULQDQ).

/// The 127-bit product of two polynomials over GF(2).
pub fn multiply(a: u64, b: u64) -> u128 {
    let a = u128::from(a);
    let mut product = 0;
    for bit in 0..64 {
        // A mask, not a branch: the bits are as good as random.
        product ^= (a << bit) & 0u128.wrapping_sub(u128::from(b >> bit & 1));
    }
    product
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
