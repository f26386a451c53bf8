//! The first serial port: a 16550A on vm-superio, whose interrupt is a flag that the board looks at.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::{Serial, Trigger};

/// Raised by the port, taken by the board.
#[derive(Clone, Default)]
struct Line(Arc<AtomicBool>);

impl Trigger for Line {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

type Output = Box<dyn Write + Send>;

pub struct SerialPort {
    port: Serial<Line, vm_superio::serial::NoEvents, Output>,
    line: Line,
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl SerialPort {
    /// A port whose transmitted bytes go to `output`.
    pub fn new(output: Output) -> SerialPort {
        let line = Line::default();
        SerialPort {
            port: Serial::new(line.clone(), output),
            line,
        }
    }

    pub fn read(&mut self, offset: u8) -> u8 {
        self.port.read(offset)
    }

    /// Bytes that the output refuses are lost, as on a line with nobody at the other end.
    pub fn write(&mut self, offset: u8, value: u8) {
        let _ = self.port.write(offset, value);
    }

    /// Bytes typed at the console; gives how many found room in the receive FIFO.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = self.port.fifo_capacity().min(bytes.len());
        self.port.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// Whether the interrupt line rose since the last look.
    pub fn take_edge(&mut self) -> bool {
        self.line.0.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_go_out_and_come_in_with_an_interrupt() {
        let kept = Kept::default();
        let mut port = SerialPort::new(Box::new(kept.clone()));
        port.write(0, b'x');
        assert_eq!(*kept.0.lock().expect("one thread"), b"x");
        assert_eq!(port.read(5) & 0x60, 0x60, "the transmitter is empty");
        assert!(!port.take_edge());
        port.write(1, 1);
        assert_eq!(port.receive(b"ab"), 2);
        assert!(port.take_edge() && !port.take_edge());
        assert_eq!((port.read(0), port.read(0)), (b'a', b'b'));
    }

    #[test]
    fn a_full_receive_fifo_takes_no_more() {
        let mut port = SerialPort::new(Box::new(io::sink()));
        let taken = port.receive(&[0; 1000]);
        assert!(taken > 0 && taken < 1000);
        assert_eq!(port.receive(b"y"), 0);
    }
}
