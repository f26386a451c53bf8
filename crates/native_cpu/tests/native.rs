//! The engine against the host's own processor, over every implemented ring-3 instruction form.
#![forbid(unsafe_code)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::path::Path;

use native_cpu::campaign::{Campaign, FormResult};
use native_cpu::{form, report};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// `NATIVE_CPU_SEED` and `NATIVE_CPU_CASES` (for each form) ask for others and for more.
#[test]
fn every_form_does_what_the_hosts_processor_does() {
    let mut campaign = match Campaign::new() {
        Ok(campaign) => campaign,
        Err(error) => {
            println!("SKIPPED native comparison: cannot map the test pages: {error}");
            return;
        }
    };
    let (seed, cases) = (
        setting("NATIVE_CPU_SEED", 1),
        setting("NATIVE_CPU_CASES", 100),
    );
    let results: Vec<(iced_x86::Code, FormResult)> = form::all()
        .into_iter()
        .map(|code| (code, campaign.form(code, seed, cases)))
        .collect();

    let wrong: Vec<String> = results
        .iter()
        .filter(|(_, result)| result.unexplained())
        .map(|(code, r)| {
            format!(
                "{code:?}: {} of {}\n    {}",
                r.differ,
                r.cases,
                r.first.as_deref().unwrap_or("")
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} forms differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );

    let total: u64 = results.iter().map(|(_, r)| r.cases).sum();
    let compared = results.iter().filter(|(_, r)| r.compared()).count();
    println!(
        "{compared} of {} forms compared, {total} cases",
        results.len()
    );
    assert!(compared > 1200, "only {compared} forms were compared");
    if campaign.translates() {
        let translated = results.iter().filter(|(_, r)| r.translated > 0).count();
        println!("{translated} of them in translated code too");
        assert!(translated > 500, "only {translated} forms were translated");
    }

    // The table in the documentation is that of its own host.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/engine-coverage.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    if !written.contains(&report::host()) {
        println!(
            "SKIPPED coverage table: it was made on another processor than this {}",
            report::host()
        );
        return;
    }
    let fresh = report::coverage(&results);
    assert!(
        written == fresh,
        "docs/engine-coverage.md is stale: cargo run -p native_cpu -- --table > docs/engine-coverage.md"
    );
}
