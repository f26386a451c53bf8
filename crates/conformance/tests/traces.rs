//! The recorded traces beside the project, where they are present.

mod recorded;

use std::fs::File;
use std::io::BufReader;

use conformance::TraceReader;
use recorded::traces;

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
