//! Counts what a log of `cargo test -- --show-output` ran, skipped and failed, crate by crate.
//!
//! A test that cannot run here says so with a line that begins `SKIPPED` and goes on with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

/// What one log says.
#[derive(Default, PartialEq, Eq, Debug)]
struct Summary {
    /// Tests that ran, by crate as cargo names its test binaries and doc tests.
    passed: BTreeMap<String, u64>,
    failed: u64,
    skipped: BTreeSet<String>,
}

/// Reads the log; `current` is the crate whose binary the lines belong to.
fn read(log: &str, owner_of: &dyn Fn(&str) -> String) -> Summary {
    let mut summary = Summary::default();
    let mut current = String::from("?");
    for line in log.lines() {
        let trimmed = line.trim_start();
        if let Some(rest) = trimmed.strip_prefix("Running ") {
            current = owner_of(rest);
            summary.passed.entry(current.clone()).or_default();
        } else if let Some(rest) = trimmed.strip_prefix("Doc-tests ") {
            current = rest.trim().to_owned();
        } else if let Some(rest) = trimmed.strip_prefix("test result: ") {
            let count = |what: &str| -> u64 {
                let words: Vec<&str> = rest.split([' ', ';', '.']).collect();
                let at = words.iter().position(|w| *w == what);
                at.and_then(|i| words.get(i.wrapping_sub(1))?.parse().ok())
                    .unwrap_or(0)
            };
            *summary.passed.entry(current.clone()).or_default() += count("passed");
            summary.failed += count("failed");
        } else if trimmed.starts_with("SKIPPED") {
            summary.skipped.insert(format!("{current}: {trimmed}"));
        }
    }
    summary
}

/// The crate that a line such as `tests/x.rs (target/debug/deps/x-0123)` belongs to.
fn owner(rest: &str) -> String {
    // Cargo names the binary after the target; a unit-test binary's target is the crate.
    let binary = rest
        .rsplit("deps/")
        .next()
        .unwrap_or(rest)
        .trim_end_matches(')');
    binary
        .rsplit_once('-')
        .map_or(binary, |(name, _)| name)
        .to_owned()
}

pub fn run(path: &str) -> ExitCode {
    let log = match std::fs::read_to_string(path) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(1);
        }
    };
    let summary = read(&log, &owner);
    let passed: u64 = summary.passed.values().sum();
    for (name, count) in &summary.passed {
        println!("{count:>6} {name}");
    }
    for line in &summary.skipped {
        println!("skipped {line}");
    }
    let empty = crates_without_tests(&log);
    for name in &empty {
        println!("no test ran in crate {name}");
    }
    println!(
        "{passed} passed, {} failed, {} skipped",
        summary.failed,
        summary.skipped.len()
    );
    if summary.failed > 0 || passed == 0 || !empty.is_empty() {
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

/// Workspace crates in whose folder no test binary ran a test.
fn crates_without_tests(log: &str) -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let summary = read(log, &owner);
    let ran = |name: &str| summary.passed.get(name).is_some_and(|count| *count > 0);
    let mut empty = Vec::new();
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    for folder in folders.map(|entry| entry.path()) {
        let name = folder
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
            .to_owned();
        let tests = std::fs::read_dir(folder.join("tests"))
            .into_iter()
            .flatten()
            .flatten();
        let mut targets = tests.filter_map(|t| Some(t.path().file_stem()?.to_str()?.to_owned()));
        if !ran(&name) && !targets.any(|target| ran(&target)) {
            empty.push(name);
        }
    }
    empty.sort();
    empty
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "
     Running unittests src/lib.rs (target/debug/deps/tdx_abi-0a1b)

running 2 tests
test a ... ok
successes:

---- a stdout ----
SKIPPED tables: no folder ../shared

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/arrows.rs (target/debug/deps/arrows-77aa)
test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
   Doc-tests tdx_abi
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
";

    #[test]
    fn a_log_is_counted_by_crate() {
        let summary = read(LOG, &owner);
        assert_eq!(summary.passed["tdx_abi"], 6);
        assert_eq!(summary.passed["arrows"], 1);
        assert_eq!(summary.failed, 3);
        assert_eq!(summary.skipped.len(), 1);
        assert!(
            summary
                .skipped
                .first()
                .is_some_and(|s| s.contains("no folder ../shared"))
        );
    }
}
