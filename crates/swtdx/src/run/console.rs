//! The guest's console: passed on byte by byte, and read along for the lines that swtdx looks for.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::status::Status;

/// The longest line that is kept for looking at; what is longer is passed on all the same.
const LINE: usize = 4096;
/// How many of the last lines are kept.
const LAST: usize = 12;
/// The guests of this project print their TDREPORT as 16 lines of 64 bytes after this word.
const REPORT: &str = "SWTDX-REPORT ";
const REPORT_BYTES: usize = 1024;
/// The exit status of a command that the initial RAM disk was asked to run.
const COMMAND_STATUS: &str = "SWTDX-EXIT ";
/// Lines that begin so are marks: the summary says how far the guest was when it printed them.
const MARK: &str = "SWTDX-";
/// How many marks are kept.
const MARKS: usize = 64;
/// How Linux begins its last words, and how it ends them.
const PANIC: &str = "Kernel panic - not syncing";
const PANIC_END: &str = "---[ end Kernel panic";

/// What the console said.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    line: Vec<u8>,
    pub last: Vec<String>,
    pub report: Vec<u8>,
    pub command_status: Option<u8>,
    pub panic: Option<String>,
    /// The panic was printed to its end: nothing more will come.
    pub panic_over: bool,
    pub bytes: u64,
    pub marks: Vec<Mark>,
}

/// A line of the console that begins with `SWTDX-`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mark {
    pub line: String,
    /// Instructions that the guest had completed when it had printed the line (of other vCPUs: when they last left
    /// the TD).
    pub instructions: u64,
}

/// Tells how many instructions the guest has completed.
pub type Counter = Box<dyn Fn() -> u64 + Send>;

/// A writer that passes on and reads along.
pub struct Console<W> {
    out: W,
    seen: Arc<Mutex<Seen>>,
    status: Status,
    completed: Counter,
}

impl<W: Write> Console<W> {
    /// A console that clears `status` out of its way.
    pub fn new(out: W, status: Status, completed: Counter) -> (Self, Arc<Mutex<Seen>>) {
        let seen = Arc::default();
        let console = Self {
            out,
            seen: Arc::clone(&seen),
            status,
            completed,
        };
        (console, seen)
    }
}

impl<W: Write> Write for Console<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.status.console_writes(bytes);
        let written = self.out.write(bytes)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in &bytes[..written] {
            seen.byte(byte, &self.completed);
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Seen {
    fn byte(&mut self, byte: u8, completed: &Counter) {
        self.bytes += 1;
        match byte {
            b'\n' => {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                self.whole_line(line, completed);
            }
            b'\r' => {}
            _ if self.line.len() < LINE => self.line.push(byte),
            _ => {}
        }
    }

    fn whole_line(&mut self, line: String, completed: &Counter) {
        if let Some(hex) = after(&line, REPORT) {
            let room = REPORT_BYTES - self.report.len();
            self.report.extend(bytes_of(hex).take(room));
            return;
        }
        let text = without_time_stamp(&line);
        if text.starts_with(MARK) && self.marks.len() < MARKS {
            self.marks.push(Mark {
                line: text.trim_end().to_owned(),
                instructions: completed(),
            });
        }
        if let Some(status) = after(&line, COMMAND_STATUS) {
            self.command_status = status.trim().parse().ok();
        }
        self.panic_over |= line.contains(PANIC_END);
        if self.panic.is_none()
            && let Some(at) = line.find(PANIC)
        {
            self.panic = Some(line[at..].to_owned());
        }
        if self.last.len() == LAST {
            self.last.remove(0);
        }
        self.last.push(line);
    }

    /// The TDREPORT, if a whole one was printed.
    pub fn tdreport(&self) -> Option<&[u8; 1024]> {
        self.report.first_chunk()
    }
}

/// What follows a word that may stand behind a kernel's time stamp.
fn after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.find(word).map(|at| &line[at + word.len()..])
}

/// A line without the time stamp that a kernel puts before it.
fn without_time_stamp(line: &str) -> &str {
    let stamped = line.strip_prefix('[');
    let behind = stamped.and_then(|line| line.split_once("] "));
    behind.map_or(line, |(_, text)| text)
}

fn bytes_of(hex: &str) -> impl Iterator<Item = u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| d as u8)
        .collect();
    let pairs: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    pairs.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(text: &[u8]) -> Seen {
        let (mut console, seen) = Console::new(Vec::new(), Status::new(false), Box::new(|| 7));
        console.write_all(text).unwrap();
        assert_eq!(console.out, text);
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    #[test]
    fn a_report_is_put_together_from_its_lines() {
        let line = format!("[    1.0] SWTDX-REPORT {}\r\n", "a5".repeat(64));
        assert_eq!(
            see(line.repeat(16).as_bytes()).tdreport(),
            Some(&[0xA5; 1024])
        );
        assert_eq!(see(line.repeat(15).as_bytes()).tdreport(), None);
    }

    #[test]
    fn panics_and_exit_statuses_are_noticed() {
        let seen = see(b"[ 2.1] Kernel panic - not syncing: no init\nSWTDX-EXIT 3\n");
        assert_eq!(
            seen.panic.as_deref(),
            Some("Kernel panic - not syncing: no init")
        );
        assert_eq!(seen.command_status, Some(3));
        assert!(!seen.panic_over);
    }

    #[test]
    fn marks_tell_how_far_the_guest_was() {
        let seen = see(b"[    0.5] SWTDX-MARKER up\r\n\rSWTDX-REPORT 00\nexec=echo SWTDX-B\n");
        let mark = Mark {
            line: "SWTDX-MARKER up".into(),
            instructions: 7,
        };
        assert_eq!(seen.marks, [mark]);
        assert_eq!(see(&b"SWTDX-A\n".repeat(100)).marks.len(), MARKS);
    }

    #[test]
    fn whatever_the_guest_prints_is_kept_small() {
        let mut text = vec![b'x'; 100_000];
        text.extend(b"\n\xFF\xFE\n");
        text.extend(b"line\n".repeat(100));
        let seen = see(&text);
        assert_eq!(seen.last.len(), LAST);
        assert!(seen.last.iter().all(|line| line.len() <= LINE));
    }
}
