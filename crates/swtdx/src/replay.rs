//! `swtdx replay`: recorded calls of Intel's module, played on the software module.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use conformance::{Counts, Mismatch, Profile, Replay, ReplayError};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::cli::Failure;

/// Bytes of a file that takes a while.
const LONG: u64 = 32 << 20;

const MISMATCH: u8 = 2;
const NOT_UNDERSTOOD: u8 = 3;
const PANICKED: u8 = 4;

const HELP: &str = "\
Each mismatch is one line: file, line, leaf, register, expected and got. Each file ends with what was compared.

Exit status: 0 everything equal, 1 wrong usage or unreadable file, 2 a mismatch, 3 a trace holds something the
format does not know, 4 the module failed; of several the highest.

Examples:
  swtdx replay trace.jsonl
  swtdx replay --keep-going --json traces/*.jsonl";

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Traces, one JSON object per line
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Go on after a mismatch, to the end of every file
    #[arg(long)]
    keep_going: bool,
    /// Print JSON, one object per line: mismatches, errors and files
    #[arg(long)]
    json: bool,
    /// Replay on this module instead of the one that the trace names
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    module: Option<&'static Profile>,
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    let names = || Profile::ALL.map(|p| p.name).join(", ");
    Profile::by_name(name).ok_or_else(|| format!("no such module: one of {} exists", names()))
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Mismatch {
        file: &'a Path,
        #[serde(flatten)]
        mismatch: &'a Mismatch,
    },
    Error {
        file: &'a Path,
        message: String,
    },
    File {
        file: &'a Path,
        #[serde(flatten)]
        counts: Counts,
    },
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut worst = 0;
    for file in &args.files {
        worst = worst.max(replay(file, args, out)?);
        if worst != 0 && !args.keep_going {
            break;
        }
    }
    Ok(ExitCode::from(worst))
}

/// Replays one file and gives its exit status.
fn replay(file: &Path, args: &Args, out: &mut dyn Write) -> Result<u8, Failure> {
    let opened = File::open(file);
    let input = opened.map_err(|e| Failure::input(format_args!("{}: {e}", file.display())))?;
    let bar = progress(&input);
    let input = bar.wrap_read(input);
    let mut say = |line: Line<'_>| print(out, args.json, &line);
    let mut replay = match Replay::with_profile(BufReader::new(input), args.module) {
        Ok(replay) => replay,
        Err(error) => {
            say(Line::Error {
                file,
                message: error.to_string(),
            })?;
            return Ok(NOT_UNDERSTOOD);
        }
    };
    let error = loop {
        match replay.step() {
            Ok(None) => break None,
            Err(error) => break Some(error),
            Ok(Some(mismatches)) => {
                for mismatch in &mismatches {
                    say(Line::Mismatch { file, mismatch })?;
                }
                if !mismatches.is_empty() && !args.keep_going {
                    break None;
                }
            }
        }
    };
    bar.finish_and_clear();
    let counts = replay.counts();
    let mut code = if counts.mismatches > 0 { MISMATCH } else { 0 };
    if let Some(error) = error {
        code = match error {
            ReplayError::Read(_) => NOT_UNDERSTOOD,
            ReplayError::Panicked { .. } => PANICKED,
        };
        say(Line::Error {
            file,
            message: error.to_string(),
        })?;
    }
    say(Line::File { file, counts })?;
    Ok(code)
}

/// How far a long file is read, on standard error when that is a terminal.
fn progress(file: &File) -> ProgressBar {
    match file.metadata().map_or(0, |metadata| metadata.len()) {
        size @ LONG.. => ProgressBar::new(size),
        _ => ProgressBar::hidden(),
    }
}

fn print(out: &mut dyn Write, json: bool, line: &Line<'_>) -> std::io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, line)?;
        return writeln!(out);
    }
    match line {
        Line::Mismatch { file, mismatch } => writeln!(out, "{}: {mismatch}", file.display()),
        Line::Error { file, message } => writeln!(out, "{}: {message}", file.display()),
        Line::File { file, counts } => writeln!(out, "{}: {counts}", file.display()),
    }
}
