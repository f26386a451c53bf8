//! Replays traces and prints every mismatch: what `swtdx replay --keep-going` does, quicker to build.

use std::fs::File;
use std::io::BufReader;

use conformance::Replay;

fn main() {
    let mut worst = 0;
    for file in std::env::args().skip(1) {
        worst = worst.max(replay(&file));
    }
    std::process::exit(worst);
}

fn replay(path: &str) -> i32 {
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
            Ok(Some(mismatches)) => mismatches.iter().for_each(|m| println!("{path}: {m}")),
            Err(e) => {
                println!("{path}: {e}");
                break 3;
            }
        }
    };
    println!("{path}: {}", replay.counts());
    code
}
