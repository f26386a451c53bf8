//! Reads and replays conformance traces.
