//! Reads conformance traces, recordings of what the Intel TDX module answered, and replays them on `tdx_module`.
//!
//! A trace is a file of one JSON object per line: a header with the platform, then operations. Nothing in it is
//! skipped: a key, an act or an operation that is not known is an error with its line. The format is the one of
//! the recordings' own FORMAT.md.
#![forbid(unsafe_code)]

pub mod act;
mod hardware;
pub mod header;
mod machine;
mod memory;
pub mod number;
pub mod op;
mod player;
mod reader;
pub mod record;
pub mod registers;
mod report;
mod session;
pub mod show;
pub mod state;

pub use player::{Replay, ReplayError};
pub use reader::{MAX_LINE, ReadError, TraceReader, fuzz_trace};
pub use record::{RecordError, Recorded, Recorder};
pub use report::{Counts, Mismatch};
pub use tdx_module::Profile;
