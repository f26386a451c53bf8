//! Integer operations on values: results and flags, without operands or memory.

use crate::flags::Flags;
use crate::width::Width;

#[inline(always)]
pub fn add<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let (sum, cf, of) = a.add_carry(b, false);
    f.set_arithmetic(a, b, sum, cf, of);
    sum
}
#[inline(always)]
pub fn adc<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let (sum, cf, of) = a.add_carry(b, f.cf());
    f.set_arithmetic(a, b, sum, cf, of);
    sum
}
#[inline(always)]
pub fn sub<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let (difference, cf, of) = a.sub_borrow(b, false);
    f.set_arithmetic(a, b, difference, cf, of);
    difference
}
#[inline(always)]
pub fn sbb<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let (difference, cf, of) = a.sub_borrow(b, f.cf());
    f.set_arithmetic(a, b, difference, cf, of);
    difference
}
#[inline(always)]
pub fn and<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let result = a & b;
    f.set_logic(result);
    result
}
#[inline(always)]
pub fn or<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let result = a | b;
    f.set_logic(result);
    result
}
#[inline(always)]
pub fn xor<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let result = a ^ b;
    f.set_logic(result);
    result
}
#[inline(always)]
pub fn inc<W: Width>(f: &mut Flags, a: W) -> W {
    let one = W::cut(1);
    let (sum, _, of) = a.add_carry(one, false);
    f.set_arithmetic_keep_cf(a, one, sum, of);
    sum
}
#[inline(always)]
pub fn dec<W: Width>(f: &mut Flags, a: W) -> W {
    let one = W::cut(1);
    let (difference, _, of) = a.sub_borrow(one, false);
    f.set_arithmetic_keep_cf(a, one, difference, of);
    difference
}
#[inline(always)]
pub fn neg<W: Width>(f: &mut Flags, a: W) -> W {
    sub(f, W::cut(0), a)
}

/// The count of shifts and rotates is cut to 5 bits, to 6 for 64-bit operands.
#[inline(always)]
pub fn count<W: Width>(raw: u64) -> u32 {
    raw as u32 & if W::BITS == 64 { 63 } else { 31 }
}

#[inline(always)]
fn bit(value: u64, n: u32) -> bool {
    n < 64 && value >> n & 1 != 0
}

#[inline(always)]
pub fn shl<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let result = W::cut(a.zext() << n);
    let cf = n <= W::BITS && bit(a.zext(), W::BITS - n);
    f.set_result(result, cf, result.sign() ^ cf);
    result
}
#[inline(always)]
pub fn shr<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let before = a.zext() >> (n - 1);
    let result = W::cut(before >> 1);
    // OF is the top bit of the operand for a shift by 1, and what remains of that rule for more.
    let of = bit(before, W::BITS - 1);
    f.set_result(result, before & 1 != 0, of);
    result
}
#[inline(always)]
pub fn sar<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let before = (a.sext() as i64) >> (n - 1);
    let result = W::cut((before >> 1) as u64);
    f.set_result(result, before & 1 != 0, false);
    result
}
#[inline(always)]
pub fn rol<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let turn = n % W::BITS;
    let result = if turn == 0 {
        a
    } else {
        W::cut(a.zext() << turn | a.zext() >> (W::BITS - turn))
    };
    let cf = result.zext() & 1 != 0;
    f.set_cf(cf);
    f.set_of(result.sign() ^ cf);
    result
}
#[inline(always)]
pub fn ror<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let result = rotate_right(a, n);
    f.set_cf(result.sign());
    f.set_of(result.sign() ^ bit(result.zext(), W::BITS - 2));
    result
}
#[inline(always)]
pub fn rotate_right<W: Width>(a: W, n: u32) -> W {
    let turn = n % W::BITS;
    if turn == 0 {
        a
    } else {
        W::cut(a.zext() >> turn | a.zext() << (W::BITS - turn))
    }
}
pub fn rcl<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw) % (W::BITS + 1);
    if n == 0 {
        return a;
    }
    // CF and the operand as one number of BITS + 1 bits.
    let wide = u128::from(a.zext()) | u128::from(f.cf()) << W::BITS;
    let turned = wide << n | wide >> (W::BITS + 1 - n);
    let result = W::cut(turned as u64);
    let cf = turned >> W::BITS & 1 != 0;
    f.set_cf(cf);
    f.set_of(result.sign() ^ cf);
    result
}
pub fn rcr<W: Width>(f: &mut Flags, a: W, raw: u64) -> W {
    let n = count::<W>(raw) % (W::BITS + 1);
    if n == 0 {
        return a;
    }
    let wide = u128::from(a.zext()) | u128::from(f.cf()) << W::BITS;
    let turned = wide >> n | wide << (W::BITS + 1 - n);
    let result = W::cut(turned as u64);
    f.set_cf(turned >> W::BITS & 1 != 0);
    f.set_of(result.sign() ^ bit(result.zext(), W::BITS - 2));
    result
}
/// SHLD: `a` shifted left, filled from the top of `b`. Counts above 16 with 16-bit operands take `b:a:b`.
pub fn shld<W: Width>(f: &mut Flags, a: W, b: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let wide = if W::BITS == 16 {
        // Bits from the top: a, b, a.
        (u128::from(a.zext()) << 32 | u128::from(b.zext()) << 16 | u128::from(a.zext())) << n
    } else {
        (u128::from(a.zext()) << W::BITS | u128::from(b.zext())) << n
    };
    let top = if W::BITS == 16 { 32 } else { W::BITS };
    let result = W::cut((wide >> top) as u64);
    let cf = if W::BITS == 64 {
        bit(a.zext(), 64 - n)
    } else {
        wide >> (top + W::BITS) & 1 != 0
    };
    f.set_result(result, cf, result.sign() ^ a.sign());
    result
}
pub fn shrd<W: Width>(f: &mut Flags, a: W, b: W, raw: u64) -> W {
    let n = count::<W>(raw);
    if n == 0 {
        return a;
    }
    let wide = if W::BITS == 16 {
        u128::from(a.zext()) << 32 | u128::from(b.zext()) << 16 | u128::from(a.zext())
    } else {
        u128::from(b.zext()) << W::BITS | u128::from(a.zext())
    };
    let result = W::cut((wide >> n) as u64);
    let cf = wide >> (n - 1) & 1 != 0;
    f.set_result(result, cf, result.sign() ^ a.sign());
    result
}

/// IMUL of two or three operands: CF and OF when the product does not fit; SF, ZF, PF by the result.
#[inline(always)]
pub fn imul<W: Width>(f: &mut Flags, a: W, b: W) -> W {
    let product = i128::from(a.sext() as i64) * i128::from(b.sext() as i64);
    let result = W::cut(product as u64);
    let lost = product != i128::from(result.sext() as i64);
    f.set_result(result, lost, lost);
    result
}

pub fn pdep(source: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    let mut k = 0;
    while mask != 0 {
        let low = mask & mask.wrapping_neg();
        if source >> k & 1 != 0 {
            result |= low;
        }
        mask ^= low;
        k += 1;
    }
    result
}

pub fn pext(source: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    let mut k = 0;
    while mask != 0 {
        let low = mask & mask.wrapping_neg();
        if source & low != 0 {
            result |= 1 << k;
        }
        mask ^= low;
        k += 1;
    }
    result
}

/// One step of CRC-32C for each byte, low byte first.
pub fn crc32c(mut crc: u32, value: u64, bytes: usize) -> u32 {
    for byte in &value.to_le_bytes()[..bytes] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_through_carry_come_back_after_all_bits() {
        let mut f = Flags::from_rflags(1);
        let mut value = 0xA5u8;
        for _ in 0..9 {
            value = rcl(&mut f, value, 1);
        }
        assert_eq!((value, f.cf()), (0xA5, true));
        for _ in 0..9 {
            value = rcr(&mut f, value, 1);
        }
        assert_eq!((value, f.cf()), (0xA5, true));
    }

    #[test]
    fn pext_undoes_pdep() {
        assert_eq!(pdep(0b1011, 0xF0F0), 0b1011_0000);
        assert_eq!(pext(pdep(0x5A, 0xFF00_FF00), 0xFF00_FF00), 0x5A);
    }

    #[test]
    fn crc32c_of_the_check_string_is_the_published_value() {
        let crc = b"123456789"
            .iter()
            .fold(u32::MAX, |crc, b| crc32c(crc, u64::from(*b), 1));
        assert_eq!(!crc, 0xE306_9283);
    }
}
