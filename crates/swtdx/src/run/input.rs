//! What is typed at the guest's console.
//!
//! From a terminal, bytes reach the guest as they are typed, and `Ctrl-a` begins a command to swtdx. From a file or
//! a pipe they are fed in at defined points of the guest's own time: at the end of a vCPU's turn, when the guest has
//! its receive interrupt on and has taken all that came before. What is in the pipe by then decides: a run with a file,
//! or with a pipe filled in time, is the same to the last instruction; who writes later writes at a time of the host's.

use std::collections::VecDeque;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::stdio::stdin;

use super::terminal::{self, RawTerminal};

/// What begins a command to swtdx.
const ESCAPE: u8 = 1;
/// Shown at the start.
pub const HINT: &str = "Ctrl-a x ends the run, Ctrl-a h shows help";
const HELP: &str = "\nCtrl-a x  end the run\nCtrl-a h  this help\nCtrl-a a  send Ctrl-a to the guest (so does Ctrl-a Ctrl-a)\n";
/// How many bytes a file or pipe gives at a time, as many as the serial port's receive FIFO holds.
const CHUNK: usize = 64;
/// Exit status when the user asks twice and the run has not ended.
const ENDED_BY_FORCE: i32 = 5;

/// Where the console's input comes from.
#[derive(Debug)]
pub enum Input {
    /// Nowhere.
    Nothing,
    /// A user at a terminal.
    Terminal(Arc<Keyboard>, RawTerminal),
    /// A file or a pipe; `over` at its end.
    Stream { over: bool },
}

/// What was typed and not taken yet.
#[derive(Default, Debug)]
pub struct Keyboard {
    typed: Mutex<Typed>,
    arrived: Condvar,
}

#[derive(Default, Debug)]
struct Typed {
    bytes: VecDeque<u8>,
    quit: bool,
}

impl Input {
    /// Standard input as it is: a terminal is taken into raw mode and read by a thread.
    pub fn of_stdin() -> Input {
        let Some(raw) = RawTerminal::take() else {
            // A terminal that belongs to another job of the shell is not touched.
            return match rustix::termios::isatty(stdin()) {
                true => Input::Nothing,
                false => Input::Stream { over: false },
            };
        };
        let keyboard = Arc::new(Keyboard::default());
        // What was typed ahead counts from the guest's first turn on.
        let mut escape = Escape::default();
        while ready(Duration::ZERO) && keyboard.hear(&mut escape) {}
        let listener = Arc::clone(&keyboard);
        let started = std::thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || while listener.hear(&mut escape) {});
        match started {
            Ok(_) => Input::Terminal(keyboard, raw),
            Err(_) => Input::Nothing,
        }
    }

    /// Whether a user sits there, who can end the run and is waited for in real time.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(..))
    }

    /// Whether the user asked to end the run.
    pub fn quit(&self) -> bool {
        match self {
            Input::Terminal(keyboard, _) => keyboard.lock().quit,
            Input::Nothing | Input::Stream { .. } => false,
        }
    }

    /// Bytes for the guest; `listens` says whether it waits for them. A user's bytes do not wait for that.
    pub fn take(&mut self, listens: impl FnOnce() -> bool) -> Vec<u8> {
        match self {
            Input::Nothing => Vec::new(),
            Input::Terminal(keyboard, _) => keyboard.lock().bytes.drain(..).collect(),
            Input::Stream { over } => match *over || !listens() || !ready(Duration::ZERO) {
                true => Vec::new(),
                false => {
                    let mut bytes = [0; CHUNK];
                    let count = read(stdin(), &mut bytes).unwrap_or(0);
                    *over = count == 0;
                    bytes[..count].to_vec()
                }
            },
        }
    }

    /// Waits until something is there to be taken, or for the time; false when nothing will ever come.
    pub fn wait(&self, longest: Duration) -> bool {
        match self {
            Input::Nothing | Input::Stream { over: true } => return false,
            Input::Stream { over: false } => {
                ready(longest);
            }
            Input::Terminal(keyboard, _) => {
                let end = Instant::now() + longest;
                let mut typed = keyboard.lock();
                while typed.bytes.is_empty() && !typed.quit {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let waited = keyboard.arrived.wait_timeout(typed, left);
                    (typed, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        true
    }
}

/// Whether standard input can be read without waiting, now or within the time.
fn ready(longest: Duration) -> bool {
    let longest = Timespec::try_from(longest).ok();
    let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    poll(&mut fds, longest.as_ref()).is_ok_and(|count| count > 0)
}

impl Keyboard {
    fn lock(&self) -> MutexGuard<'_, Typed> {
        self.typed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what is typed next; false at the terminal's end.
    fn hear(&self, escape: &mut Escape) -> bool {
        let mut bytes = [0; 256];
        let count = match read(stdin(), &mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(Errno::INTR) => return true,
            Err(_) => return false,
        };
        let mut typed = self.lock();
        for key in bytes[..count].iter().filter_map(|&byte| escape.byte(byte)) {
            match key {
                Key::Byte(byte) => typed.bytes.push_back(byte),
                Key::Help => eprint!("{HELP}"),
                Key::Quit if typed.quit => {
                    terminal::restore();
                    eprintln!("\nswtdx: ended by force");
                    process::exit(ENDED_BY_FORCE);
                }
                Key::Quit => typed.quit = true,
            }
        }
        self.arrived.notify_all();
        true
    }
}

/// What a typed byte means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Byte(u8),
    Help,
    Quit,
}

/// Tells commands to swtdx from what is typed for the guest.
#[derive(Default, Debug)]
struct Escape {
    begun: bool,
}

impl Escape {
    fn byte(&mut self, byte: u8) -> Option<Key> {
        if !std::mem::replace(&mut self.begun, false) {
            self.begun = byte == ESCAPE;
            return (!self.begun).then_some(Key::Byte(byte));
        }
        match byte {
            b'x' | b'X' => Some(Key::Quit),
            b'h' | b'H' | b'?' => Some(Key::Help),
            b'a' | b'A' | ESCAPE => Some(Key::Byte(ESCAPE)),
            // No command: the byte alone is lost, the guest did not ask for it.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        typed.iter().filter_map(|&b| escape.byte(b)).collect()
    }

    #[test]
    fn ctrl_a_begins_a_command_and_everything_else_is_the_guests() {
        let bytes = |text: &[u8]| text.iter().map(|&b| Key::Byte(b)).collect::<Vec<_>>();
        assert_eq!(keys(b"ls\x03\r\x04"), bytes(b"ls\x03\r\x04"));
        assert_eq!(keys(b"\x01x"), [Key::Quit]);
        assert_eq!(keys(b"\x01hx"), [Key::Help, Key::Byte(b'x')]);
        assert_eq!(keys(b"\x01a\x01\x01x"), bytes(b"\x01\x01x"));
        assert_eq!(keys(b"\x01q\x01x"), [Key::Quit]);
    }
}
