//! `native_cpu [--seed N] [--cases N] [--form TEXT] [--table]`: compares the engine with this machine's processor.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> ExitCode {
    use native_cpu::campaign::Campaign;
    use native_cpu::form;

    let mut seed = 1;
    let mut cases = 100;
    let mut wanted = String::new();
    let mut verbose = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--seed" => seed = value().parse().unwrap_or(seed),
            "--cases" => cases = value().parse().unwrap_or(cases),
            "--form" => wanted = value().to_lowercase(),
            "--verbose" => verbose = true,
            other => {
                eprintln!(
                    "native_cpu: unknown argument {other}\nusage: native_cpu [--seed N] [--cases N] [--form TEXT] [--verbose]"
                );
                return ExitCode::from(2);
            }
        }
    }
    let mut campaign = match Campaign::new() {
        Ok(campaign) => campaign,
        Err(error) => {
            eprintln!("native_cpu: cannot map the test pages: {error}");
            return ExitCode::from(2);
        }
    };
    let (mut forms, mut total, mut differ, mut lacking, mut host) = (0, 0, 0, 0, 0);
    for code in form::all() {
        if !format!("{code:?}").to_lowercase().contains(&wanted) {
            continue;
        }
        let result = campaign.form(code, seed, cases);
        forms += 1;
        total += result.cases;
        if result.host_lacks_it() {
            host += 1;
        } else if result.not_implemented() {
            lacking += 1;
            if verbose {
                println!("not implemented: {code:?}");
            }
        } else if result.differ > 0 {
            differ += 1;
            println!(
                "{code:?}: {} of {} differ\n    {}",
                result.differ,
                result.cases,
                result.first.unwrap_or_default()
            );
        }
    }
    println!(
        "{forms} forms, {total} cases; {differ} forms differ, {lacking} not implemented, {host} not on this host"
    );
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
