//! Chores of the workspace: `cargo run -p xtask -- CHORE`.
#![forbid(unsafe_code)]

mod bench_boot;
mod disk_image;
mod guests;
mod test_summary;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bench-boot", ..] => bench_boot::run(&arguments[1..]),
        ["guests", ..] => guests::run(&arguments[1..]),
        ["disk", ..] => disk_image::run(&arguments[1..]),
        ["test-summary", log] => test_summary::run(log),
        _ => {
            eprintln!(
                "usage: cargo xtask CHORE\n\n  {}\n  {}\n  {}\n  test-summary LOG\n      counts what a log of `cargo test -- --show-output` ran and skipped",
                bench_boot::USAGE,
                guests::USAGE,
                disk_image::USAGE
            );
            ExitCode::from(1)
        }
    }
}
