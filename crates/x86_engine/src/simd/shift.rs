//! Packed shifts by one count for all lanes, given as an immediate or as the low 64 bits of a register or memory operand.

use iced_x86::Mnemonic;

use super::lanes::map;

/// A shift of one 128-bit lane by a count that may be larger than the lane.
pub type Shift = fn(u128, u64) -> u128;

/// The operation of `mnemonic`, if it is of this family.
pub fn shift(mnemonic: Mnemonic) -> Option<Shift> {
    use Mnemonic::*;
    Some(match mnemonic {
        Psllw | Vpsllw => |a, n| if n < 16 { map(a, |x: u16| x << n) } else { 0 },
        Pslld | Vpslld => |a, n| if n < 32 { map(a, |x: u32| x << n) } else { 0 },
        Psllq | Vpsllq => |a, n| if n < 64 { map(a, |x: u64| x << n) } else { 0 },
        Psrlw | Vpsrlw => |a, n| if n < 16 { map(a, |x: u16| x >> n) } else { 0 },
        Psrld | Vpsrld => |a, n| if n < 32 { map(a, |x: u32| x >> n) } else { 0 },
        Psrlq | Vpsrlq => |a, n| if n < 64 { map(a, |x: u64| x >> n) } else { 0 },
        Psraw | Vpsraw => |a, n| map(a, |x: i16| x >> n.min(15)),
        Psrad | Vpsrad => |a, n| map(a, |x: i32| x >> n.min(31)),
        // Bytes, and only as an immediate.
        Pslldq | Vpslldq => |a, n| if n < 16 { a << (8 * n) } else { 0 },
        Psrldq | Vpsrldq => |a, n| if n < 16 { a >> (8 * n) } else { 0 },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_the_lane_clear_or_fill_with_the_sign() {
        let run = |m, a, n| shift(m).expect("in the table")(a, n);
        assert_eq!(run(Mnemonic::Psllw, 0x8001, 16), 0);
        assert_eq!(run(Mnemonic::Psraw, 0x8001, u64::MAX), 0xFFFF);
        assert_eq!(run(Mnemonic::Psrldq, 0x0102, 1), 1);
    }
}
