//! Chores of the workspace: `cargo run -p xtask -- CHORE`.
#![forbid(unsafe_code)]

mod test_summary;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test-summary", log] => test_summary::run(log),
        _ => {
            eprintln!(
                "usage: cargo run -p xtask -- CHORE\n\n  test-summary LOG  counts what a `cargo test` log ran and skipped"
            );
            ExitCode::from(1)
        }
    }
}
