//! The recorded traces beside the project, where they are present.

use std::path::PathBuf;

pub fn traces() -> Vec<PathBuf> {
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
