//! COM1: a 16550 without an interrupt line; drivers poll it.

use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex};

use vm_superio::{Serial, Trigger};

pub(crate) const BASE: u16 = 0x3F8;
pub(crate) const LAST: u16 = BASE + 7;

/// Bytes typed at the console that the guest has not read; cloned to whoever reads the keyboard.
#[derive(Clone, Default, Debug)]
pub struct ConsoleInput(Arc<Mutex<Vec<u8>>>);

impl ConsoleInput {
    /// Typed bytes wait here for the guest; a guest that never reads them keeps the first 64 KiB.
    pub fn push(&self, bytes: &[u8]) {
        let mut waiting = self.0.lock().expect("no holder of the input panics");
        let room = (64 << 10) - waiting.len().min(64 << 10);
        waiting.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    fn take(&self, most: usize) -> Vec<u8> {
        let mut waiting = self.0.lock().expect("no holder of the input panics");
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }
}

/// There is no line to raise.
struct NoLine;

impl Trigger for NoLine {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

pub(crate) struct Uart<W: Write> {
    serial: Serial<NoLine, vm_superio::serial::NoEvents, W>,
    input: ConsoleInput,
}

impl<W: Write> Uart<W> {
    pub(crate) fn new(out: W, input: ConsoleInput) -> Self {
        Self {
            serial: Serial::new(NoLine, out),
            input,
        }
    }

    pub(crate) fn read(&mut self, offset: u16) -> u8 {
        let room = self.serial.fifo_capacity();
        if room > 0 {
            let typed = self.input.take(room);
            // In loopback mode the device refuses input; what was typed then is lost, as on a wire.
            let _ = self.serial.enqueue_raw_bytes(&typed);
        }
        self.serial.read(offset as u8)
    }

    /// A console that cannot be written to loses output; the guest cannot know.
    pub(crate) fn write(&mut self, offset: u16, value: u8) {
        let _ = self.serial.write(offset as u8, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_out_and_typed_ones_come_in() {
        let (mut out, input) = (Vec::new(), ConsoleInput::default());
        {
            let mut uart = Uart::new(&mut out, input.clone());
            for byte in *b"ok" {
                uart.write(0, byte);
            }
            assert_eq!(
                uart.read(5) & 0x61,
                0x60,
                "nothing typed, transmitter empty"
            );
            input.push(b"x");
            assert_eq!(uart.read(5) & 1, 1);
            assert_eq!(uart.read(0), b'x');
        }
        assert_eq!(out, b"ok");
    }
}
