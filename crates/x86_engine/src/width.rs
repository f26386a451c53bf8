//! Operand widths: one body of code for 8, 16, 32 and 64 bits.

use core::ops::{BitAnd, BitOr, BitXor, Not};
use x86_arch::RamPage;

/// An integer of an operand's width.
pub trait Width:
    Copy
    + Eq
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
    + 'static
{
    const BITS: u32;
    const BYTES: usize;
    fn cut(value: u64) -> Self;
    fn zext(self) -> u64;
    fn sext(self) -> u64;
    fn add_carry(self, other: Self, carry: bool) -> (Self, bool, bool);
    fn sub_borrow(self, other: Self, borrow: bool) -> (Self, bool, bool);
    fn load<P: RamPage>(page: &P, offset: usize) -> Self;
    fn store<P: RamPage>(self, page: &P, offset: usize);
    fn is_zero(self) -> bool {
        self.zext() == 0
    }
    fn sign(self) -> bool {
        (self.sext() as i64) < 0
    }
}

macro_rules! width {
    ($u:ty, $i:ty, $load:ident, $store:ident) => {
        impl Width for $u {
            const BITS: u32 = <$u>::BITS;
            const BYTES: usize = size_of::<$u>();
            #[inline(always)]
            fn cut(value: u64) -> Self {
                value as $u
            }
            #[inline(always)]
            fn zext(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn sext(self) -> u64 {
                self as $i as i64 as u64
            }
            #[inline(always)]
            fn add_carry(self, other: Self, carry: bool) -> (Self, bool, bool) {
                let (partial, c1) = self.overflowing_add(other);
                let (sum, c2) = partial.overflowing_add(<$u>::from(carry));
                let overflow = ((self ^ sum) & (other ^ sum)) as $i < 0;
                (sum, c1 | c2, overflow)
            }
            #[inline(always)]
            fn sub_borrow(self, other: Self, borrow: bool) -> (Self, bool, bool) {
                let (partial, c1) = self.overflowing_sub(other);
                let (difference, c2) = partial.overflowing_sub(<$u>::from(borrow));
                let overflow = ((self ^ other) & (self ^ difference)) as $i < 0;
                (difference, c1 | c2, overflow)
            }
            #[inline(always)]
            fn load<P: RamPage>(page: &P, offset: usize) -> Self {
                page.$load(offset)
            }
            #[inline(always)]
            fn store<P: RamPage>(self, page: &P, offset: usize) {
                page.$store(offset, self)
            }
        }
    };
}
width!(u8, i8, load_u8, store_u8);
width!(u16, i16, load_u16, store_u16);
width!(u32, i32, load_u32, store_u32);
width!(u64, i64, load_u64, store_u64);
