//! What a TDREPORT says, and whether it says what the host expects (spec: guest-leaves.md 7.2).

use sha2::{Digest, Sha384};

/// A TDREPORT as the guest got it.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(pub &'a [u8; 1024]);

impl Report<'_> {
    pub fn mrtd(&self) -> [u8; 48] {
        self.measurement(528)
    }
    pub fn rtmr(&self, index: usize) -> [u8; 48] {
        self.measurement(720 + 48 * index)
    }
    pub fn attributes(&self) -> u64 {
        self.word(512)
    }
    pub fn xfam(&self) -> u64 {
        self.word(520)
    }

    /// Whether the hashes in the MAC structure are those of the parts that follow it.
    pub fn hashes_hold(&self) -> bool {
        let tcb: [u8; 48] = Sha384::digest(&self.0[256..495]).into();
        let info: [u8; 48] = Sha384::digest(&self.0[512..1024]).into();
        self.measurement(32) == tcb && self.measurement(80) == info
    }

    fn measurement(&self, at: usize) -> [u8; 48] {
        self.0[at..at + 48].try_into().expect("48 bytes")
    }
    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("8 bytes"))
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_of_either_part_is_noticed() {
        let mut bytes = [7; 1024];
        let tcb: [u8; 48] = Sha384::digest(&bytes[256..495]).into();
        let info: [u8; 48] = Sha384::digest(&bytes[512..]).into();
        bytes[32..80].copy_from_slice(&tcb);
        bytes[80..128].copy_from_slice(&info);
        assert!(Report(&bytes).hashes_hold());
        for at in [256, 494, 512, 1023, 32, 127] {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(!Report(&changed).hashes_hold(), "byte {at}");
        }
    }
}
