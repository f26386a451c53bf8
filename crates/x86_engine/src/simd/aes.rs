//! AES-NI: single rounds on a 128-bit state. Byte 0 of the state is the least significant byte of the vector (FIPS 197).

use super::gfni;
use super::lanes::{Lane, build};

/// FIPS 197's S-box: the inverse in GF(2^8), then an affine map.
const S_BOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let x = gfni::inverse(i as u8);
        table[i] =
            x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        i += 1;
    }
    table
};

const INVERSE_S_BOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[S_BOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// What a byte adds to its column: the column of the circulant matrix that begins with `column`, times `f(byte)`.
const fn columns(source: Option<&[u8; 256]>, column: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let byte = match source {
            Some(box_of) => box_of[i],
            None => i as u8,
        };
        table[i] = u32::from_le_bytes([
            gfni::multiply(byte, column[0]),
            gfni::multiply(byte, column[1]),
            gfni::multiply(byte, column[2]),
            gfni::multiply(byte, column[3]),
        ]);
        i += 1;
    }
    table
}

/// SubBytes and MixColumns of a byte in row 0; the other rows' are rotated.
static ENCRYPT: [u32; 256] = columns(Some(&S_BOX), [2, 1, 1, 3]);
static DECRYPT: [u32; 256] = columns(Some(&INVERSE_S_BOX), [14, 9, 13, 11]);
static INVERSE_MIX: [u32; 256] = columns(None, [14, 9, 13, 11]);

/// Looks each byte up where ShiftRows takes it from: column c, row r comes from column c + step * r.
fn mixed(state: u128, step: usize, table: &[u32; 256]) -> u128 {
    let bytes = state.to_le_bytes();
    build(|c| {
        (0..4).fold(0, |column: u32, r| {
            let byte = bytes[4 * ((c + step * r) % 4) + r];
            column ^ table[usize::from(byte)].rotate_left(8 * r as u32)
        })
    })
}

pub fn encrypt_round(state: u128, key: u128) -> u128 {
    mixed(state, 1, &ENCRYPT) ^ key
}

pub fn encrypt_last_round(state: u128, key: u128) -> u128 {
    substitute_shifted(state) ^ key
}

/// A round of the equivalent inverse cipher.
pub fn decrypt_round(state: u128, key: u128) -> u128 {
    mixed(state, 3, &DECRYPT) ^ key
}

pub fn decrypt_last_round(state: u128, key: u128) -> u128 {
    inverse_substitute_shifted(state) ^ key
}

pub fn inverse_mix_columns(state: u128) -> u128 {
    mixed(state, 0, &INVERSE_MIX)
}

/// AESKEYGENASSIST: S-box words 1 and 3, and the same rotated and with the round constant.
pub fn key_generation_assist(source: u128, constant: u8) -> u128 {
    let word = |index| {
        let bytes = u32::get(source, index).to_le_bytes();
        u32::from_le_bytes(bytes.map(|byte| S_BOX[usize::from(byte)]))
    };
    build(|i| match i {
        0 => word(1),
        1 => word(1).rotate_right(8) ^ u32::from(constant),
        2 => word(3),
        _ => word(3).rotate_right(8) ^ u32::from(constant),
    })
}

/// SubBytes after ShiftRows: row r (byte r of each column) moves r columns to the left.
fn substitute_shifted(state: u128) -> u128 {
    build(|i| S_BOX[usize::from(u8::get(state, (i + 4 * (i % 4)) % 16))])
}

fn inverse_substitute_shifted(state: u128) -> u128 {
    build(|i| INVERSE_S_BOX[usize::from(u8::get(state, (i + 12 * (i % 4)) % 16))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197 appendix B, round 1: the state after each step.
    #[test]
    fn the_first_round_of_the_standards_example() {
        let state = u128::from_be_bytes([
            0x19, 0x3d, 0xe3, 0xbe, 0xa0, 0xf4, 0xe2, 0x2b, 0x9a, 0xc6, 0x8d, 0x2a, 0xe9, 0xf8,
            0x48, 0x08,
        ])
        .swap_bytes();
        let mixed = u128::from_be_bytes([
            0x04, 0x66, 0x81, 0xe5, 0xe0, 0xcb, 0x19, 0x9a, 0x48, 0xf8, 0xd3, 0x7a, 0x28, 0x06,
            0x26, 0x4c,
        ])
        .swap_bytes();
        assert_eq!(encrypt_round(state, 0), mixed);
    }

    #[test]
    fn decryption_undoes_encryption() {
        let state = 0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF;
        assert_eq!(decrypt_last_round(encrypt_last_round(state, 0), 0), state);
        // A round without SubBytes is undone by its inverse: substitute first with the inverse box.
        let substituted = inverse_substitute_shifted(state);
        assert_eq!(inverse_mix_columns(encrypt_round(substituted, 0)), state);
    }
}
