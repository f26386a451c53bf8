//! `swtdx explain`: what a number, name, log line or report of the TDX world means.
//!
//! A value becomes one or more readings; what cannot be read is said to be unknown, never guessed.

mod exits;
mod fields;
mod leaves;
mod log;
mod reading;
pub mod report;
mod status;
mod value;
mod words;

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::cli::Failure;
use reading::Explanation;

const HELP: &str = "\
A VALUE is a number (0x…), a name (TDX_OPERAND_BUSY, TDH.MEM.TRACK, TD_CTLS), the path of a TDREPORT or quote,
or KIND:NUMBER where a number alone could be many things. KIND is one of
  status leaf tdcall field vmcall exit eeq intr gpa sept info mask attributes xfam config
exit takes REASON[,QUALIFICATION[,EXTENDED]] and sept takes ENTRY[,INFO].
Without a VALUE (or with -) standard input is read as a log: lines it knows are shown with their explanation.

Examples:
  swtdx explain 0x8000020000000092
  swtdx explain TDH.MEM.PAGE.AUG mask:0xffcc attributes:0x10000000
  swtdx explain exit:48,0x182,0x6
  dmesg | swtdx explain
  swtdx explain --json 0x9110000300000010
  swtdx explain tdreport.bin

Exit status: 0 when everything was explained, 3 when something is unknown, 1 on wrong input.";

/// Exit status when a value has no explanation.
const UNKNOWN: u8 = 3;
/// A log longer than this is not one that was pasted.
const MAX_LOG: u64 = 64 << 20;
/// Reports have 1024 bytes, quotes some thousand.
const MAX_FILE: u64 = 1 << 20;

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Numbers, names or files to explain
    #[arg(value_name = "VALUE")]
    values: Vec<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let explanations = if args.values.is_empty() || args.values == ["-"] {
        if args.values.is_empty() && io::stdin().is_terminal() {
            return Err(Failure::input(
                "give a value, or a log on standard input (see swtdx explain --help)",
            ));
        }
        log::explain(&read_log()?)
    } else {
        args.values
            .iter()
            .map(|value| explain(value))
            .collect::<Result<Vec<_>, _>>()?
    };
    if explanations.is_empty() {
        return Err(Failure::with_code(
            UNKNOWN,
            "no line of this log says anything known about TDX",
        ));
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &explanations).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        reading::write(&explanations, out)?;
    }
    let all_known = explanations
        .iter()
        .all(|explanation| !explanation.readings.is_empty());
    Ok(ExitCode::from(if all_known { 0 } else { UNKNOWN }))
}

/// The explanation of one value as people read it, for a debugger's user. No files are read.
pub fn words(value: &str) -> String {
    let readings = match value::read(value) {
        Ok(readings) => readings,
        Err(why) => return format!("{value}: {why}"),
    };
    let mut out = Vec::new();
    // A vector takes every byte.
    let _ = reading::write(&[Explanation::new(value, readings)], &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Explains one argument: a value, else a file of that name.
fn explain(text: &str) -> Result<Explanation, Failure> {
    let readings =
        value::read(text).map_err(|error| Failure::input(format_args!("{text}: {error}")))?;
    let path = Path::new(text);
    if readings.is_empty() && path.is_file() {
        let fail = |error: io::Error| Failure::input(format_args!("{text}: {error}"));
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .map_err(fail)?
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        let readings = report::read(&bytes)
            .map_err(|error| Failure::input(format_args!("{text}: {error}")))?;
        return Ok(Explanation::new(text, readings));
    }
    if readings.is_empty() && text.contains('/') && !path.exists() {
        return Err(Failure::input(format_args!(
            "{text}: no such file, and no value"
        )));
    }
    Ok(Explanation::new(text, readings))
}

fn read_log() -> Result<String, Failure> {
    let fail = |error| Failure::input(format_args!("standard input: {error}"));
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_LOG + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > MAX_LOG {
        return Err(Failure::input(format_args!(
            "standard input: a log of more than {} MiB",
            MAX_LOG >> 20
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the fuzzer and the tests do with arbitrary text: explain it as a value and as a log, and print that.
///
/// # Panics
/// When something that is read cannot be written.
pub fn fuzz_explain(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut explanations = log::explain(&text);
    explanations.extend(
        value::read(&text)
            .ok()
            .map(|readings| Explanation::new(text.as_ref(), readings)),
    );
    explanations.extend(
        report::read(bytes)
            .ok()
            .map(|readings| Explanation::new("bytes", readings)),
    );
    let mut out = Vec::new();
    reading::write(&explanations, &mut out).expect("a vector takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_explain(&bytes);
        }

        #[test]
        fn every_kind_takes_every_number(kind in 0..value::KINDS.len(), number in any::<u64>(), more in any::<u64>()) {
            let (kind, _) = value::KINDS[kind];
            fuzz_explain(format!("{kind}:{number:#x}").as_bytes());
            fuzz_explain(format!("{kind}:{number:#x},{more:#x},{number}").as_bytes());
        }

        #[test]
        fn a_report_of_any_bytes_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 1024..1400), head in 0..3) {
            match head {
                0 => bytes[..4].copy_from_slice(&[0x81, 0, 0, 0]),
                1 => bytes[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]),
                _ => bytes[..8].copy_from_slice(&[5, 0, 2, 0, 0x81, 0, 0, 0]),
            }
            fuzz_explain(&bytes);
        }
    }
}
