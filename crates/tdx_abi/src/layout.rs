//! How this crate writes layouts down: byte structures, bit words and flag words, each a table that
//! the compiler checks for gaps and overlaps and that tests compare with the manual's.

/// A value with a fixed little-endian byte form.
pub trait Plain: Copy {
    /// Bytes of the value.
    const SIZE: usize;
    /// Reads the value from exactly [`Self::SIZE`] bytes.
    fn get(bytes: &[u8]) -> Self;
    /// Writes the value to exactly [`Self::SIZE`] bytes.
    fn put(self, bytes: &mut [u8]);
}

macro_rules! plain_integer {
    ($($ty:ty)*) => {$(
        impl Plain for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn get(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$ty>()];
                raw.copy_from_slice(bytes);
                <$ty>::from_le_bytes(raw)
            }
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
plain_integer!(u8 u16 u32 u64);

impl<T: Plain, const N: usize> Plain for [T; N] {
    const SIZE: usize = T::SIZE * N;
    fn get(bytes: &[u8]) -> Self {
        core::array::from_fn(|i| T::get(&bytes[i * T::SIZE..(i + 1) * T::SIZE]))
    }
    fn put(self, bytes: &mut [u8]) {
        for (value, chunk) in self.into_iter().zip(bytes.chunks_exact_mut(T::SIZE)) {
            value.put(chunk);
        }
    }
}

/// One field of a byte structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteField {
    /// The field's Rust name: the manual's in lower case.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

/// One named bit range of a word, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitField {
    /// The manual's name.
    pub name: &'static str,
    pub high: u8,
    pub low: u8,
}

impl BitField {
    /// The bits of the field in the word.
    pub const fn mask(&self) -> u64 {
        (u64::MAX >> (63 - (self.high - self.low))) << self.low
    }
    /// The field's value in `word`.
    pub const fn of(&self, word: u64) -> u64 {
        (word & self.mask()) >> self.low
    }
}

/// All bits that `fields` name.
pub const fn named_bits(fields: &[BitField]) -> u64 {
    let mut mask = 0;
    let mut i = 0;
    while i < fields.len() {
        mask |= fields[i].mask();
        i += 1;
    }
    mask
}

/// Panics (at compile time) when two fields share a bit.
pub(crate) const fn assert_disjoint(fields: &[BitField]) {
    let mut seen = 0;
    let mut i = 0;
    while i < fields.len() {
        assert!(seen & fields[i].mask() == 0, "two fields share a bit");
        seen |= fields[i].mask();
        i += 1;
    }
}

/// A structure in memory: every byte named, offsets checked at compile time.
macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident: $size:literal { $($(#[$fdoc:meta])* $offset:literal $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }

        const _: () = {
            let mut at = 0;
            $(
                assert!(at == $offset, concat!(stringify!($name), ".", stringify!($field), " is misplaced"));
                at += <$ty as $crate::layout::Plain>::SIZE;
            )*
            assert!(at == $size, concat!(stringify!($name), " has another size"));
        };

        impl $name {
            /// Bytes of the structure.
            pub const SIZE: usize = $size;
            /// Its fields, in order, without gaps.
            pub const LAYOUT: &'static [$crate::layout::ByteField] = &[$($crate::layout::ByteField {
                name: stringify!($field), offset: $offset, size: <$ty as $crate::layout::Plain>::SIZE,
            },)*];

            /// Reads the structure from memory.
            pub fn from_bytes(bytes: &[u8; $size]) -> Self {
                <Self as $crate::layout::Plain>::get(bytes)
            }
            /// The structure as it lies in memory.
            pub fn to_bytes(self) -> [u8; $size] {
                let mut bytes = [0; $size];
                <Self as $crate::layout::Plain>::put(self, &mut bytes);
                bytes
            }
        }

        impl Default for $name {
            /// All bytes zero.
            fn default() -> Self {
                Self::from_bytes(&[0; $size])
            }
        }

        impl $crate::layout::Plain for $name {
            const SIZE: usize = $size;
            fn get(bytes: &[u8]) -> Self {
                Self {$(
                    $field: <$ty as $crate::layout::Plain>::get(
                        &bytes[$offset..$offset + <$ty as $crate::layout::Plain>::SIZE],
                    ),
                )*}
            }
            fn put(self, bytes: &mut [u8]) {
                $(<$ty as $crate::layout::Plain>::put(
                    self.$field,
                    &mut bytes[$offset..$offset + <$ty as $crate::layout::Plain>::SIZE],
                );)*
            }
        }
    };
}

/// The part that flag words and bit words share.
macro_rules! word_type {
    ($(#[$doc:meta])* $name:ident: $ty:ident, $fields:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $ty);

        const _: () = $crate::layout::assert_disjoint($name::FIELDS);

        impl $name {
            /// The named bits and ranges, lowest first.
            pub const FIELDS: &'static [$crate::layout::BitField] = $fields;
            /// All named bits.
            pub const NAMED: $ty = $crate::layout::named_bits(Self::FIELDS) as $ty;

            pub const fn raw(self) -> $ty {
                self.0
            }
            /// Set bits that have no name (reserved ones, or of a newer module).
            pub const fn unnamed(self) -> $ty {
                self.0 & !Self::NAMED
            }
        }

        impl $crate::layout::Plain for $name {
            const SIZE: usize = size_of::<$ty>();
            fn get(bytes: &[u8]) -> Self {
                Self(<$ty as $crate::layout::Plain>::get(bytes))
            }
            fn put(self, bytes: &mut [u8]) {
                $crate::layout::Plain::put(self.0, bytes);
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x}: {})"), self.0, self)
            }
        }
    };
}

/// Writes a word as the names of its bits.
macro_rules! named_bits_display {
    ($name:ident) => {
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                $crate::layout::fmt_word(self.0 as u64, Self::FIELDS, f)
            }
        }
    };
}

/// A word of single bits, each a constant of the type.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident: $ty:ident { $($(#[$fdoc:meta])* $bit:literal $flag:ident,)* }) => {
        word_type! { $(#[$doc])* $name: $ty, &[$($crate::layout::BitField {
            name: stringify!($flag), high: $bit, low: $bit,
        },)*] }

        named_bits_display!($name);

        impl $name {
            $($(#[$fdoc])* pub const $flag: Self = Self(1 << $bit);)*

            /// Whether all bits of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
            /// The bits of both.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
            /// The bits of `self` that are not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }
    };
}

/// A word of bit ranges: a reader and a writer for each. After `own Display` the type brings its own.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident: $ty:ident { $($fields:tt)* }) => {
        word! { own Display; $(#[$doc])* $name: $ty { $($fields)* } }
        named_bits_display!($name);
    };
    (own Display; $(#[$doc:meta])* $name:ident: $ty:ident {
        $($(#[$fdoc:meta])* $high:literal .. $low:literal $field:ident $get:ident $with:ident,)*
    }) => {
        word_type! { $(#[$doc])* $name: $ty, &[$($crate::layout::BitField {
            name: stringify!($field), high: $high, low: $low,
        },)*] }

        impl $name {
            $(
                $(#[$fdoc])*
                pub const fn $get(self) -> $ty {
                    (self.0 >> $low) & ((u64::MAX >> (63 - ($high - $low))) as $ty)
                }
                #[doc = concat!("The same word with another ", stringify!($field), "; bits that do not fit are dropped.")]
                #[must_use]
                pub const fn $with(self, value: $ty) -> Self {
                    let mask = ((u64::MAX >> (63 - ($high - $low))) as $ty) << $low;
                    Self(self.0 & !mask | (value << $low) & mask)
                }
            )*
        }
    };
}

/// A closed set of states with the manual's numbers.
macro_rules! states {
    ($(#[$doc:meta])* $name:ident: $ty:ident { $($(#[$sdoc:meta])* $state:ident = $value:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr($ty)]
        pub enum $name { $($(#[$sdoc])* $state = $value,)* }

        impl $name {
            /// All of them, in numeric order of the manual's table.
            pub const ALL: &'static [$name] = &[$($name::$state,)*];

            pub const fn raw(self) -> $ty {
                self as $ty
            }
            /// The state of this number, if there is one.
            pub const fn from_raw(raw: $ty) -> Option<$name> {
                match raw {
                    $($value => Some($name::$state),)*
                    _ => None,
                }
            }
            /// The manual's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$state => $text,)*
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

/// Writes `A|B|C=0x3|unknown 0x800` for a word: named bits that are set, ranges that are not zero, the rest.
pub(crate) fn fmt_word(
    word: u64,
    fields: &[BitField],
    f: &mut core::fmt::Formatter<'_>,
) -> core::fmt::Result {
    let mut rest = word;
    let mut first = true;
    let mut separate = |f: &mut core::fmt::Formatter<'_>| match core::mem::take(&mut first) {
        true => Ok(()),
        false => f.write_str("|"),
    };
    for field in fields {
        let value = field.of(word);
        rest &= !field.mask();
        if value == 0 {
            continue;
        }
        separate(f)?;
        match field.high == field.low {
            true => f.write_str(field.name)?,
            false => write!(f, "{}={value:#x}", field.name)?,
        }
    }
    if rest != 0 {
        separate(f)?;
        write!(f, "unknown {rest:#x}")?;
    } else if word == 0 {
        f.write_str("0")?;
    }
    Ok(())
}

pub(crate) use {bytes, flags, named_bits_display, states, word, word_type};

#[cfg(test)]
#[expect(dead_code, reason = "the macros make more than these tests use")]
mod tests {
    extern crate std;
    use std::format;

    flags! { /** Test. */ Few: u64 { 0 A, 3 B, 63 C, } }
    word! { /** Test. */ Mixed: u32 { 2..0 LEVEL level with_level, 31..12 HIGH high with_high, } }
    bytes! { /** Test. */ Pair: 0x8 { 0x0 left: u16, 0x2 mixed: Mixed, 0x6 right: [u8; 2], } }

    #[test]
    fn a_flag_word_reads_as_its_names_and_shows_unknown_bits() {
        assert_eq!(format!("{}", Few::A | Few::C), "A|C");
        assert_eq!(format!("{}", Few(0x18)), "B|unknown 0x10");
        assert_eq!(format!("{}", Few(0)), "0");
        assert_eq!(Few(0x18).unnamed(), 0x10);
        assert!((Few::A | Few::B).contains(Few::B) && !Few::A.contains(Few::B));
    }

    #[test]
    fn a_range_is_read_and_written_without_touching_its_neighbours() {
        let word = Mixed(0xFFFF_FFFF).with_level(2);
        assert_eq!(
            (word.0, word.level(), word.high()),
            (0xFFFF_FFFA, 2, 0xF_FFFF)
        );
        assert_eq!(Mixed(0).with_level(0xFF).0, 7);
        assert_eq!(
            format!("{}", Mixed(0x5009)),
            "LEVEL=0x1|HIGH=0x5|unknown 0x8"
        );
    }

    #[test]
    fn a_structure_comes_back_from_its_bytes() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let pair = Pair::from_bytes(&bytes);
        assert_eq!(
            (pair.left, pair.mixed.0, pair.right),
            (0x0201, 0x0605_0403, [7, 8])
        );
        assert_eq!(pair.to_bytes(), bytes);
        assert_eq!(Pair::LAYOUT[1].offset, 2);
    }
}
