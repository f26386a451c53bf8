//! `swtdx exec`: an ordinary program whose SEAMCALL and TDCALL instructions are served (docs/commands/exec.md).

mod guest_td;
mod host;
mod ptrace;
mod tracer;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use tdx_platform::{EngineKind, PlatformConfig};

use self::host::HostSide;
use self::ptrace::SpawnError;
use self::tracer::Tracer;
use crate::cli::Failure;
use crate::run::Size;

/// As env(1), nice(1) and timeout(1) have them.
const CANNOT_TRACE: u8 = 125;
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

const HELP: &str = "\
The program runs unmodified under ptrace. In its processes and threads, 66 0F 01 CF (SEAMCALL) calls a TDX module on
--lps simulated processors; the simulated physical memory is a file that the program maps: its path stands in
SWTDX_MEMORY, its size in bytes in SWTDX_MEMORY_SIZE (the C header swtdx_exec.h does it). 66 0F 01 CC (TDCALL) is made
by the guest of a small TD, whose private memory is the program's own: guest physical address = address.
The first thread that makes a call is processor 0, the next 1, and so on.

Exit status: the program's own; 128 + n when signal n killed it; 1 wrong usage, 3 the program reported a fatal error
through TDVMCALL, 6 the TD is dead, 70 lockstep found a difference or swtdx has a bug, 125 tracing is forbidden here, 126 the program cannot be executed, 127 it is not
found.

Examples:
  swtdx exec -- ./report                      a program that makes TDREPORTs
  swtdx exec --lps 4 -- ./bring-up --verbose  a host that brings a module up on four processors";

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Logical processors of the host, and virtual processors of the TD
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    lps: u16,
    /// Simulated physical memory: bytes, or with K, M or G, in multiples of 2M
    #[arg(long, value_name = "SIZE", default_value_t = Size(256 << 20))]
    memory: Size,
    /// Seed of keys and random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What runs the code of TDs that the program enters: translator, interpreter or lockstep, as in swtdx run
    #[arg(long, value_name = "ENGINE", default_value_t = EngineKind::Translator)]
    engine: EngineKind,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    out.flush()?;
    if !args.memory.0.is_multiple_of(2 << 20) {
        return Err(Failure::input(format_args!(
            "--memory {}: a multiple of 2M is wanted",
            args.memory
        )));
    }
    let config = PlatformConfig::new(1, args.lps.into(), args.memory.0);
    let (first, last) = config.machine.private_key_ids;
    let host = HostSide::new(config, args.seed, args.engine)
        .map_err(|why| Failure::with_code(70, format_args!("simulated memory: {why}")))?;
    let program = &args.command[0];
    if let Some(why) = wrong_machine(program.as_ref()) {
        let name = program.display();
        return Err(Failure::with_code(
            CANNOT_EXECUTE,
            format_args!("{name}: {why}"),
        ));
    }
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        host.file().as_raw_fd()
    );
    let mut command = Command::new(program);
    command
        .args(&args.command[1..])
        .env("SWTDX_MEMORY", path)
        .env("SWTDX_MEMORY_SIZE", host.size().to_string())
        .env("SWTDX_LPS", args.lps.to_string())
        .env("SWTDX_PRIVATE_KEYS", format!("{first}-{last}"));
    let main = ptrace::spawn(&mut command).map_err(|why| cannot_start(program.as_ref(), why))?;
    ptrace::leave_keys_to_the_program();
    Tracer::new(main, host, args.lps, args.seed).run()
}

fn cannot_start(program: &Path, why: SpawnError) -> Failure {
    let name = program.display();
    let why = match why {
        SpawnError::PtraceForbidden => {
            return Failure::with_code(
                CANNOT_TRACE,
                "ptrace is forbidden here: by seccomp (in a container: --cap-add=SYS_PTRACE or another seccomp \
                 profile), by kernel.yama.ptrace_scope = 3, or because swtdx itself is being traced",
            );
        }
        SpawnError::Exec(why) => why,
    };
    match why.raw_os_error() {
        Some(libc::ENOENT) if program.is_file() => Failure::with_code(
            CANNOT_EXECUTE,
            format_args!("{name}: its interpreter or dynamic loader is missing"),
        ),
        Some(libc::ENOENT | libc::ENOTDIR) => {
            Failure::with_code(NOT_FOUND, format_args!("{name}: program not found"))
        }
        Some(libc::EACCES) => Failure::with_code(
            CANNOT_EXECUTE,
            format_args!("{name}: not executable (permission denied)"),
        ),
        _ => Failure::with_code(CANNOT_EXECUTE, format_args!("{name}: {why}")),
    }
}

/// Why a program cannot be served, as far as its file tells: only 64-bit code has the two instructions. (The kernel's
/// own refusal is not seen: execvp gives such a file to the shell.)
fn wrong_machine(program: &Path) -> Option<&'static str> {
    let found = match program.components().count() {
        1 if !program.has_root() => std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())?,
        _ => program.to_owned(),
    };
    let mut head = [0; 20];
    io::Read::read_exact(&mut std::fs::File::open(found).ok()?, &mut head).ok()?;
    let machine = u16::from_le_bytes([head[18], head[19]]);
    match (head.starts_with(b"\x7FELF"), head[4], machine) {
        (false, ..) | (_, 2, EM_X86_64) => None,
        (_, 1, EM_386) => Some("a 32-bit program: SEAMCALL and TDCALL exist in 64-bit mode only"),
        _ => Some("not a program for x86-64 Linux"),
    }
}

/// Machines in an ELF header.
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
