//! The user's terminal in raw mode while a guest has it, and given back on every way out: the end of the run,
//! a panic, a signal.

use std::sync::{Mutex, Once, OnceLock, PoisonError};

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{
    OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The terminal as it was found; `None` while nothing is to be given back.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);
static HOOKS: Once = Once::new();
static SIGNALS: OnceLock<()> = OnceLock::new();

/// Standard input as a raw terminal. Dropping it gives the terminal back.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Takes the terminal; `None` when standard input is none, or belongs to another job of the shell.
    pub fn take() -> Option<RawTerminal> {
        // A terminal that is not the process's own one knows no jobs.
        let other_job = tcgetpgrp(stdin()).is_ok_and(|group| group != getpgrp());
        if !isatty(stdin()) || other_job {
            return None;
        }
        let found = tcgetattr(stdin()).ok()?;
        // Before the mode changes, so that there is no moment in which a signal would leave it changed.
        *lock() = Some(found);
        HOOKS.call_once(restore_on_panic);
        if SIGNALS.get().is_none() && restore_on_signals().is_ok() {
            let _ = SIGNALS.set(());
        }
        set_raw().then_some(RawTerminal(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
        *lock() = None;
    }
}

/// Gives the terminal back as it was, if it was taken.
pub fn restore() {
    if let Some(found) = &*lock() {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, found);
    }
}

fn set_raw() -> bool {
    let Some(mut raw) = lock().clone() else {
        return false;
    };
    raw.make_raw();
    // The lines of swtdx itself end without a carriage return.
    raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    tcsetattr(stdin(), OptionalActions::Drain, &raw).is_ok()
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
}

/// A thread that gives the terminal back and then lets the signal do what it does.
fn restore_on_signals() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGCONT => {
                        set_raw();
                    }
                    signal => {
                        restore();
                        let _ = emulate_default_handler(signal);
                    }
                }
            }
        })?;
    Ok(())
}
