//! Backends around a backend: to record what is called, to disturb it, to answer it from a recording.
//!
//! They hold no memory of their own: a sink is a closure, a recording an iterator, a fault plan a slice.

mod faulty;
mod recorded;

pub use faulty::{FaultRule, Faulty, InvalidFaultRule};
pub use recorded::{Mismatch, Recorded, Replay, Traced};
