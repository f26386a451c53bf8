//! `swtdx trace`: recorded calls as readable text, filtered and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use conformance::show::{Row, Rows};
use serde::Serialize;
use tdx_abi::{GuestLeaf, HostLeaf, Status};

use crate::cli::Failure;

const HELP: &str = "\
A row is a call of the host, or (indented) what the guest did in a TDH.VP.ENTER: line of the file, processor, leaf, operands
by name, completion status, results. With a filter only calls and acts that match every filter are shown.

Exit status: 0 success, 1 wrong usage, or a file that is no trace (told with its line).

Examples:
  swtdx run --record boot.jsonl && swtdx trace boot.jsonl
  swtdx trace boot.jsonl --leaf TDH.MEM.PAGE.ADD --leaf TDH.MR.EXTEND
  swtdx trace boot.jsonl --td 0x101000 --vcpu 1 --status OPERAND_BUSY
  swtdx trace boot.jsonl --count";

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Traces, one JSON object per line; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show this leaf (TDH.… or TDG.…), or exit reason of a guest, only; several times: any of them
    #[arg(long, value_name = "NAME", value_parser = leaf)]
    leaf: Vec<String>,
    /// Show calls that name this TD, by the address of its TDR page, and what its guest does
    #[arg(long, value_name = "TDR", value_parser = number)]
    td: Option<u64>,
    /// Show calls of this vCPU, counted from 0 in the order of TDH.VP.CREATE in its TD
    #[arg(long, value_name = "N")]
    vcpu: Option<u32>,
    /// Show calls with this completion status, by name; several times: any of them
    #[arg(long, value_name = "NAME", value_parser = status)]
    status: Vec<String>,
    /// Show how often each leaf came to each status instead
    #[arg(long)]
    count: bool,
    /// Print JSON, one object per row
    #[arg(long)]
    json: bool,
}

fn leaf(name: &str) -> Result<String, String> {
    let upper = name.to_ascii_uppercase();
    let host = HostLeaf::parse(&upper).and_then(HostLeaf::name);
    let guest = GuestLeaf::parse(&upper).and_then(GuestLeaf::name);
    let reason = x86_arch::ExitReason::ALL
        .iter()
        .find_map(|reason| reason.name().filter(|name| *name == upper));
    let known = host.or(guest).or(reason);
    known.map(str::to_owned).ok_or_else(|| {
        "no leaf (such as TDH.MEM.PAGE.ADD) and no exit reason (such as EPT_VIOLATION)".into()
    })
}

fn status(name: &str) -> Result<String, String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("TDX_").unwrap_or(&upper);
    let known = Status::ALL
        .iter()
        .filter_map(|status| status.name())
        .find(|name| *name == bare);
    known
        .map(str::to_owned)
        .ok_or_else(|| "no completion status (such as OPERAND_BUSY)".into())
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "an address in hexadecimal".into())
}

impl Args {
    fn filters(&self) -> bool {
        !self.leaf.is_empty() || self.td.is_some() || self.vcpu.is_some() || !self.status.is_empty()
    }

    fn shows(&self, row: &Row) -> bool {
        // A version stands behind the name, a sub-function too.
        let name = row.what.split(' ').next().unwrap_or_default();
        (self.leaf.is_empty() || self.leaf.iter().any(|leaf| leaf == name))
            && self.td.is_none_or(|td| row.td == Some(td))
            && self.vcpu.is_none_or(|vcpu| row.vcpu == Some(vcpu))
            && (self.status.is_empty() || self.status.contains(&row.status))
    }
}

#[derive(Serialize)]
struct Count<'a> {
    what: &'a str,
    status: &'a str,
    count: u64,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut out = io::BufWriter::new(out);
    let mut counts = BTreeMap::new();
    for path in &args.files {
        let name = path.display();
        let wrong = |why: &dyn std::fmt::Display| Failure::input(format_args!("{name}: {why}"));
        let input: Box<dyn BufRead> = match path.to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => Box::new(BufReader::new(File::open(path).map_err(|why| wrong(&why))?)),
        };
        let mut rows = Rows::new(input).map_err(|why| wrong(&why))?;
        if !args.json && !args.count && !args.filters() {
            writeln!(out, "{}", rows.title())?;
        }
        loop {
            // What came before a line that cannot be read has been shown.
            let shown = match rows.next_line() {
                Ok(Some(shown)) => shown,
                Ok(None) => break,
                Err(why) => {
                    out.flush()?;
                    return Err(wrong(&why));
                }
            };
            for row in shown
                .iter()
                .filter(|row| !args.filters() || args.shows(row))
            {
                if args.count {
                    let outcome = match row.status.is_empty() {
                        true => &row.outcome,
                        false => &row.status,
                    };
                    if !outcome.is_empty() {
                        *counts
                            .entry((row.what.clone(), outcome.clone()))
                            .or_insert(0) += row.times;
                    }
                } else if args.json {
                    serde_json::to_writer(&mut out, row).map_err(io::Error::from)?;
                    writeln!(out)?;
                } else {
                    writeln!(out, "{row}")?;
                }
            }
        }
    }
    for ((what, status), count) in &counts {
        match args.json {
            true => {
                let count = Count {
                    what,
                    status,
                    count: *count,
                };
                serde_json::to_writer(&mut out, &count).map_err(io::Error::from)?;
                writeln!(out)?;
            }
            false => writeln!(out, "{count:>10}  {what:<34}  {status}")?,
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
