//! Packed integer operations of two vectors that work within 128-bit lanes: `result = f(first, second)`.
//!
//! One table serves the legacy form (first = destination) and the VEX form, at 128 and 256 bits.

use iced_x86::Mnemonic;

use super::lanes::{Lane, build, interleave, map, pack, pairs, zip};
use super::{aes, gfni};

/// An operation on two 128-bit lanes.
pub type Binary = fn(u128, u128) -> u128;

/// The operation of `mnemonic`, if it is of this family.
pub fn binary(mnemonic: Mnemonic) -> Option<Binary> {
    use Mnemonic::*;
    Some(match mnemonic {
        Paddb | Vpaddb => |a, b| zip(a, b, u8::wrapping_add),
        Paddw | Vpaddw => |a, b| zip(a, b, u16::wrapping_add),
        Paddd | Vpaddd => |a, b| zip(a, b, u32::wrapping_add),
        Paddq | Vpaddq => |a, b| zip(a, b, u64::wrapping_add),
        Paddsb | Vpaddsb => |a, b| zip(a, b, i8::saturating_add),
        Paddsw | Vpaddsw => |a, b| zip(a, b, i16::saturating_add),
        Paddusb | Vpaddusb => |a, b| zip(a, b, u8::saturating_add),
        Paddusw | Vpaddusw => |a, b| zip(a, b, u16::saturating_add),
        Psubb | Vpsubb => |a, b| zip(a, b, u8::wrapping_sub),
        Psubw | Vpsubw => |a, b| zip(a, b, u16::wrapping_sub),
        Psubd | Vpsubd => |a, b| zip(a, b, u32::wrapping_sub),
        Psubq | Vpsubq => |a, b| zip(a, b, u64::wrapping_sub),
        Psubsb | Vpsubsb => |a, b| zip(a, b, i8::saturating_sub),
        Psubsw | Vpsubsw => |a, b| zip(a, b, i16::saturating_sub),
        Psubusb | Vpsubusb => |a, b| zip(a, b, u8::saturating_sub),
        Psubusw | Vpsubusw => |a, b| zip(a, b, u16::saturating_sub),

        Pmullw | Vpmullw => |a, b| zip(a, b, u16::wrapping_mul),
        Pmulld | Vpmulld => |a, b| zip(a, b, u32::wrapping_mul),
        Pmulhw | Vpmulhw => |a, b| {
            zip(a, b, |x: i16, y: i16| {
                ((i32::from(x) * i32::from(y)) >> 16) as i16
            })
        },
        Pmulhuw | Vpmulhuw => |a, b| {
            zip(a, b, |x: u16, y: u16| {
                ((u32::from(x) * u32::from(y)) >> 16) as u16
            })
        },
        Pmulhrsw | Vpmulhrsw => |a, b| {
            zip(a, b, |x: i16, y: i16| {
                ((((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1) as i16
            })
        },
        Pmuludq | Vpmuludq => {
            |a, b| zip(a, b, |x: u64, y: u64| (x & 0xFFFF_FFFF) * (y & 0xFFFF_FFFF))
        }
        Pmuldq | Vpmuldq => |a, b| {
            zip(a, b, |x: u64, y: u64| {
                i64::from(x as i32) * i64::from(y as i32)
            })
        },
        Pmaddwd | Vpmaddwd => multiply_add_words,
        Pmaddubsw | Vpmaddubsw => multiply_add_bytes,
        Psadbw | Vpsadbw => sum_of_differences,

        Pavgb | Vpavgb => |a, b| {
            zip(a, b, |x: u8, y: u8| {
                (u16::from(x) + u16::from(y)).div_ceil(2) as u8
            })
        },
        Pavgw | Vpavgw => |a, b| {
            zip(a, b, |x: u16, y: u16| {
                (u32::from(x) + u32::from(y)).div_ceil(2) as u16
            })
        },
        Pminub | Vpminub => |a, b| zip(a, b, u8::min),
        Pminuw | Vpminuw => |a, b| zip(a, b, u16::min),
        Pminud | Vpminud => |a, b| zip(a, b, u32::min),
        Pminsb | Vpminsb => |a, b| zip(a, b, i8::min),
        Pminsw | Vpminsw => |a, b| zip(a, b, i16::min),
        Pminsd | Vpminsd => |a, b| zip(a, b, i32::min),
        Pmaxub | Vpmaxub => |a, b| zip(a, b, u8::max),
        Pmaxuw | Vpmaxuw => |a, b| zip(a, b, u16::max),
        Pmaxud | Vpmaxud => |a, b| zip(a, b, u32::max),
        Pmaxsb | Vpmaxsb => |a, b| zip(a, b, i8::max),
        Pmaxsw | Vpmaxsw => |a, b| zip(a, b, i16::max),
        Pmaxsd | Vpmaxsd => |a, b| zip(a, b, i32::max),

        Pcmpeqb | Vpcmpeqb => |a, b| zip(a, b, |x: u8, y: u8| mask8(x == y)),
        Pcmpeqw | Vpcmpeqw => |a, b| zip(a, b, |x: u16, y: u16| mask16(x == y)),
        Pcmpeqd | Vpcmpeqd => |a, b| zip(a, b, |x: u32, y: u32| mask32(x == y)),
        Pcmpeqq | Vpcmpeqq => |a, b| zip(a, b, |x: u64, y: u64| mask64(x == y)),
        Pcmpgtb | Vpcmpgtb => |a, b| zip(a, b, |x: i8, y: i8| mask8(x > y)),
        Pcmpgtw | Vpcmpgtw => |a, b| zip(a, b, |x: i16, y: i16| mask16(x > y)),
        Pcmpgtd | Vpcmpgtd => |a, b| zip(a, b, |x: i32, y: i32| mask32(x > y)),
        Pcmpgtq | Vpcmpgtq => |a, b| zip(a, b, |x: i64, y: i64| mask64(x > y)),

        Pand | Vpand | Andps | Vandps | Andpd | Vandpd => |a, b| a & b,
        Pandn | Vpandn | Andnps | Vandnps | Andnpd | Vandnpd => |a, b| !a & b,
        Por | Vpor | Orps | Vorps | Orpd | Vorpd => |a, b| a | b,
        Pxor | Vpxor | Xorps | Vxorps | Xorpd | Vxorpd => |a, b| a ^ b,

        Packsswb | Vpacksswb => |a, b| pack(a, b, |x: i16| x.clamp(-128, 127) as i8),
        Packssdw | Vpackssdw => |a, b| pack(a, b, |x: i32| x.clamp(-32768, 32767) as i16),
        Packuswb | Vpackuswb => |a, b| pack(a, b, |x: i16| x.clamp(0, 255) as u8),
        Packusdw | Vpackusdw => |a, b| pack(a, b, |x: i32| x.clamp(0, 65535) as u16),
        Punpcklbw | Vpunpcklbw => |a, b| interleave::<u8>(a, b, false),
        Punpcklwd | Vpunpcklwd => |a, b| interleave::<u16>(a, b, false),
        Punpckldq | Vpunpckldq | Unpcklps | Vunpcklps => |a, b| interleave::<u32>(a, b, false),
        Punpcklqdq | Vpunpcklqdq | Unpcklpd | Vunpcklpd => |a, b| interleave::<u64>(a, b, false),
        Punpckhbw | Vpunpckhbw => |a, b| interleave::<u8>(a, b, true),
        Punpckhwd | Vpunpckhwd => |a, b| interleave::<u16>(a, b, true),
        Punpckhdq | Vpunpckhdq | Unpckhps | Vunpckhps => |a, b| interleave::<u32>(a, b, true),
        Punpckhqdq | Vpunpckhqdq | Unpckhpd | Vunpckhpd => |a, b| interleave::<u64>(a, b, true),

        Psignb | Vpsignb => |a, b| zip(a, b, |x: i8, y: i8| x.wrapping_mul(y.signum())),
        Psignw | Vpsignw => |a, b| zip(a, b, |x: i16, y: i16| x.wrapping_mul(y.signum())),
        Psignd | Vpsignd => |a, b| zip(a, b, |x: i32, y: i32| x.wrapping_mul(y.signum())),
        Phaddw | Vphaddw => |a, b| pairs(a, b, u16::wrapping_add),
        Phaddd | Vphaddd => |a, b| pairs(a, b, u32::wrapping_add),
        Phaddsw | Vphaddsw => |a, b| pairs(a, b, i16::saturating_add),
        Phsubw | Vphsubw => |a, b| pairs(a, b, u16::wrapping_sub),
        Phsubd | Vphsubd => |a, b| pairs(a, b, u32::wrapping_sub),
        Phsubsw | Vphsubsw => |a, b| pairs(a, b, i16::saturating_sub),
        Pshufb | Vpshufb => shuffle_bytes,
        Vpermilps => |a, b| build(|i| u32::get(a, (u32::get(b, i) & 3) as usize)),
        Vpermilpd => |a, b| build(|i| u64::get(a, (u64::get(b, i) >> 1 & 1) as usize)),

        Vpsllvd => |a, b| zip(a, b, |x: u32, n: u32| x.checked_shl(n).unwrap_or(0)),
        Vpsrlvd => |a, b| zip(a, b, |x: u32, n: u32| x.checked_shr(n).unwrap_or(0)),
        Vpsravd => |a, b| build(|i| i32::get(a, i) >> u32::get(b, i).min(31)),
        Vpsllvq => |a, b| zip(a, b, |x: u64, n: u64| if n < 64 { x << n } else { 0 }),
        Vpsrlvq => |a, b| zip(a, b, |x: u64, n: u64| if n < 64 { x >> n } else { 0 }),

        Aesenc | Vaesenc => aes::encrypt_round,
        Aesenclast | Vaesenclast => aes::encrypt_last_round,
        Aesdec | Vaesdec => aes::decrypt_round,
        Aesdeclast | Vaesdeclast => aes::decrypt_last_round,
        Gf2p8mulb | Vgf2p8mulb => |a, b| zip(a, b, gfni::multiply),
        _ => return None,
    })
}

/// The operation of one vector, if `mnemonic` is of this family: `result = f(source)` within 128-bit lanes.
pub fn unary(mnemonic: Mnemonic) -> Option<fn(u128) -> u128> {
    use Mnemonic::*;
    Some(match mnemonic {
        Pabsb | Vpabsb => |a| map(a, |x: i8| x.unsigned_abs()),
        Pabsw | Vpabsw => |a| map(a, |x: i16| x.unsigned_abs()),
        Pabsd | Vpabsd => |a| map(a, |x: i32| x.unsigned_abs()),
        Phminposuw | Vphminposuw => smallest_word,
        Movshdup | Vmovshdup => |a| build(|i| u32::get(a, i | 1)),
        Movsldup | Vmovsldup => |a| build(|i| u32::get(a, i & !1)),
        Movddup | Vmovddup => |a| build(|_| u64::get(a, 0)),
        Aesimc | Vaesimc => aes::inverse_mix_columns,
        _ => return None,
    })
}

/// All ones if `holds`.
pub const fn mask8(holds: bool) -> u8 {
    0u8.wrapping_sub(holds as u8)
}
const fn mask16(holds: bool) -> u16 {
    0u16.wrapping_sub(holds as u16)
}
const fn mask32(holds: bool) -> u32 {
    0u32.wrapping_sub(holds as u32)
}
const fn mask64(holds: bool) -> u64 {
    0u64.wrapping_sub(holds as u64)
}

fn multiply_add_words(a: u128, b: u128) -> u128 {
    let product = |k| i32::from(i16::get(a, k)) * i32::from(i16::get(b, k));
    build(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
}

fn multiply_add_bytes(a: u128, b: u128) -> u128 {
    let product = |k| i32::from(u8::get(a, k)) * i32::from(i8::get(b, k));
    build(|i| (product(2 * i) + product(2 * i + 1)).clamp(-32768, 32767) as i16)
}

fn sum_of_differences(a: u128, b: u128) -> u128 {
    build(|i| {
        (8 * i..8 * i + 8)
            .map(|k| u64::from(u8::get(a, k).abs_diff(u8::get(b, k))))
            .sum::<u64>()
    })
}

fn shuffle_bytes(a: u128, control: u128) -> u128 {
    let a = a.to_le_bytes();
    map(control, |c: u8| {
        if c & 0x80 != 0 {
            0
        } else {
            a[usize::from(c & 15)]
        }
    })
}

fn smallest_word(a: u128) -> u128 {
    let (index, word) = (0..8)
        .map(|i| (i, u16::get(a, i)))
        .min_by_key(|&(_, word)| word)
        .unwrap_or((0, 0));
    u128::from(word) | (index as u128) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mnemonic: Mnemonic, a: u128, b: u128) -> u128 {
        binary(mnemonic).expect("in the table")(a, b)
    }

    #[test]
    fn saturation_stops_at_the_ends_of_the_type() {
        assert_eq!(run(Mnemonic::Paddsb, 0x7F80, 0x01FF), 0x7F80);
        assert_eq!(run(Mnemonic::Packuswb, 0xFFFF_0100, 0) as u16, 0x00FF);
    }

    #[test]
    fn psign_of_the_most_negative_number_wraps() {
        assert_eq!(run(Mnemonic::Psignb, 0x80, 0xFF), 0x80);
    }

    #[test]
    fn phminposuw_names_the_first_of_equals() {
        let f = unary(Mnemonic::Phminposuw).expect("in the table");
        assert_eq!(f(0x0009_0009_0009_0009_0001_0009_0001_0009), 0x1_0001);
    }
}
