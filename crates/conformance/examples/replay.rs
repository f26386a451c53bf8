//! Replays traces and prints every mismatch: what `swtdx replay --keep-going` does, quicker to build. With `--first`
//! each file ends at its first operation that differs.

use std::fs::File;
use std::io::BufReader;

use conformance::Replay;

fn main() {
    let mut worst = 0;
    let (flags, files): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    for file in files {
        worst = worst.max(replay(&file, flags.iter().any(|f| f == "--first")));
    }
    std::process::exit(worst);
}

fn replay(path: &str, first: bool) -> i32 {
    let file = File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut replay = match Replay::new(BufReader::new(file)) {
        Ok(replay) => replay,
        Err(e) => {
            println!("{path}: {e}");
            return 3;
        }
    };
    let code = loop {
        match replay.step() {
            Ok(None) => break i32::from(replay.counts().mismatches > 0) * 2,
            Ok(Some(mismatches)) => {
                mismatches.iter().for_each(|m| println!("{path}: {m}"));
                if first && !mismatches.is_empty() {
                    break 2;
                }
            }
            Err(e) => {
                println!("{path}: {e}");
                break 3;
            }
        }
    };
    println!("{path}: {}", replay.counts());
    code
}
