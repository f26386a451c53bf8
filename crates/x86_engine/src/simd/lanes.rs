//! A 128-bit vector as lanes of one integer type.

/// An element of a 128-bit vector.
pub trait Lane: Copy {
    /// Elements in 128 bits.
    const COUNT: usize;
    /// All elements, the least significant first.
    type All: AsRef<[Self]>;
    fn split(vector: u128) -> Self::All;
    /// The vector of the elements that `f` gives for their indices.
    fn collect(f: impl FnMut(usize) -> Self) -> u128;
    /// Element `index`, counted from the least significant.
    fn get(vector: u128, index: usize) -> Self;
    /// This element at place `index` of an otherwise zero vector.
    fn put(self, index: usize) -> u128;
}

macro_rules! lane {
    ($($lane:ty, $raw:ty, $bits:literal);*) => {$(
        impl Lane for $lane {
            const COUNT: usize = 128 / $bits;
            type All = [$lane; 128 / $bits];
            // Byte arrays, not shifts: the compiler turns these loops into the host's own vector instructions.
            #[inline(always)]
            fn split(vector: u128) -> Self::All {
                const BYTES: usize = $bits / 8;
                let bytes = vector.to_le_bytes();
                core::array::from_fn(|i| {
                    <$lane>::from_le_bytes(core::array::from_fn(|k| bytes[BYTES * i + k]))
                })
            }
            #[inline(always)]
            fn collect(f: impl FnMut(usize) -> Self) -> u128 {
                const BYTES: usize = $bits / 8;
                let elements: Self::All = core::array::from_fn(f);
                let mut bytes = [0; 16];
                for (to, element) in bytes.chunks_exact_mut(BYTES).zip(elements) {
                    to.copy_from_slice(&element.to_le_bytes());
                }
                u128::from_le_bytes(bytes)
            }
            #[inline(always)]
            fn get(vector: u128, index: usize) -> Self {
                (vector >> ($bits * index)) as $lane
            }
            #[inline(always)]
            fn put(self, index: usize) -> u128 {
                u128::from(self as $raw) << ($bits * index)
            }
        }
    )*};
}
lane!(u8, u8, 8; i8, u8, 8; u16, u16, 16; i16, u16, 16; u32, u32, 32; i32, u32, 32; u64, u64, 64; i64, u64, 64);

/// Builds a vector from a function of the lane's index.
#[inline(always)]
pub fn build<T: Lane>(f: impl FnMut(usize) -> T) -> u128 {
    T::collect(f)
}

/// Applies `f` to each lane; input and output lanes have the same width.
#[inline(always)]
pub fn map<T: Lane, U: Lane>(a: u128, f: impl Fn(T) -> U) -> u128 {
    let a = T::split(a);
    build(|i| f(a.as_ref()[i]))
}

/// Applies `f` to each pair of lanes.
#[inline(always)]
pub fn zip<T: Lane, U: Lane>(a: u128, b: u128, f: impl Fn(T, T) -> U) -> u128 {
    let (a, b) = (T::split(a), T::split(b));
    build(|i| f(a.as_ref()[i], b.as_ref()[i]))
}

/// Takes neighbouring pairs: the low half of the result from `a`, the high half from `b`.
#[inline(always)]
pub fn pairs<T: Lane, U: Lane>(a: u128, b: u128, f: impl Fn(T, T) -> U) -> u128 {
    build(|i| {
        let (source, k) = if i < U::COUNT / 2 {
            (a, i)
        } else {
            (b, i - U::COUNT / 2)
        };
        f(T::get(source, 2 * k), T::get(source, 2 * k + 1))
    })
}

/// Packs the wide lanes of `a`, then of `b`, into narrow ones.
#[inline(always)]
pub fn pack<T: Lane, U: Lane>(a: u128, b: u128, f: impl Fn(T) -> U) -> u128 {
    build(|i| {
        if i < T::COUNT {
            f(T::get(a, i))
        } else {
            f(T::get(b, i - T::COUNT))
        }
    })
}

/// Interleaves the low (`high` false) or high halves of `a` and `b`.
#[inline(always)]
pub fn interleave<T: Lane>(a: u128, b: u128, high: bool) -> u128 {
    let from = if high { T::COUNT / 2 } else { 0 };
    build(|i| T::get(if i % 2 == 0 { a } else { b }, from + i / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_counted_from_the_least_significant() {
        assert_eq!(u16::get(0x0003_0002_0001, 1), 2);
        assert_eq!(
            build(|i| i as u32),
            0x0000_0003_0000_0002_0000_0001_0000_0000
        );
        assert_eq!((-1i16).put(1), 0xFFFF_0000);
    }

    #[test]
    fn interleaving_takes_a_first() {
        let (a, b) = (build(|i| i as u8), build(|i| 0x10 + i as u8));
        assert_eq!(interleave::<u8>(a, b, true) as u32, 0x1909_1808);
    }
}
