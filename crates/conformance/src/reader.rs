//! Reads a trace line by line: only one line is in memory at a time.

use std::io::{BufRead, Read};

use crate::header::Header;
use crate::op::Op;

/// A longer line is refused, so that a file without line ends cannot fill memory.
pub const MAX_LINE: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("line {line}: {source}")]
    Io { line: u64, source: std::io::Error },
    /// Something that the format does not know.
    #[error("line {line}: {what}")]
    NotUnderstood { line: u64, what: String },
}

/// A trace whose header is read and whose operations come one by one.
pub struct TraceReader<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
    header: Header,
}

impl<R: BufRead> TraceReader<R> {
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let mut buffer = Vec::new();
        if !read_line(&mut input, &mut buffer, 1)? {
            return Err(not_understood(
                1,
                "the file is empty: expected a header".into(),
            ));
        }
        let header: Header = parse(&buffer, 1, "a header")?;
        header.check().map_err(|what| not_understood(1, what))?;
        Ok(Self {
            input,
            line: 1,
            buffer,
            header,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Lines read so far.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The next operation and its line number; `None` at the end of the file.
    pub fn next_op(&mut self) -> Result<Option<(u64, Op)>, ReadError> {
        let line = self.line + 1;
        if !read_line(&mut self.input, &mut self.buffer, line)? {
            return Ok(None);
        }
        self.line = line;
        let op: Op = parse(&self.buffer, line, "an operation")?;
        op.check(self.header.platform.lps)
            .map_err(|what| not_understood(line, what))?;
        Ok(Some((line, op)))
    }
}

/// Parses a whole trace and forgets it: for any bytes, an answer and no panic.
pub fn fuzz_trace(bytes: &[u8]) {
    if let Ok(mut trace) = TraceReader::new(bytes) {
        while let Ok(Some(_)) = trace.next_op() {}
    }
}

fn not_understood(line: u64, what: String) -> ReadError {
    ReadError::NotUnderstood { line, what }
}

fn parse<'a, T: serde::Deserialize<'a>>(
    bytes: &'a [u8],
    line: u64,
    expected: &str,
) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|e| {
        // serde_json counts lines within the one line it was given: its column is what helps.
        let text = e.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        let place = if e.column() > 0 {
            format!(" (column {})", e.column())
        } else {
            String::new()
        };
        not_understood(line, format!("expected {expected}: {text}{place}"))
    })
}

/// Fills `buffer` with the next line without its end; false at the end of the file.
fn read_line(input: &mut impl BufRead, buffer: &mut Vec<u8>, line: u64) -> Result<bool, ReadError> {
    buffer.clear();
    let io = |source| ReadError::Io { line, source };
    let read = input
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', buffer)
        .map_err(io)?;
    if read as u64 == MAX_LINE {
        return Err(not_understood(
            line,
            format!("expected a line below {MAX_LINE} bytes"),
        ));
    }
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
    }
    Ok(read > 0)
}
