//! Bytes as choices; when they are used up, every choice is 0.

pub(super) struct Input<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input {
            bytes: bytes.iter(),
        }
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    /// One of `n` choices, `n` at most 256.
    pub fn below(&mut self, n: u64) -> u64 {
        u64::from(self.byte()) * n >> 8
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.len() == 0
    }
}
