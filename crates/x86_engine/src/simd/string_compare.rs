//! SSE4.2's string comparisons (PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM).

use super::lanes::{Lane, build};

/// What a comparison yields before it is written as index or mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// A bit for each element of the second operand.
    pub result: u16,
    /// Elements per operand: 8 or 16.
    pub elements: u32,
    pub first_ends: bool,
    pub second_ends: bool,
}

impl Comparison {
    /// The index that goes into ECX.
    pub fn index(self, control: u8) -> u32 {
        match (self.result, control & 0x40 != 0) {
            (0, _) => self.elements,
            (bits, false) => bits.trailing_zeros(),
            (bits, true) => 15 - bits.leading_zeros(),
        }
    }

    /// The mask that goes into XMM0.
    pub fn mask(self, control: u8) -> u128 {
        let bit = |i| self.result >> i & 1 != 0;
        match (control & 0x40 != 0, self.elements) {
            (false, _) => u128::from(self.result),
            (true, 8) => build(|i| if bit(i) { u16::MAX } else { 0 }),
            (true, _) => build(|i| if bit(i) { u8::MAX } else { 0 }),
        }
    }
}

/// Compares with lengths given in registers, as signed numbers whose absolute value saturates.
pub fn explicit(a: u128, a_length: i64, b: u128, b_length: i64, control: u8) -> Comparison {
    let elements = elements(control);
    let length = |n: i64| n.unsigned_abs().min(u64::from(elements)) as u32;
    compare(a, length(a_length), b, length(b_length), control)
}

/// Compares up to the first zero element of each operand.
pub fn implicit(a: u128, b: u128, control: u8) -> Comparison {
    let elements = elements(control);
    let length = |v| {
        (0..elements)
            .find(|&i| element(v, i, control) == 0)
            .unwrap_or(elements)
    };
    compare(a, length(a), b, length(b), control)
}

fn elements(control: u8) -> u32 {
    if control & 1 != 0 { 8 } else { 16 }
}

/// Element `index`, sign-extended when the format is signed.
fn element(v: u128, index: u32, control: u8) -> i32 {
    let index = index as usize;
    match control & 3 {
        0 => i32::from(u8::get(v, index)),
        1 => i32::from(u16::get(v, index)),
        2 => i32::from(i8::get(v, index)),
        _ => i32::from(i16::get(v, index)),
    }
}

fn compare(a: u128, a_length: u32, b: u128, b_length: u32, control: u8) -> Comparison {
    let elements = elements(control);
    let a_at = |i| element(a, i, control);
    let b_at = |i| element(b, i, control);
    let mut result = 0u16;
    for j in 0..elements {
        let b_valid = j < b_length;
        let holds = match control >> 2 & 3 {
            // Equal any: is b[j] in the set a?
            0 => b_valid && (0..a_length).any(|i| a_at(i) == b_at(j)),
            // Ranges: is b[j] between a pair of a?
            1 => {
                b_valid
                    && (0..a_length / 2)
                        .any(|i| a_at(2 * i) <= b_at(j) && b_at(j) <= a_at(2 * i + 1))
            }
            // Equal each: two elements past both ends are equal.
            2 => match (j < a_length, b_valid) {
                (true, true) => a_at(j) == b_at(j),
                (false, false) => true,
                _ => false,
            },
            // Equal ordered: does a start at b[j]? What runs past the vector's end still counts.
            _ => {
                (0..a_length.min(elements - j)).all(|i| j + i < b_length && a_at(i) == b_at(j + i))
            }
        };
        result |= u16::from(holds) << j;
    }
    let all = if elements == 8 { 0xFF } else { 0xFFFF };
    let valid = ((1u32 << b_length) - 1) as u16;
    match control >> 4 & 3 {
        1 => result ^= all,
        3 => result ^= valid,
        _ => {}
    }
    Comparison {
        result,
        elements,
        first_ends: a_length < elements,
        second_ends: b_length < elements,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> u128 {
        s.bytes()
            .enumerate()
            .fold(0, |v, (i, byte)| v | u128::from(byte) << (8 * i))
    }

    #[test]
    fn a_substring_is_found_where_it_starts() {
        let found = implicit(text("lo"), text("hello"), 0x0C);
        assert_eq!(found.index(0x0C), 3);
        assert!(found.first_ends && found.second_ends);
    }

    #[test]
    fn lengths_saturate_and_ignore_their_sign() {
        let c = explicit(text("a"), i64::MIN, text("xxa"), -3, 0);
        assert_eq!(c.result, 0b100);
        assert!(!c.first_ends);
    }
}
