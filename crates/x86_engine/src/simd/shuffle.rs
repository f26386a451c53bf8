//! Operations steered by an immediate that work within 128-bit lanes, and AVX2's permutations across lanes.

use iced_x86::Mnemonic;

use super::lanes::{Lane, build};
use super::{aes, clmul, gfni};

/// `f(first, second, immediate, lane)`; one-source operations look at `second` only.
/// Some immediates hold separate bits for the upper lane, hence the lane's number.
pub type WithImmediate = fn(u128, u128, u8, u32) -> u128;

/// The operation of `mnemonic` with two sources and an immediate.
pub fn binary_immediate(mnemonic: Mnemonic) -> Option<WithImmediate> {
    use Mnemonic::*;
    Some(match mnemonic {
        Palignr | Vpalignr => |a, b, n, _| align_right(a, b, n),
        Shufps | Vshufps => {
            |a, b, n, _| build(|i| u32::get(if i < 2 { a } else { b }, select(n, i)))
        }
        Shufpd | Vshufpd => |a, b, n, lane| {
            let n = usize::from(n >> (2 * lane));
            u128::from(u64::get(a, n & 1)) | u128::from(u64::get(b, n >> 1 & 1)) << 64
        },
        Pblendw | Vpblendw => {
            |a, b, n, _| build(|i| u16::get(if n >> i & 1 == 0 { a } else { b }, i))
        }
        Blendps | Vblendps | Vpblendd => |a, b, n, lane| {
            let n = n >> (4 * lane);
            build(|i| u32::get(if n >> i & 1 == 0 { a } else { b }, i))
        },
        Blendpd | Vblendpd => |a, b, n, lane| {
            let n = n >> (2 * lane);
            build(|i| u64::get(if n >> i & 1 == 0 { a } else { b }, i))
        },
        Mpsadbw | Vmpsadbw => multiple_differences,
        Pclmulqdq | Vpclmulqdq => |a, b, n, _| {
            clmul::multiply(
                u64::get(a, usize::from(n & 1)),
                u64::get(b, usize::from(n >> 4 & 1)),
            )
        },
        Gf2p8affineqb | Vgf2p8affineqb => |a, b, n, _| gfni::affine(a, b, n, false),
        Gf2p8affineinvqb | Vgf2p8affineinvqb => |a, b, n, _| gfni::affine(a, b, n, true),
        _ => return None,
    })
}

/// The operation of `mnemonic` with one source and an immediate.
pub fn unary_immediate(mnemonic: Mnemonic) -> Option<WithImmediate> {
    use Mnemonic::*;
    Some(match mnemonic {
        Pshufd | Vpshufd | Vpermilps => |_, b, n, _| build(|i| u32::get(b, select(n, i))),
        Pshuflw | Vpshuflw => {
            |_, b, n, _| build(|i| u16::get(b, if i < 4 { select(n, i) } else { i }))
        }
        Pshufhw | Vpshufhw => {
            |_, b, n, _| build(|i| u16::get(b, if i < 4 { i } else { 4 + select(n, i - 4) }))
        }
        Vpermilpd => {
            |_, b, n, lane| build(|i| u64::get(b, usize::from(n >> (2 * lane as usize + i) & 1)))
        }
        Aeskeygenassist | Vaeskeygenassist => |_, b, n, _| aes::key_generation_assist(b, n),
        _ => return None,
    })
}

/// Two bits of a shuffle control.
fn select(control: u8, index: usize) -> usize {
    usize::from(control >> (2 * index) & 3)
}

fn align_right(a: u128, b: u128, n: u8) -> u128 {
    match u32::from(n) * 8 {
        0 => b,
        bits @ 1..128 => b >> bits | a << (128 - bits),
        bits @ 128..256 => a >> (bits - 128),
        _ => 0,
    }
}

fn multiple_differences(a: u128, b: u128, n: u8, lane: u32) -> u128 {
    let n = usize::from(n >> (3 * lane));
    let (a_from, b_from) = ((n >> 2 & 1) * 4, (n & 3) * 4);
    build(|i| {
        (0..4)
            .map(|k| u16::from(u8::get(a, a_from + i + k).abs_diff(u8::get(b, b_from + k))))
            .sum::<u16>()
    })
}

/// Doubleword `index` (0 to 7) of a 256-bit vector.
pub fn doubleword(v: [u128; 2], index: usize) -> u32 {
    u32::get(v[index >> 2 & 1], index & 3)
}

/// Quadword `index` (0 to 3) of a 256-bit vector.
pub fn quadword(v: [u128; 2], index: usize) -> u64 {
    u64::get(v[index >> 1 & 1], index & 1)
}

/// VPERMD and VPERMPS: each doubleword of the result is chosen by three bits of `control`.
pub fn permute_doublewords(control: [u128; 2], source: [u128; 2]) -> [u128; 2] {
    control.map(|half| build(|i| doubleword(source, u32::get(half, i) as usize & 7)))
}

/// VPERMQ and VPERMPD: each quadword of the result is chosen by two bits of the immediate.
pub fn permute_quadwords(source: [u128; 2], control: u8) -> [u128; 2] {
    [0, 2].map(|base| build(|i| quadword(source, select(control, base + i))))
}

/// VPERM2F128 and VPERM2I128: each half of the result is one of four halves, or zero.
pub fn permute_halves(a: [u128; 2], b: [u128; 2], control: u8) -> [u128; 2] {
    [control, control >> 4].map(|c| {
        if c & 8 != 0 {
            0
        } else {
            [a[0], a[1], b[0], b[1]][usize::from(c & 3)]
        }
    })
}

/// PMOVSX and PMOVZX: widens the low lanes of `source`; the 256-bit form fills both halves.
pub fn extend(mnemonic: Mnemonic, source: u128) -> Option<[u128; 2]> {
    use Mnemonic::*;
    fn widen<T: Lane, U: Lane>(source: u128, f: impl Fn(T) -> U) -> [u128; 2] {
        [0, U::COUNT].map(|from| build(|i| f(T::get(source, from + i))))
    }
    Some(match mnemonic {
        Pmovsxbw | Vpmovsxbw => widen(source, |x: i8| i16::from(x)),
        Pmovsxbd | Vpmovsxbd => widen(source, |x: i8| i32::from(x)),
        Pmovsxbq | Vpmovsxbq => widen(source, |x: i8| i64::from(x)),
        Pmovsxwd | Vpmovsxwd => widen(source, |x: i16| i32::from(x)),
        Pmovsxwq | Vpmovsxwq => widen(source, |x: i16| i64::from(x)),
        Pmovsxdq | Vpmovsxdq => widen(source, |x: i32| i64::from(x)),
        Pmovzxbw | Vpmovzxbw => widen(source, |x: u8| u16::from(x)),
        Pmovzxbd | Vpmovzxbd => widen(source, |x: u8| u32::from(x)),
        Pmovzxbq | Vpmovzxbq => widen(source, |x: u8| u64::from(x)),
        Pmovzxwd | Vpmovzxwd => widen(source, |x: u16| u32::from(x)),
        Pmovzxwq | Vpmovzxwq => widen(source, |x: u16| u64::from(x)),
        Pmovzxdq | Vpmovzxdq => widen(source, |x: u32| u64::from(x)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn palignr_takes_from_the_pair_and_then_zeros() {
        assert_eq!(align_right(0xAA, 0xBB << 120, 15), 0xAABB);
        assert_eq!(align_right(0xAA00, 1, 17), 0xAA);
        assert_eq!(align_right(u128::MAX, u128::MAX, 32), 0);
    }

    #[test]
    fn vpermq_reads_its_control_from_the_low_bits_up() {
        let v = [0x1_0000_0000_0000_0000, 0x3_0000_0000_0000_0002];
        assert_eq!(
            permute_quadwords(v, 0b00_01_10_11),
            [0x2_0000_0000_0000_0003, 0x1]
        );
    }
}
