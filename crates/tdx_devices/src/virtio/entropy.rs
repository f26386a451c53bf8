//! An entropy source (virtio 1.2, 5.4) whose bytes come from a seed, so that every run has the same.

use sha2::{Digest, Sha256};

use super::{Chain, Device, Fault};
use crate::dma::SharedMemory;

const QUEUES: [u16; 1] = [8];
/// What one request gets at most; a driver asks again.
const MOST: u64 = 4096;

/// The device: SHA-256 of the seed and of a counter that never repeats.
#[derive(Debug)]
pub struct Entropy {
    seed: u64,
    blocks: u64,
}

impl Entropy {
    pub fn new(seed: u64) -> Entropy {
        Entropy { seed, blocks: 0 }
    }
}

impl Device for Entropy {
    fn name(&self) -> &'static str {
        "virtio-rng"
    }
    fn id(&self) -> u16 {
        4
    }
    fn class(&self) -> u32 {
        // Not one of the classes that have names.
        0xFF_0000
    }
    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }

    fn serve(
        &mut self,
        _queue: usize,
        chain: &Chain,
        memory: &dyn SharedMemory,
    ) -> Result<u32, Fault> {
        let mut to = chain.writer(memory);
        let wanted = to.left().min(MOST) as usize;
        let mut bytes = Vec::with_capacity(wanted + 32);
        while bytes.len() < wanted {
            let hash = Sha256::new()
                .chain_update(b"virtio-rng")
                .chain_update(self.seed.to_le_bytes())
                .chain_update(self.blocks.to_le_bytes());
            bytes.extend_from_slice(&hash.finalize());
            self.blocks += 1;
        }
        to.write(&bytes[..wanted])?;
        Ok(wanted as u32)
    }
}
