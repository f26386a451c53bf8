//! One line on standard error while a guest boots: which vCPU runs, exits per second, the guest's time.
//!
//! It is there only while the console is quiet and at the start of a line, so that it never stands in the guest's text.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the line changes.
const PERIOD: Duration = Duration::from_millis(200);

/// A handle on the line; its clones share it.
#[derive(Clone, Debug)]
pub struct Status(Option<Arc<Mutex<Line>>>);

#[derive(Debug)]
struct Line {
    shown: Option<ProgressBar>,
    /// The console's last byte was no newline.
    inside_a_line: bool,
    last: Instant,
    exits: u64,
}

/// What there is to say.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub vcpu: usize,
    /// Exits since the run began.
    pub exits: u64,
    pub guest_time: Duration,
}

impl Status {
    /// A line on standard error, if that is a terminal and the user wants to be told things.
    pub fn new(wanted: bool) -> Status {
        let line = || Line {
            shown: None,
            inside_a_line: false,
            last: Instant::now(),
            exits: 0,
        };
        let wanted = wanted && io::stderr().is_terminal();
        Status(wanted.then(|| Arc::new(Mutex::new(line()))))
    }

    /// Clears the way for bytes of the console's.
    pub fn console_writes(&self, bytes: &[u8]) {
        self.with(|line| {
            line.hide();
            line.inside_a_line = bytes.last() != Some(&b'\n');
        });
    }

    /// Shows what `now` says, unless it was done a moment ago.
    pub fn tick(&self, now: impl FnOnce() -> Now) {
        self.with(|line| {
            let passed = line.last.elapsed();
            if passed >= PERIOD && !line.inside_a_line {
                let now = now();
                let rate = (now.exits - line.exits) as f64 / passed.as_secs_f64();
                line.show(format!(
                    "swtdx: vCPU {}, {rate:.0} exits/s, guest time {:.3} s",
                    now.vcpu,
                    now.guest_time.as_secs_f64()
                ));
                (line.last, line.exits) = (Instant::now(), now.exits);
            }
        });
    }

    /// Takes the line away for good.
    pub fn end(&mut self) {
        self.with(Line::hide);
        self.0 = None;
    }

    fn with(&self, act: impl FnOnce(&mut Line)) {
        if let Some(line) = &self.0 {
            act(&mut line.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Line {
    fn show(&mut self, text: String) {
        let bar = self.shown.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{wide_msg}");
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_message(text);
        bar.tick();
    }

    fn hide(&mut self) {
        if let Some(bar) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
