//! Linux's ptrace, waiting for tracees, and the memory of another process: what no safe interface offers for every
//! signal number.
#![expect(
    unsafe_code,
    reason = "ptrace, waitpid and process_vm_readv are raw system calls"
)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use libc::{c_int, c_long, c_void, pid_t, siginfo_t, user_fpregs_struct, user_regs_struct};

/// What pre_exec answers where ptrace is forbidden; exec itself never fails with it.
const NO_PTRACE: i32 = libc::EDOM;

/// Why a program did not start.
#[derive(Debug)]
pub enum SpawnError {
    /// The kernel lets nobody trace here.
    PtraceForbidden,
    Exec(io::Error),
}

/// A thread that this thread traces, stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tracee(pub pid_t);

/// What `wait` saw of a tracee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Exited(i32),
    Killed(i32),
    /// Stopped by a signal that is about to be delivered, or at an event (`PTRACE_EVENT_*`, 0 for none).
    Stopped {
        signal: i32,
        event: i32,
    },
}

/// Starts a program that stops right after its exec, traced by this thread.
pub fn spawn(command: &mut Command) -> Result<Tracee, SpawnError> {
    // SAFETY: between fork and exec the closure makes one system call and reads errno: async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(io::Error::from_raw_os_error(NO_PTRACE)),
            _ => Ok(()),
        });
    }
    match command.spawn() {
        Ok(child) => Ok(Tracee(child.id() as pid_t)),
        Err(why) if why.raw_os_error() == Some(NO_PTRACE) => Err(SpawnError::PtraceForbidden),
        Err(why) => Err(SpawnError::Exec(why)),
    }
}

/// Waits for a change of any tracee, or only looks; `None` when nothing changed.
///
/// # Errors
/// `ECHILD`: no tracee is left.
pub fn wait(block: bool) -> io::Result<Option<(Tracee, State)>> {
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one word to `status`.
        let pid = unsafe { libc::waitpid(-1, &mut status, flags) };
        match pid {
            -1 => {
                let why = io::Error::last_os_error();
                if why.kind() != io::ErrorKind::Interrupted {
                    return Err(why);
                }
            }
            0 => return Ok(None),
            pid => return Ok(Some((Tracee(pid), state(status)))),
        }
    }
}

fn state(status: c_int) -> State {
    if libc::WIFEXITED(status) {
        State::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        State::Killed(libc::WTERMSIG(status))
    } else {
        State::Stopped {
            signal: libc::WSTOPSIG(status),
            event: status >> 16,
        }
    }
}

impl Tracee {
    /// Follows clones, forks and execs from now on, and kills everything when the tracer ends.
    pub fn follow(self) -> io::Result<()> {
        let options = libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_EXITKILL;
        self.request(libc::PTRACE_SETOPTIONS, c_long::from(options))
    }

    /// Lets the thread run on, with this signal delivered (0 for none).
    pub fn resume(self, signal: i32) -> io::Result<()> {
        self.request(libc::PTRACE_CONT, c_long::from(signal))
    }

    pub fn registers(self) -> io::Result<user_regs_struct> {
        // SAFETY: the request fills a structure of this type.
        unsafe { self.get(libc::PTRACE_GETREGS) }
    }
    pub fn set_registers(self, registers: &user_regs_struct) -> io::Result<()> {
        let from: *const user_regs_struct = registers;
        self.request(libc::PTRACE_SETREGS, from as c_long)
    }
    /// x87 and SSE state, as FXSAVE lays it out.
    pub fn vectors(self) -> io::Result<user_fpregs_struct> {
        // SAFETY: the request fills a structure of this type.
        unsafe { self.get(libc::PTRACE_GETFPREGS) }
    }
    pub fn set_vectors(self, vectors: &user_fpregs_struct) -> io::Result<()> {
        let from: *const user_fpregs_struct = vectors;
        self.request(libc::PTRACE_SETFPREGS, from as c_long)
    }

    /// `si_code` of the signal that stopped the thread; `None` in a group stop, which has none.
    pub fn signal_code(self) -> Option<i32> {
        // SAFETY: the request fills a structure of this type.
        let info: io::Result<siginfo_t> = unsafe { self.get(libc::PTRACE_GETSIGINFO) };
        info.ok().map(|info| info.si_code)
    }
    /// The message of an event: the new thread's number, or the one an exec had before.
    pub fn event_message(self) -> io::Result<pid_t> {
        // SAFETY: the request stores one word.
        let message: libc::c_ulong = unsafe { self.get(libc::PTRACE_GETEVENTMSG) }?;
        Ok(message as pid_t)
    }

    /// Sends the thread's process SIGKILL.
    pub fn kill(self) {
        // SAFETY: a system call without pointers; the process is a tracee of ours, so its number is not reused.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    fn request(self, request: libc::c_uint, data: c_long) -> io::Result<()> {
        // SAFETY: the kernel checks that the thread is a stopped tracee; `data` is a number, or points to a structure
        // that the request only reads and that the caller's reference keeps alive.
        match unsafe { libc::ptrace(request, self.0, ptr::null_mut::<c_void>(), data) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// # Safety
    /// The request stores exactly one `T`, for which any bytes are valid.
    unsafe fn get<T>(self, request: libc::c_uint) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let to: *mut c_void = value.as_mut_ptr().cast();
        // SAFETY: the caller's promise; the place is as large as the type.
        match unsafe { libc::ptrace(request, self.0, ptr::null_mut::<c_void>(), to) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: filled by the kernel, and zeroed before.
            _ => Ok(unsafe { value.assume_init() }),
        }
    }

    /// Reads the process's memory; false unless every byte can be read by the process itself.
    pub fn read(self, from: u64, to: &mut [u8]) -> bool {
        let local = libc::iovec {
            iov_base: to.as_mut_ptr().cast(),
            iov_len: to.len(),
        };
        let remote = libc::iovec {
            iov_base: from as *mut c_void,
            iov_len: to.len(),
        };
        // SAFETY: the local side is the caller's slice; the kernel checks the remote side.
        let read = unsafe { libc::process_vm_readv(self.0, &local, 1, &remote, 1, 0) };
        read == to.len() as isize
    }
    /// Writes the process's memory; false unless every byte can be written by the process itself.
    pub fn write(self, to: u64, from: &[u8]) -> bool {
        let local = libc::iovec {
            iov_base: from.as_ptr().cast_mut().cast(),
            iov_len: from.len(),
        };
        let remote = libc::iovec {
            iov_base: to as *mut c_void,
            iov_len: from.len(),
        };
        // SAFETY: the kernel only reads the local side, the caller's slice, and checks the remote side.
        let written = unsafe { libc::process_vm_writev(self.0, &local, 1, &remote, 1, 0) };
        written == from.len() as isize
    }
    /// The four bytes of code at an address, execute-only memory included.
    pub fn code(self, at: u64) -> Option<[u8; 4]> {
        let mut bytes = [0; 4];
        if self.read(at, &mut bytes) {
            return Some(bytes);
        }
        // PTRACE_PEEKTEXT through its file, which reads whatever is mapped.
        let memory = File::open(format!("/proc/{}/mem", self.0)).ok()?;
        let read = std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, at);
        read.ok().map(|()| bytes)
    }
}

/// A file in memory without a name, closed in programs that this one starts.
pub fn memory_file(size: u64) -> io::Result<File> {
    // SAFETY: the name is a C string; a new descriptor comes back, which nobody else owns.
    let file = unsafe {
        match libc::memfd_create(c"swtdx".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => return Err(io::Error::last_os_error()),
            fd => File::from_raw_fd(fd),
        }
    };
    file.set_len(size)?;
    Ok(file)
}

/// Leaves the terminal's interrupt and quit keys to the program, which gets them too. Children start without the mask:
/// `Command` clears it.
pub fn leave_keys_to_the_program() {
    // SAFETY: the set is initialised by sigemptyset before it is used; no pointer outlives the calls.
    unsafe {
        let mut set = MaybeUninit::zeroed();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGQUIT);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
    }
}
