//! The first serial port: a 16550A on vm-superio, whose interrupt is a flag that the board looks at.

use std::collections::VecDeque;
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

/// Interrupt enable register: received data available.
const RECEIVED: u8 = 1;
/// Typed bytes that wait for room in the receive FIFO; what is typed beyond is lost.
const WAITING: usize = 64 << 10;
/// So many looks at the line status in a row, with nothing received and nothing sent, are somebody who waits for a
/// key: firmware polls. Who sends looks once or twice for each byte.
const LOOKS: u32 = 64;

pub struct SerialPort {
    port: Serial<Line, vm_superio::serial::NoEvents, Output>,
    line: Line,
    waiting: VecDeque<u8>,
    /// Reads of the line status since a byte was sent or was there to be read.
    looks: u32,
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
            waiting: VecDeque::new(),
            looks: 0,
        }
    }

    pub fn read(&mut self, offset: u8) -> u8 {
        let value = self.port.read(offset);
        match offset {
            0 => self.fill(),
            5 if value & 1 == 0 => self.looks = self.looks.saturating_add(1),
            5 => self.looks = 0,
            _ => {}
        }
        value
    }

    /// Bytes that the output refuses are lost, as on a line with nobody at the other end.
    pub fn write(&mut self, offset: u8, value: u8) {
        let _ = self.port.write(offset, value);
        if offset == 0 {
            self.looks = 0;
        }
        self.fill();
    }

    /// Bytes typed at the console; gives how many were taken. What the receive FIFO has no room for waits.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(WAITING - self.waiting.len());
        self.waiting.extend(&bytes[..taken]);
        self.fill();
        taken
    }

    /// Whether the guest waits for typed bytes: its receive interrupt is on or it polls, and it has taken all there
    /// were.
    pub fn listens(&self) -> bool {
        let port = self.port.state();
        let empty = self.waiting.is_empty() && port.in_buffer.is_empty();
        empty && (port.interrupt_enable & RECEIVED != 0 || self.looks >= LOOKS)
    }

    fn fill(&mut self) {
        let room = self.port.fifo_capacity().min(self.waiting.len());
        if room > 0 {
            // In loopback mode the port takes nothing from outside; the bytes wait.
            let bytes: Vec<u8> = self.waiting.iter().take(room).copied().collect();
            let taken = self.port.enqueue_raw_bytes(&bytes).unwrap_or(0);
            self.waiting.drain(..taken);
        }
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
    fn what_the_receive_fifo_has_no_room_for_follows_as_the_guest_reads() {
        let mut port = SerialPort::new(Box::new(io::sink()));
        assert!(!port.listens(), "the receive interrupt is off");
        port.write(1, 1);
        assert!(port.listens());
        let typed: Vec<u8> = (0..200).collect();
        assert_eq!(port.receive(&typed), 200);
        assert!(!port.listens());
        let mut edges = 0;
        let read: Vec<u8> = std::iter::from_fn(|| {
            edges += usize::from(port.take_edge());
            (port.read(5) & 1 != 0).then(|| port.read(0))
        })
        .collect();
        assert_eq!(read, typed);
        assert!(edges > 1, "later bytes interrupt too");
        assert!(port.listens());
    }

    #[test]
    fn who_polls_listens_and_who_sends_does_not() {
        let mut port = SerialPort::new(Box::new(io::sink()));
        for _ in 0..1000 {
            port.read(5);
            port.write(0, b'x');
            assert!(!port.listens());
        }
        for _ in 0..LOOKS {
            port.read(5);
        }
        assert!(port.listens());
        port.receive(b"y");
        assert!(!port.listens(), "it has something to read");
        assert_eq!((port.read(5) & 1, port.read(0)), (1, b'y'));
        assert!(!port.listens(), "it may not want more");
    }

    #[test]
    fn typing_without_a_reader_is_bounded() {
        let mut port = SerialPort::new(Box::new(io::sink()));
        let taken: usize = (0..100).map(|_| port.receive(&[0; 1000])).sum();
        assert_eq!(taken, WAITING + 64, "what waits, and a full FIFO");
    }
}
