//! The command line as a whole: the list of subcommands, exit codes, and how a failure is reported.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::exec;
use crate::{explain, measure, plan, replay, run, shell, trace};

const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (models the Intel TDX module ABI 1.5.01)"
);

const EXIT_CODES: &str = "\
Exit status: 0 success, 1 wrong usage or input; more in each command's help.
Manual pages: swtdx man --out DIR. Shell completions: swtdx completions bash.";

/// Software Intel TDX: what swtpm is to the TPM.
#[derive(Parser)]
#[command(name = "swtdx", version = VERSION, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One variant for each subcommand: its arguments and, in `dispatch`, its function.
#[derive(Subcommand)]
enum Command {
    /// Boot a TD and show its whole life
    Run(Box<run::Args>),
    /// Show recorded calls as text, filtered and counted
    Trace(trace::Args),
    /// Replay recorded calls and compare every answer
    Replay(replay::Args),
    /// Run a program whose SEAMCALL and TDCALL instructions are served
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Exec(exec::Args),
    /// Say what a status, leaf, field id, exit, report or log line means
    Explain(explain::Args),
    /// Compute MRTD and RTMRs before launch, say why a report differs
    Measure(measure::Args),
    /// Plan TDMRs, reserved areas and PAMTs for a machine's memory
    Plan(plan::Args),
    /// Print a completion script for a shell
    Completions(shell::CompletionsArgs),
    /// Write the manual pages
    Man(shell::ManArgs),
}

fn dispatch(command: Command, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => run::run(&args, out),
        Command::Trace(args) => trace::run(&args, out),
        Command::Replay(args) => replay::run(&args, out),
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Exec(args) => exec::run(&args, out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Measure(args) => measure::run(&args, out),
        Command::Plan(args) => plan::run(&args, out),
        Command::Completions(args) => shell::completions(&args, &mut Cli::command(), out),
        Command::Man(args) => shell::man(&args, Cli::command(), out),
    }
}

/// Parses the process's arguments, runs the subcommand and reports what it returned.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version are answers, the rest is wrong usage.
            let wrong = message.use_stderr();
            let _ = message.print();
            return ExitCode::from(u8::from(wrong));
        }
    };
    let mut out = io::stdout().lock();
    let result = dispatch(cli.command, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => code,
        Err(Failure {
            quiet: true, code, ..
        }) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("swtdx: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Why a command gave up: one line for people, one number for scripts.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
    quiet: bool,
}

impl Failure {
    /// Wrong usage or input (exit status 1). The text names the file, offset or operand.
    pub fn input(text: impl fmt::Display) -> Failure {
        Failure::with_code(1, text)
    }
    /// A failure with an exit status of its own, which the command's help lists.
    pub fn with_code(code: u8, text: impl fmt::Display) -> Failure {
        Failure {
            code,
            text: text.to_string(),
            quiet: false,
        }
    }
}

impl Failure {
    /// The exit status.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<io::Error> for Failure {
    /// Writing the result failed. A reader that closed its end (`swtdx … | head`) is no failure of ours.
    fn from(error: io::Error) -> Failure {
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        Failure {
            code: u8::from(!closed),
            text: format!("writing the output: {error}"),
            quiet: closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_one_screen() {
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 24, "{help}");
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.quiet && failure.code == 0);
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!failure.quiet && failure.code == 1);
    }
}
