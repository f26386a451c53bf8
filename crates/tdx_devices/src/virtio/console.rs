//! A console with one port (virtio 1.2, 5.3): `hvc0` in Linux.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

use super::{Chain, Device, Fault};
use crate::dma::SharedMemory;

const RECEIVE: usize = 0;
const QUEUES: [u16; 2] = [64, 64];
/// Typed bytes that wait for the driver.
const TYPED: usize = 4096;
/// The longest piece that a driver may send at once: 1 MiB.
const LONGEST: u64 = 1 << 20;

/// The device; what the guest prints goes to a writer.
pub struct Console {
    output: Box<dyn Write + Send>,
    typed: VecDeque<u8>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("typed", &self.typed.len())
            .finish_non_exhaustive()
    }
}

impl Console {
    pub fn new(output: Box<dyn Write + Send>) -> Console {
        Console {
            output,
            typed: VecDeque::new(),
        }
    }
}

impl Device for Console {
    fn name(&self) -> &'static str {
        "virtio-console"
    }
    fn id(&self) -> u16 {
        3
    }
    fn class(&self) -> u32 {
        // Communication controller, other.
        0x07_8000
    }
    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }
    fn config(&self) -> &[u8] {
        // Columns, rows, number of ports, emergency write: none is offered.
        &[0; 12]
    }

    fn is_ready(&self, queue: usize) -> bool {
        queue != RECEIVE || !self.typed.is_empty()
    }

    fn serve(
        &mut self,
        queue: usize,
        chain: &Chain,
        memory: &dyn SharedMemory,
    ) -> Result<u32, Fault> {
        if queue == RECEIVE {
            let mut to = chain.writer(memory);
            let room = usize::try_from(to.left()).unwrap_or(usize::MAX);
            let bytes: Vec<u8> = self.typed.drain(..room.min(self.typed.len())).collect();
            to.write(&bytes)?;
            return Ok(bytes.len() as u32);
        }
        let mut from = chain.reader(memory);
        if from.left() > LONGEST {
            return Err(Fault::LongRequest);
        }
        let mut bytes = vec![0; from.left() as usize];
        from.read(&mut bytes)?;
        // Bytes that the output refuses are lost, as on a line with nobody at the other end.
        let _ = self.output.write_all(&bytes);
        Ok(0)
    }

    fn typed(&self) -> Option<usize> {
        Some(self.typed.len())
    }
    fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(TYPED - self.typed.len());
        self.typed.extend(&bytes[..taken]);
        taken
    }
}
