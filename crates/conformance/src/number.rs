//! Numbers and bytes as traces write them: `"0x.."` strings and plain hex strings.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A 64-bit number written `"0x.."`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Hex(pub u64);

/// A 128-bit number written `"0x.."`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hex128(pub u128);

/// Bytes written as hex digits, lowest address first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Bytes(pub Vec<u8>);

fn digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("0x")?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

impl Hex {
    pub fn parse(text: &str) -> Option<Hex> {
        u64::from_str_radix(digits(text)?, 16).ok().map(Hex)
    }
}

impl Hex128 {
    pub fn parse(text: &str) -> Option<Hex128> {
        u128::from_str_radix(digits(text)?, 16).ok().map(Hex128)
    }
}

impl Bytes {
    pub fn parse(text: &str) -> Option<Bytes> {
        let nibble = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        let bytes = pairs
            .iter()
            .map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?));
        bytes.collect::<Option<Vec<u8>>>().map(Bytes)
    }
}

struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

macro_rules! from_text {
    ($($ty:ident: $expected:literal;)*) => {$(
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$ty, D::Error> {
                from.deserialize_str(Text { expected: $expected, parse: $ty::parse })
            }
        }
    )*};
}

from_text! {
    Hex: "a 64-bit number \"0x..\"";
    Hex128: "a 128-bit number \"0x..\"";
    Bytes: "an even number of hex digits";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_hex_strings_and_nothing_else() {
        assert_eq!(Hex::parse("0xFfff"), Some(Hex(0xFFFF)));
        for bad in [
            "",
            "0x",
            "12",
            "0x+1",
            "0x1_0",
            "0x10000000000000000",
            " 0x1",
        ] {
            assert_eq!(Hex::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Hex128::parse("0x10000000000000000"), Some(Hex128(1 << 64)));
    }

    #[test]
    fn bytes_need_an_even_number_of_digits() {
        assert_eq!(Bytes::parse("00fFa1"), Some(Bytes(vec![0, 0xFF, 0xA1])));
        assert_eq!(Bytes::parse("0"), None);
        assert_eq!(Bytes::parse("0é"), None);
    }
}
