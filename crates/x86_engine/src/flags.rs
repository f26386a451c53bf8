//! RFLAGS: the arithmetic flags are kept as the last result and its carries, and are put together on demand.

use crate::width::Width;

pub const CF: u64 = 1 << 0;
pub const PF: u64 = 1 << 2;
pub const AF: u64 = 1 << 4;
pub const ZF: u64 = 1 << 6;
pub const SF: u64 = 1 << 7;
pub const TF: u64 = 1 << 8;
pub const IF: u64 = 1 << 9;
pub const DF: u64 = 1 << 10;
pub const OF: u64 = 1 << 11;
pub const IOPL: u64 = 3 << 12;
pub const NT: u64 = 1 << 14;
pub const RF: u64 = 1 << 16;
pub const VM: u64 = 1 << 17;
pub const AC: u64 = 1 << 18;
pub const VIF: u64 = 1 << 19;
pub const VIP: u64 = 1 << 20;
pub const ID: u64 = 1 << 21;
/// The six flags that arithmetic sets.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// Bits that exist in RFLAGS apart from the fixed bit 1.
pub const DEFINED: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;

/// The arithmetic flags, lazily.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags {
    /// Sign-extended result: ZF when 0, SF its top bit, PF its low byte.
    result: u64,
    /// AF is bit 4 of this XOR `result`.
    aux: u64,
    cf: bool,
    of: bool,
    /// Inverts SF and (bitwise) the byte PF looks at: only loads of RFLAGS need these.
    sf_invert: bool,
    pf_invert: u8,
}

impl Default for Flags {
    fn default() -> Self {
        Flags::from_rflags(0)
    }
}

impl Flags {
    pub fn from_rflags(rflags: u64) -> Flags {
        let result = u64::from(rflags & ZF == 0);
        // Parity of 0 is even, of 1 odd.
        let even = result == 0;
        Flags {
            result,
            aux: result ^ (rflags & AF),
            cf: rflags & CF != 0,
            of: rflags & OF != 0,
            sf_invert: rflags & SF != 0,
            pf_invert: u8::from(even != (rflags & PF != 0)),
        }
    }
    /// The six flags as RFLAGS bits.
    #[inline]
    pub fn bits(&self) -> u64 {
        u64::from(self.cf)
            | u64::from(self.pf()) << 2
            | ((self.aux ^ self.result) & AF)
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of) << 11
    }
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.cf
    }
    #[inline(always)]
    pub fn of(&self) -> bool {
        self.of
    }
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }
    #[inline(always)]
    pub fn sf(&self) -> bool {
        ((self.result as i64) < 0) ^ self.sf_invert
    }
    #[inline(always)]
    pub fn pf(&self) -> bool {
        (self.result as u8 ^ self.pf_invert).count_ones() & 1 == 0
    }
    pub fn af(&self) -> bool {
        (self.aux ^ self.result) & AF != 0
    }
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        self.cf = cf;
    }
    #[inline(always)]
    pub fn set_of(&mut self, of: bool) {
        self.of = of;
    }
    /// Replaces the flags in `mask` by those of `values`.
    pub fn set(&mut self, mask: u64, values: u64) {
        *self = Flags::from_rflags(self.bits() & !mask | values & mask);
    }
    /// After an addition or subtraction of `a` and `b`.
    #[inline(always)]
    pub fn set_arithmetic<W: Width>(&mut self, a: W, b: W, result: W, cf: bool, of: bool) {
        self.cf = cf;
        self.set_arithmetic_keep_cf(a, b, result, of);
    }
    /// After INC or DEC.
    #[inline(always)]
    pub fn set_arithmetic_keep_cf<W: Width>(&mut self, a: W, b: W, result: W, of: bool) {
        self.result = result.sext();
        self.aux = (a ^ b).zext();
        self.of = of;
        self.sf_invert = false;
        self.pf_invert = 0;
    }
    /// After a logical operation: CF, OF and (as processors do) AF are clear.
    #[inline(always)]
    pub fn set_logic<W: Width>(&mut self, result: W) {
        self.set_result(result, false, false);
    }
    /// ZF, SF, PF by `result`, AF clear, CF and OF as given.
    #[inline(always)]
    pub fn set_result<W: Width>(&mut self, result: W, cf: bool, of: bool) {
        self.result = result.sext();
        self.aux = self.result;
        self.cf = cf;
        self.of = of;
        self.sf_invert = false;
        self.pf_invert = 0;
    }
    /// A condition by its x86 encoding (0 O, 1 NO, 2 B … 15 G).
    #[inline(always)]
    pub fn condition(&self, code: u8) -> bool {
        let value = match code >> 1 & 7 {
            0 => self.of,
            1 => self.cf,
            2 => self.zf(),
            3 => self.cf | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() ^ self.of,
            _ => self.zf() | (self.sf() ^ self.of),
        };
        value ^ (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_the_six_flags_survives_a_round_trip() {
        for n in 0..64u64 {
            let rflags = [CF, PF, AF, ZF, SF, OF]
                .iter()
                .enumerate()
                .fold(
                    0,
                    |acc, (i, bit)| if n >> i & 1 != 0 { acc | bit } else { acc },
                );
            assert_eq!(Flags::from_rflags(rflags).bits(), rflags);
        }
    }
}
