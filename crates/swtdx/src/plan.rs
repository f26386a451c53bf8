//! `swtdx plan`: TDMRs, reserved areas and PAMTs for the memory of a machine, with a reason for each choice.

use std::io::{self, IsTerminal, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tdx_host::Tdmr;
use tdx_host::plan::{PlanLimits, TdmrPlan, plan};

use crate::cli::Failure;

const HELP: &str = "\
CMRS is a list of memory ranges, one a line, or a kernel log pasted whole. It reads
  [0x100000, 0x77800000)   half-open, as Linux prints CMRs; also 0x100000..0x77800000
  0x100000-0x777fffff      inclusive, as in /proc/iomem
Of a log the lines with CMR are the ranges, and e820 lines that say usable are the memory of which TDX may have
everything above 1 MiB.

Examples:
  swtdx plan cmrs.txt
  dmesg | swtdx plan
  swtdx plan --max-tdmrs 4 --json cmrs.txt

Exit status: 0 planned, 1 on wrong input, 5 when no plan keeps the limits.";

/// Exit status when there is no plan.
const NO_PLAN: u8 = 5;
/// A longer input is no list of memory ranges.
const MAX_INPUT: u64 = 64 << 20;
/// The module knows 32; more are a mistake, and planning them all would take long.
const MAX_RANGES: usize = 4096;
/// Characters of a TDMR's picture.
const PICTURE: u64 = 64;

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// File with the ranges; standard input without it or with -
    cmrs: Option<PathBuf>,
    /// TDMRs that the module takes
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tdmrs: usize,
    /// Reserved areas of a TDMR
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_reserved: usize,
    /// Bytes of a PAMT entry
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pamt_entry_size: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let (name, text) = input(args)?;
    let fail = |error: String| Failure::input(format_args!("{name}: {error}"));
    let Memory { cmrs, usable } = read(&text).map_err(fail)?;
    let limits = PlanLimits {
        max_tdmrs: args.max_tdmrs,
        max_reserved: args.max_reserved,
        pamt_entry_sizes: [args.pamt_entry_size; 3],
    };
    let plan = plan(&limits, &cmrs, &usable)
        .map_err(|error| Failure::with_code(NO_PLAN, format_args!("{name}: {error}")))?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &as_json(&plan)).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&plan, &cmrs, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn input(args: &Args) -> Result<(String, String), Failure> {
    let path = args.cmrs.as_ref().filter(|path| path.as_os_str() != "-");
    let name = path.map_or("standard input".to_owned(), |path| {
        path.display().to_string()
    });
    let fail = |error: io::Error| Failure::input(format_args!("{name}: {error}"));
    let source: Box<dyn Read> = match path {
        Some(path) => Box::new(std::fs::File::open(path).map_err(fail)?),
        None if args.cmrs.is_none() && io::stdin().is_terminal() => {
            return Err(Failure::input(
                "give a file of CMRs, or a kernel log on standard input (see swtdx plan --help)",
            ));
        }
        None => Box::new(io::stdin().lock()),
    };
    let mut bytes = Vec::new();
    source
        .take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Failure::input(format_args!(
            "{name}: more than {} MiB",
            MAX_INPUT >> 20
        )));
    }
    Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
}

/// What a list or a log says of memory.
#[derive(Debug, PartialEq)]
struct Memory {
    cmrs: Vec<Range<u64>>,
    /// The host's memory; everything when nothing is said of it.
    usable: Vec<Range<u64>>,
}

/// What the fuzzer and the tests do with arbitrary text: read it as a memory map or log, plan for it, and print that.
///
/// # Panics
/// When a plan cannot be printed.
pub fn fuzz_cmrs(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(Memory { cmrs, usable }) = read(&text) else {
        return;
    };
    if let Ok(plan) = plan(&PlanLimits::default(), &cmrs, &usable) {
        print(&plan, &cmrs, &mut io::sink()).expect("a sink takes every byte");
    }
}

fn read(text: &str) -> Result<Memory, String> {
    let mut cmrs = Vec::new();
    let mut usable = Vec::new();
    let is_log = text.lines().any(|line| mentions_cmr(line).is_some());
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        let e820 = line.contains("e820") && line.contains("mem ");
        let source = match mentions_cmr(line) {
            Some(after) => after,
            None if is_log && e820 => line.split_once("mem ").map_or(line, |(_, after)| after),
            None if is_log => continue,
            None => line.split('#').next().unwrap_or("").trim(),
        };
        if source.is_empty() {
            continue;
        }
        let range = range(source).ok_or(format!(
            "line {number}: no memory range in {:?}",
            short(line)
        ))?;
        if range.start >= range.end {
            return Err(format!(
                "line {number}: the range ends before it begins: {:?}",
                short(line)
            ));
        }
        match is_log && e820 {
            true if line.trim_end().ends_with("usable") => {
                usable.push(range.start.max(1 << 20)..range.end)
            }
            true => {}
            false => cmrs.push(range),
        }
        if cmrs.len() > MAX_RANGES || usable.len() > MAX_RANGES {
            return Err(format!("line {number}: more than {MAX_RANGES} ranges"));
        }
    }
    usable.retain(|range| range.start < range.end);
    if cmrs.is_empty() {
        return Err("no memory range in it".to_owned());
    }
    for list in [&mut cmrs, &mut usable] {
        list.sort_unstable_by_key(|range| range.start);
        if let Some(pair) = list.windows(2).find(|pair| pair[1].start < pair[0].end) {
            return Err(format!(
                "ranges {} and {} overlap",
                show(&pair[0]),
                show(&pair[1])
            ));
        }
    }
    if usable.is_empty() {
        usable.push(0..u64::MAX);
    }
    Ok(Memory { cmrs, usable })
}

/// What follows `CMR` in a log line.
fn mentions_cmr(line: &str) -> Option<&str> {
    let at = line.find("CMR")?;
    let after = &line[at + 3..];
    // What precedes the last bracket may be an index: CMR[0]: [0x100000, …).
    let after = after.rfind('[').map_or(after, |bracket| &after[bracket..]);
    after
        .contains(|c: char| c.is_ascii_digit())
        .then(|| after.trim_start_matches([':', ' ']))
}

/// One range in any of the forms.
fn range(text: &str) -> Option<Range<u64>> {
    let inner = text.trim().trim_start_matches('[');
    let inner = inner.split([')', ']']).next()?.trim();
    let inner = inner
        .split_once(" :")
        .map_or(inner, |(range, _)| range)
        .trim();
    let (first, last, inclusive) = if let Some((first, last)) = inner.split_once("..") {
        (first, last, false)
    } else if let Some((first, last)) = inner.split_once(',') {
        (first, last, false)
    } else {
        let (first, last) = inner.split_once('-')?;
        (first, last, true)
    };
    let number = |text: &str| {
        let text = text.trim();
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let last = number(last)?.checked_add(u64::from(inclusive))?;
    Some(number(first)?..last)
}

fn short(line: &str) -> String {
    line.trim().chars().take(60).collect()
}

fn show(range: &Range<u64>) -> String {
    format!("[{:#x}, {:#x})", range.start, range.end)
}

/// A size in the largest unit in which it is a short number.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift >= 1) {
        Some((unit, shift)) if bytes.is_multiple_of(1 << shift) => {
            format!("{} {unit}", bytes >> shift)
        }
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

fn print(plan: &TdmrPlan, cmrs: &[Range<u64>], out: &mut dyn Write) -> io::Result<()> {
    let convertible: u64 = plan.convertible.iter().map(length).sum();
    writeln!(
        out,
        "{} CMRs, {} of convertible memory for TDX",
        cmrs.len(),
        size(convertible)
    )?;
    for (index, tdmr) in plan.tdmrs.iter().enumerate() {
        writeln!(
            out,
            "\nTDMR {index}  {}  {}",
            show(&tdmr.range),
            size(length(&tdmr.range))
        )?;
        writeln!(out, "  |{}|", picture(tdmr, cmrs, plan))?;
        for (level, area) in ["1 GiB", "2 MiB", "4 KiB"].iter().zip(&tdmr.pamt) {
            writeln!(
                out,
                "  PAMT {level}  {}  {}",
                show(area),
                size(length(area))
            )?;
        }
        for (number, area) in tdmr.reserved.iter().enumerate() {
            let what = contents(area, cmrs, plan);
            writeln!(
                out,
                "  reserved {number:<2} {}  {}  {what}",
                show(area),
                size(length(area))
            )?;
        }
        for reason in plan.reasons.iter().filter(|reason| reason.tdmr == index) {
            writeln!(out, "  because: {}", reason.why)?;
        }
    }
    let (pamt, usable) = (plan.pamt_bytes(), plan.usable_bytes());
    writeln!(
        out,
        "\n{} TDMRs; {} KB for PAMTs; {} usable by TDs",
        plan.tdmrs.len(),
        pamt / 1024,
        size(usable)
    )?;
    writeln!(
        out,
        "picture: # usable, P PAMT, . reserved; where a character covers several, P before # before ."
    )
}

/// A line of characters, each a 64th of the TDMR.
fn picture(tdmr: &Tdmr, cmrs: &[Range<u64>], plan: &TdmrPlan) -> String {
    let usable = tdmr.usable();
    let pamts: Vec<_> = plan
        .tdmrs
        .iter()
        .map(|tdmr| tdmr.pamt[0].start..tdmr.pamt[2].end)
        .collect();
    let meets = |list: &[Range<u64>], cell: &Range<u64>| {
        list.iter()
            .any(|r| r.start < cell.end && cell.start < r.end)
    };
    let step = length(&tdmr.range) / PICTURE;
    (0..PICTURE)
        .map(|at| tdmr.range.start + at * step..tdmr.range.start + (at + 1) * step)
        .map(|cell| {
            match (
                meets(&pamts, &cell),
                meets(&usable, &cell) && meets(cmrs, &cell),
            ) {
                (true, _) => 'P',
                (false, true) => '#',
                (false, false) => '.',
            }
        })
        .collect()
}

/// What a reserved area is made of.
fn contents(area: &Range<u64>, cmrs: &[Range<u64>], plan: &TdmrPlan) -> String {
    let part = |list: &[Range<u64>]| -> u64 {
        list.iter()
            .map(|r| r.end.min(area.end).saturating_sub(r.start.max(area.start)))
            .sum()
    };
    let pamts: Vec<_> = plan
        .tdmrs
        .iter()
        .map(|tdmr| tdmr.pamt[0].start..tdmr.pamt[2].end)
        .collect();
    let (pamt, convertible) = (part(&pamts), part(cmrs));
    let hole = length(area) - convertible;
    let lost = convertible - pamt;
    let words: Vec<String> = [(pamt, "PAMT"), (hole, "hole"), (lost, "given up")]
        .iter()
        .filter(|(bytes, _)| *bytes != 0)
        .map(|(bytes, what)| format!("{what} {}", size(*bytes)))
        .collect();
    words.join(", ")
}

#[derive(Serialize)]
struct PlanJson {
    tdmrs: Vec<TdmrJson>,
    pamt_bytes: u64,
    usable_bytes: u64,
}

#[derive(Serialize)]
struct TdmrJson {
    base: u64,
    size: u64,
    /// For 1 GiB, 2 MiB and 4 KiB pages.
    pamt: Vec<AreaJson>,
    reserved: Vec<AreaJson>,
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct AreaJson {
    base: u64,
    size: u64,
}

fn as_json(plan: &TdmrPlan) -> PlanJson {
    let area = |range: &Range<u64>| AreaJson {
        base: range.start,
        size: length(range),
    };
    let reasons = |index| {
        plan.reasons
            .iter()
            .filter(move |reason| reason.tdmr == index)
            .map(|r| r.why.to_string())
            .collect()
    };
    let tdmr = |(index, tdmr): (usize, &Tdmr)| TdmrJson {
        base: tdmr.range.start,
        size: length(&tdmr.range),
        pamt: tdmr.pamt.iter().map(area).collect(),
        reserved: tdmr.reserved.iter().map(area).collect(),
        reasons: reasons(index),
    };
    PlanJson {
        tdmrs: plan.tdmrs.iter().enumerate().map(tdmr).collect(),
        pamt_bytes: plan.pamt_bytes(),
        usable_bytes: plan.usable_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_in_every_form() {
        let expected = Some(0x10_0000..0x7780_0000);
        for text in [
            "[0x100000, 0x77800000)",
            "0x100000..0x77800000",
            "100000-777fffff : System RAM",
            "[mem 0x0]",
            "[0x100000-0x777fffff] usable",
        ] {
            let read = range(text);
            assert_eq!(
                read,
                expected.clone().filter(|_| !text.contains("mem")),
                "{text}"
            );
        }
    }

    #[test]
    #[expect(
        clippy::single_range_in_vec_init,
        reason = "a list of one range is meant"
    )]
    fn of_a_log_cmrs_and_usable_memory_are_taken() {
        let log = "[    0.0] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable\n\
                   [    0.0] BIOS-e820: [mem 0x0000000000100000-0x000000007fffffff] usable\n\
                   [    0.0] BIOS-e820: [mem 0x00000000fe000000-0x00000000ffffffff] reserved\n\
                   [    9.0] virt/tdx: CMR[0]: [0x100000, 0x77800000)\n\
                   [    9.1] virt/tdx: module initialized\n";
        let cmrs = vec![0x10_0000..0x7780_0000];
        assert_eq!(
            read(log),
            Ok(Memory {
                cmrs,
                usable: vec![0x10_0000..0x8000_0000]
            })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
            if let Ok(Memory { cmrs, usable }) = read(&text) {
                let _ = plan(&PlanLimits::default(), &cmrs, &usable);
            }
        }

        #[test]
        fn lists_of_any_numbers_never_panic(numbers in proptest::collection::vec(any::<(u64, u64)>(), 1..20)) {
            let text: String = numbers.iter().map(|(a, b)| format!("[{:#x}, {:#x})\n", a.min(b), a.max(b))).collect();
            if let Ok(Memory { cmrs, usable }) = read(&text)
                && let Ok(plan) = plan(&PlanLimits::default(), &cmrs, &usable) {
                print(&plan, &cmrs, &mut Vec::new()).unwrap();
            }
        }
    }
}
