//! SHA-NI: steps of SHA-1 and SHA-256 (FIPS 180-4) on four words at a time. Word 3 is the most significant doubleword.

use super::lanes::{Lane, build};

fn words(v: u128) -> [u32; 4] {
    [0, 1, 2, 3].map(|i| u32::get(v, i))
}
fn vector(w: [u32; 4]) -> u128 {
    build(|i| w[i])
}

/// SHA1RNDS4: four rounds with the function and constant that `function` selects. A is in the top word.
pub fn sha1_rounds(state: u128, message: u128, function: u8) -> u128 {
    let [mut d, mut c, mut b, mut a] = words(state);
    let mut e = 0u32;
    for index in (0..4).rev() {
        let (f, k) = match function & 3 {
            0 => ((b & c) ^ (!b & d), 0x5A82_7999),
            1 => (b ^ c ^ d, 0x6ED9_EBA1),
            2 => ((b & c) ^ (b & d) ^ (c & d), 0x8F1B_BCDC),
            _ => (b ^ c ^ d, 0xCA62_C1D6),
        };
        let next = f
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(u32::get(message, index))
            .wrapping_add(e)
            .wrapping_add(k);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    vector([d, c, b, a])
}

/// SHA1NEXTE: adds the rotated E of four rounds ago to the next message words.
pub fn sha1_next_e(state: u128, message: u128) -> u128 {
    let mut w = words(message);
    w[3] = w[3].wrapping_add(u32::get(state, 3).rotate_left(30));
    vector(w)
}

pub fn sha1_message1(a: u128, b: u128) -> u128 {
    let ([w3, w2, w1, w0], [_, _, w5, w4]) = (words(a), words(b));
    vector([w5 ^ w3, w4 ^ w2, w3 ^ w1, w2 ^ w0])
}

pub fn sha1_message2(a: u128, b: u128) -> u128 {
    let ([a3, a2, a1, a0], [w15, w14, w13, _]) = (words(a), words(b));
    let w16 = (a0 ^ w13).rotate_left(1);
    let w17 = (a1 ^ w14).rotate_left(1);
    let w18 = (a2 ^ w15).rotate_left(1);
    let w19 = (a3 ^ w16).rotate_left(1);
    vector([w19, w18, w17, w16])
}

/// SHA256RNDS2: two rounds; `a` holds C D G H, `b` holds A B E F, `wk` the two sums of message and constant.
pub fn sha256_rounds(a: u128, b: u128, wk: u128) -> u128 {
    let ([mut h, mut g, mut d, mut c], [mut f, mut e, mut b, mut a]) = (words(a), words(b));
    for index in 0..2 {
        let choose = (e & f) ^ (!e & g);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t = choose
            .wrapping_add(s1)
            .wrapping_add(u32::get(wk, index))
            .wrapping_add(h);
        (a, b, c, d, e, f, g, h) = (
            t.wrapping_add(majority).wrapping_add(s0),
            a,
            b,
            c,
            d.wrapping_add(t),
            e,
            f,
            g,
        );
    }
    let _ = (c, d, g, h);
    vector([f, e, b, a])
}

pub fn sha256_message1(a: u128, b: u128) -> u128 {
    let sigma = |x: u32| x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
    let (a, w4) = (words(a), u32::get(b, 0));
    vector([
        a[0].wrapping_add(sigma(a[1])),
        a[1].wrapping_add(sigma(a[2])),
        a[2].wrapping_add(sigma(a[3])),
        a[3].wrapping_add(sigma(w4)),
    ])
}

pub fn sha256_message2(a: u128, b: u128) -> u128 {
    let sigma = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let (a, w14, w15) = (words(a), u32::get(b, 2), u32::get(b, 3));
    let w16 = a[0].wrapping_add(sigma(w14));
    let w17 = a[1].wrapping_add(sigma(w15));
    vector([
        w16,
        w17,
        a[2].wrapping_add(sigma(w16)),
        a[3].wrapping_add(sigma(w17)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4: sigma0 of message word 1 goes into word 16.
    #[test]
    fn message_schedules_add_the_small_sigma() {
        assert_eq!(sha256_message1(1 << 32, 0) as u32, 0x0200_4000);
        assert_eq!(sha256_message2(0, 1 << 64) as u32, 0x0000_A000);
    }

    /// FIPS 180-4, 6.1.2: from the initial state with zero message words.
    #[test]
    fn four_rounds_of_sha1_from_zero_are_the_constant_mixed() {
        assert_eq!(
            u32::get(sha1_rounds(0, 0, 1), 0),
            0x6ED9_EBA1u32.rotate_left(30)
        );
    }
}
