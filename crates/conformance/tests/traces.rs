//! The recorded traces beside the project, where they are present.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use conformance::TraceReader;

fn traces() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance");
    let Ok(files) = std::fs::read_dir(dir) else {
        println!("SKIPPED the recorded traces: no ../shared/conformance beside the project");
        return Vec::new();
    };
    let paths = files.map(|f| f.expect("a directory entry").path());
    let mut paths: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_recorded_trace_is_understood_to_its_last_line() {
    for path in traces() {
        let file = BufReader::new(File::open(&path).expect("a readable trace"));
        let mut trace =
            TraceReader::new(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        while let Some(_op) = trace
            .next_op()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        {}
        let lines = std::fs::read_to_string(&path)
            .expect("text")
            .lines()
            .count();
        assert_eq!(trace.line(), lines as u64, "{}", path.display());
    }
}
