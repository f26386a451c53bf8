//! `native_cpu`: compares the CPU engine with this machine's processor.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const HELP: &str = "\
Compares the CPU engine with this machine's processor, one instruction at a time.

usage: native_cpu [--seed N] [--cases N] [--form TEXT] [--table] [--record] [--verbose]
  --seed N     seed of the random operands (default 1)
  --cases N    cases for each instruction form (default 100)
  --form TEXT  only forms whose iced-x86 name contains TEXT
  --record     print one case for each form, with this processor's results (data/recorded.cases)
  --table      print the coverage table (docs/engine-coverage.md) instead
  --verbose    name the forms that the engine does not implement

Exit status: 0 all cases agree, 1 some differ, 2 usage or no suitable host.
example: native_cpu --form paddb --cases 10000 --seed 7";

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> ExitCode {
    use native_cpu::campaign::Campaign;
    use native_cpu::{form, report};

    let (mut seed, mut cases) = (1u64, 100u64);
    let (mut wanted, mut verbose, mut table) = (String::new(), false, false);
    let mut record = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number = |text: Option<String>| text.and_then(|t| t.parse().ok());
        let fine = match arg.as_str() {
            "--seed" => number(args.next()).map(|n| seed = n).is_some(),
            "--cases" => number(args.next()).map(|n| cases = n).is_some(),
            "--form" => args
                .next()
                .map(|text| wanted = text.to_lowercase())
                .is_some(),
            "--verbose" => {
                verbose = true;
                true
            }
            "--table" => {
                table = true;
                true
            }
            "--record" => {
                record = true;
                true
            }
            "--help" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            _ => false,
        };
        if !fine {
            eprintln!(
                "native_cpu: {arg}: unknown, or its value is missing or no number (see --help)"
            );
            return ExitCode::from(2);
        }
    }
    let mut campaign = match Campaign::new() {
        Ok(campaign) => campaign,
        Err(error) => {
            eprintln!("native_cpu: cannot map the test pages: {error}");
            return ExitCode::from(2);
        }
    };
    let mut results = Vec::new();
    for code in form::all() {
        if !format!("{code:?}").to_lowercase().contains(&wanted) {
            continue;
        }
        if record {
            if campaign.form(code, seed, 20).compared()
                && let Some(line) = campaign.recorded(code, seed)
            {
                println!("{line}");
            }
            continue;
        }
        let result = campaign.form(code, seed, cases);
        if verbose && result.not_implemented() {
            println!("not implemented: {code:?}");
        }
        if result.unexplained() && !table {
            let first = result.first.as_deref().unwrap_or_default();
            println!(
                "{code:?}: {} of {} differ\n    {first}",
                result.differ, result.cases
            );
        }
        results.push((code, result));
    }
    if record {
        return ExitCode::SUCCESS;
    }
    let differ = results.iter().filter(|(_, r)| r.unexplained()).count();
    if table {
        print!("{}", report::coverage(&results));
    } else {
        let cases: u64 = results.iter().map(|(_, r)| r.cases).sum();
        let lacking = results
            .iter()
            .filter(|(_, r)| r.not_implemented() || r.both_refuse())
            .count();
        let host = results.iter().filter(|(_, r)| r.host_lacks_it()).count();
        println!(
            "{} forms, {cases} cases: {differ} forms differ, {lacking} not implemented, {host} not on this host",
            results.len()
        );
    }
    if differ == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() -> ExitCode {
    eprintln!("native_cpu: needs an x86-64 Linux host");
    ExitCode::from(2)
}
