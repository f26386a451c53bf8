//! The user's terminal: raw while the guest has it, as it was afterwards, whatever ends the run.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// A terminal with a user at the other end.
struct Terminal {
    user: std::os::fd::OwnedFd,
    program: File,
}

impl Terminal {
    fn new() -> Terminal {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
        grantpt(&user).expect("it is ours");
        unlockpt(&user).expect("it can be opened");
        let name = ptsname(&user, Vec::new()).expect("it has a name");
        let name = name.into_string().expect("UTF-8");
        let program = File::options().read(true).write(true).open(name);
        let program = program.expect("the other end opens");
        // Whatever the kernel's default is: a mode that the program must change and give back.
        let mut mode = tcgetattr(&program).expect("a terminal");
        mode.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(&program, OptionalActions::Now, &mode).expect("a mode");
        Terminal { user, program }
    }

    fn is_raw(&self) -> bool {
        let mode = tcgetattr(&self.program).expect("a terminal").local_modes;
        !mode.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn types(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.user, bytes), Ok(bytes.len()));
    }

    /// Runs a TD that stands still until a debugger comes, with this terminal as standard input.
    fn start(&self) -> Child {
        let input = self.program.try_clone().expect("another handle");
        let child = Command::new(env!("CARGO_BIN_EXE_swtdx"))
            .args(["run", "--quiet", "--debug-td", "--gdb", "127.0.0.1:0"])
            .args(["--gdb-wait", "--memory", "32M"])
            .stdin(Stdio::from(input))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        self.wait_until("the terminal is raw", || self.is_raw());
        child
    }

    fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ends(&self, child: &mut Child) -> ExitStatus {
        let mut status = None;
        self.wait_until("the program ends", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("just seen")
    }
}

#[test]
fn a_signal_gives_the_terminal_back_and_ends_the_program_as_it_would() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::HUP, 1), (Signal::INT, 2)] {
        let terminal = Terminal::new();
        let mut child = terminal.start();
        kill_process(Pid::from_child(&child), signal).expect("it lives");
        assert_eq!(terminal.ends(&mut child).signal(), Some(number));
        assert!(!terminal.is_raw(), "{signal:?}");
    }
}

#[test]
fn ctrl_c_is_the_guests_and_ctrl_a_x_twice_ends_even_a_run_that_stands_still() {
    let terminal = Terminal::new();
    let mut child = terminal.start();
    terminal.types(b"\x03\x1c\x1a");
    terminal.types(b"\x01x\x01x");
    assert_eq!(terminal.ends(&mut child).code(), Some(5));
    assert!(!terminal.is_raw());
}

#[test]
fn ctrl_a_x_ends_the_run_and_takes_the_td_down() {
    let terminal = Terminal::new();
    terminal.types(b"\x01x");
    let input = terminal.program.try_clone().expect("another handle");
    let output = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["run", "--memory", "1G", "--json"])
        .stdin(Stdio::from(input))
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(0));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(summary["end"], "ended by the user");
    assert_eq!(summary["teardown"]["lost_pages"], 0);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        said.contains("swtdx: console   Ctrl-a x ends the run"),
        "{said}"
    );
    assert!(!terminal.is_raw());
}
