//! What translation came to: for who asks whether it stays small.

/// Counts and bytes of an engine's translator and of the tables beside its code.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Blocks translated; one that was translated again counts again.
    pub blocks: u64,
    /// Bytes of translated code.
    pub code_bytes: u64,
    /// Bytes of decoded code, soft TLB, jump cache, and of the lists that find them.
    pub table_bytes: u64,
    /// How often all translated code was dropped, since the buffer was full.
    pub drops: u64,
}

impl Statistics {
    /// What two engines came to that stood side by side.
    pub fn beside(self, other: Statistics) -> Statistics {
        Statistics {
            blocks: self.blocks + other.blocks,
            code_bytes: self.code_bytes + other.code_bytes,
            table_bytes: self.table_bytes + other.table_bytes,
            drops: self.drops + other.drops,
        }
    }
}
