//! Where the debugger listens: a TCP address (loopback unless another is named) or a Unix socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a client may leave what it was sent unread.
const PATIENCE: Duration = Duration::from_secs(10);

/// `HOST:PORT`, `:PORT` (loopback) or `unix:PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: takes a path".into()),
                path => Ok(Address::Unix(path.into())),
            };
        }
        let whole = match text.strip_prefix(':') {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        whole
            .parse()
            .map(Address::Tcp)
            .map_err(|_| format!("{text:?} is neither ADDRESS:PORT, :PORT nor unix:PATH"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A listening socket; a Unix one is removed when it is dropped.
#[derive(Debug)]
pub struct Listener(Socket);

impl Listener {
    pub fn bind(address: &Address) -> io::Result<Listener> {
        let socket = match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Socket::Tcp(listener)
            }
            Address::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Socket::Unix(listener, path.clone())
            }
        };
        Ok(Listener(socket))
    }

    /// The address that clients connect to: the port that the system chose where 0 was asked for.
    pub fn address(&self) -> io::Result<Address> {
        match &self.0 {
            Socket::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Socket::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }

    /// A client that waits, if one does.
    pub fn poll(&self) -> io::Result<Option<Stream>> {
        let accepted = match &self.0 {
            Socket::Tcp(listener) => listener.accept().map(|(stream, _)| {
                let _ = stream.set_nodelay(true);
                Stream::new(Wire::Tcp(stream))
            }),
            Socket::Unix(listener, _) => listener
                .accept()
                .map(|(stream, _)| Stream::new(Wire::Unix(stream))),
        };
        match accepted {
            Ok(stream) => stream.map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for a client.
    pub fn wait(&self) -> io::Result<Stream> {
        loop {
            if let Some(stream) = self.poll()? {
                return Ok(stream);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected client. Bytes are buffered both ways.
#[derive(Debug)]
pub struct Stream {
    wire: Wire,
    input: Vec<u8>,
    at: usize,
    output: Vec<u8>,
}

impl Stream {
    fn new(wire: Wire) -> io::Result<Stream> {
        match &wire {
            Wire::Tcp(stream) => stream.set_nonblocking(true)?,
            Wire::Unix(stream) => stream.set_nonblocking(true)?,
        }
        Ok(Stream {
            wire,
            input: Vec::new(),
            at: 0,
            output: Vec::new(),
        })
    }

    /// The next byte, if one has arrived; an error once the client is gone.
    pub fn poll(&mut self) -> io::Result<Option<u8>> {
        if self.at == self.input.len() {
            self.input.resize(4096, 0);
            self.at = 0;
            let read = match &mut self.wire {
                Wire::Tcp(stream) => stream.read(&mut self.input),
                Wire::Unix(stream) => stream.read(&mut self.input),
            };
            match read {
                Ok(0) => {
                    self.input.clear();
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(length) => self.input.truncate(length),
                Err(error) => {
                    self.input.clear();
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                        _ => Err(error),
                    };
                }
            }
        }
        self.at += 1;
        Ok(self.input.get(self.at - 1).copied())
    }

    /// Waits for the next byte, and calls `meanwhile` now and then.
    pub fn wait(&mut self, mut meanwhile: impl FnMut()) -> io::Result<u8> {
        loop {
            if let Some(byte) = self.poll()? {
                return Ok(byte);
            }
            meanwhile();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Turns the client away: GDB shows the words where it knows errors with a text.
    pub fn refuse(mut self, words: &str) {
        use gdbstub::conn::Connection;
        let packet = format!("E.{words}");
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.output = format!("+${packet}#{sum:02x}").into_bytes();
        // It is gone either way.
        let _ = self.flush();
    }
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Stream> {
        Stream::new(Wire::Unix(stream))
    }
}

impl gdbstub::conn::Connection for Stream {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.output.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        let begun = Instant::now();
        let mut rest = output.as_slice();
        while !rest.is_empty() {
            let written = match &mut self.wire {
                Wire::Tcp(stream) => Write::write(stream, rest),
                Wire::Unix(stream) => Write::write(stream, rest),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if begun.elapsed() > PATIENCE {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_loopback() {
        let port: Address = ":1234".parse().expect("an address");
        assert_eq!(port.to_string(), "127.0.0.1:1234");
        assert_eq!("unix:/tmp/x".parse(), Ok(Address::Unix("/tmp/x".into())));
        for wrong in ["1234", "unix:", "host:12", ""] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_client_that_leaves_is_noticed() {
        let listener = Listener::bind(&":0".parse().expect("an address")).expect("a socket");
        let Ok(Address::Tcp(address)) = listener.address() else {
            panic!("TCP")
        };
        assert!(listener.poll().expect("a listener").is_none());
        let mut client = TcpStream::connect(address).expect("loopback");
        let mut stream = listener.wait().expect("a client");
        client.write_all(b"+").expect("a byte goes out");
        assert_eq!(stream.wait(|| {}).expect("a byte comes in"), b'+');
        drop(client);
        assert!(stream.wait(|| {}).is_err());
    }
}
