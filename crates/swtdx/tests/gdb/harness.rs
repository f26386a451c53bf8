//! A TD that waits for its debugger, and the debugger.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guest_images::GuestImage;

/// Nothing here takes longer: what does hangs.
const PATIENCE: Duration = Duration::from_secs(100);

/// A folder of a test's own.
pub fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join("gdb")
        .join(test);
    fs::create_dir_all(&folder).expect("a writable folder");
    folder
}

/// A guest's files.
pub struct GuestFiles {
    pub image: PathBuf,
    pub elf: PathBuf,
}

pub fn write_guest(folder: &Path, guest: &GuestImage) -> GuestFiles {
    let files = GuestFiles {
        image: folder.join(format!("{}.tdvf", guest.name)),
        elf: folder.join(format!("{}.elf", guest.name)),
    };
    fs::write(&files.image, guest.tdvf).expect("a writable folder");
    fs::write(&files.elf, guest.elf).expect("a writable folder");
    files
}

/// What comes out of a pipe, as it comes.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<String>>);

impl Heard {
    fn listen(pipe: impl Read + Send + 'static) -> (Heard, JoinHandle<()>) {
        let heard = Heard::default();
        let to = heard.clone();
        let thread = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
                to.lock().push_str(&String::from_utf8_lossy(&bytes));
                bytes.clear();
            }
        });
        (heard, thread)
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn all(&self) -> String {
        self.lock().clone()
    }
}

/// `swtdx run --debug-td --gdb`.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
    console: (Heard, JoinHandle<()>),
    words: (Heard, JoinHandle<()>),
}

/// How it ended.
pub struct Ended {
    pub status: ExitStatus,
    pub console: String,
    pub words: String,
}

impl Server {
    /// Starts it; it listens when this returns.
    pub fn start<A: AsRef<std::ffi::OsStr>>(
        folder: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Server {
        let socket = folder.join("socket");
        let _ = fs::remove_file(&socket);
        let mut child = Command::new(env!("CARGO_BIN_EXE_swtdx"))
            .args(["run", "--debug-td", "--timeout", "100", "--gdb"])
            .arg(format!("unix:{}", socket.display()))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("swtdx starts");
        let console = Heard::listen(child.stdout.take().expect("piped"));
        let words = Heard::listen(child.stderr.take().expect("piped"));
        let server = Server {
            child,
            socket,
            console,
            words,
        };
        server.wait_for_words("target remote");
        server
    }

    /// Waits until the program has said something on standard error.
    pub fn wait_for_words(&self, what: &str) {
        wait(what, || self.words.0.all());
    }

    /// Waits until the guest's console has shown something; gives all that it has shown.
    pub fn wait_for_console(&self, what: &str) -> String {
        wait(what, || self.console.0.all())
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.console.1.join().expect("it only reads");
        self.words.1.join().expect("it only reads");
        Ended {
            status,
            console: self.console.0.all(),
            words: self.words.0.all(),
        }
    }
}

fn wait(what: &str, said: impl Fn() -> String) -> String {
    let begun = Instant::now();
    loop {
        let all = said();
        if all.contains(what) {
            return all;
        }
        assert!(begun.elapsed() < PATIENCE, "{what:?} does not come:\n{all}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether there is a GDB; says so when there is none.
pub fn gdb_is_here() -> bool {
    let found = program().is_some();
    if !found {
        println!(
            "SKIPPED gdb: it is not on this machine, nor in target/guests (cargo xtask guests gdb)"
        );
    }
    found
}

/// The machine's own GDB, or the one that `cargo xtask guests` obtained.
fn program() -> Option<&'static str> {
    const OBTAINED: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/guests/gdb/run/gdb"
    );
    ["gdb", OBTAINED]
        .into_iter()
        .find(|gdb| Command::new(gdb).arg("--version").output().is_ok())
}

/// Real GDB at work on a script.
pub struct Gdb {
    child: Child,
    said: (Heard, JoinHandle<()>),
}

const PROLOGUE: &str = "\
set pagination off
set confirm off
set width 0
set language c
set architecture i386:x86-64
";

impl Gdb {
    pub fn start(folder: &Path, elf: Option<&Path>, server: &Server, script: &str) -> Gdb {
        let file = folder.join("script");
        let socket = server.socket.display();
        let script = format!("{PROLOGUE}target remote {socket}\n{script}");
        fs::write(&file, script).expect("a writable folder");
        let mut child = Command::new("sh")
            // What it says on standard error belongs between its other words.
            .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
            .arg(program().expect("asked for before"))
            .args(["-nx", "-batch", "-x"])
            .arg(&file)
            .args(elf)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gdb starts");
        let said = Heard::listen(child.stdout.take().expect("piped"));
        Gdb { child, said }
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        let sent = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    /// Waits until it has said something.
    pub fn wait_for(&self, what: &str) -> String {
        wait(what, || self.said.0.all())
    }

    /// Waits for the script's end; gives all that it said.
    pub fn end(mut self) -> String {
        let begun = Instant::now();
        while self.child.try_wait().expect("it is ours").is_none() {
            if begun.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.said.1.join().expect("it only reads");
        self.said.0.all()
    }
}

/// A client that speaks the remote protocol by hand.
pub struct Client(UnixStream);

impl Client {
    pub fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).expect("it listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a Unix socket");
        Client(stream)
    }

    /// Sends bytes as they are. A server that has hung up is no error here.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    pub fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.raw(format!("${packet}#{sum:02x}").as_bytes());
    }

    /// The next packet, acknowledged; `None` when the server has hung up.
    pub fn receive(&mut self) -> Option<String> {
        let mut byte = [0];
        let mut packet: Option<Vec<u8>> = None;
        loop {
            if !matches!(self.0.read(&mut byte), Ok(1)) {
                return None;
            }
            match (byte[0], &mut packet) {
                (b'$', _) => packet = Some(Vec::new()),
                (b'#', Some(packet)) => {
                    let packet = String::from_utf8_lossy(packet).into_owned();
                    let mut sum = [0; 2];
                    self.0.read_exact(&mut sum).ok()?;
                    self.raw(b"+");
                    return Some(expanded(&packet));
                }
                (other, Some(packet)) => packet.push(other),
                (_, None) => {}
            }
        }
    }

    /// A request and its answer.
    pub fn ask(&mut self, packet: &str) -> Option<String> {
        self.send(packet);
        self.receive()
    }
}

/// Run-length encoding undone: `x*N` is x and N's code less 29 more of it.
fn expanded(packet: &str) -> String {
    let mut text = String::new();
    let mut rest = packet.chars();
    while let Some(next) = rest.next() {
        match (next, text.chars().last()) {
            ('*', Some(last)) => {
                let times = rest.next().map_or(0, |n| (n as usize).saturating_sub(29));
                text.extend(std::iter::repeat_n(last, times));
            }
            (next, _) => text.push(next),
        }
    }
    text
}
