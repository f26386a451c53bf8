//! `swtdx completions` and `swtdx man`: what shells and `man` read, made from the definitions clap parses with.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use crate::cli::Failure;

/// Example: swtdx completions bash > ~/.local/share/bash-completion/completions/swtdx
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell to write for
    shell: Shell,
}

pub fn completions(
    args: &CompletionsArgs,
    command: &mut clap::Command,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    // Through a buffer: clap_complete panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "swtdx", &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Example: swtdx man --out ~/.local/share/man/man1
#[derive(Args)]
pub struct ManArgs {
    /// Write swtdx.1 and a page for each subcommand into DIR; without it swtdx.1 goes to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn man(
    args: &ManArgs,
    command: clap::Command,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let Some(dir) = &args.out else {
        clap_mangen::Man::new(command).render(out)?;
        return Ok(ExitCode::SUCCESS);
    };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    written.map_err(|error| Failure::input(format_args!("{}: {error}", dir.display())))?;
    Ok(ExitCode::SUCCESS)
}
