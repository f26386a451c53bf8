//! Backends around a backend: to record what is called, to disturb it, to answer it from a recording.
//!
//! They hold no memory of their own: a sink is a closure, a recording an iterator, a fault schedule a bounded list.

mod fault;
mod faulty;
mod recorded;

pub use fault::{Fault, FaultRule, InvalidFaultRule, Site, When};
pub use faulty::{Disturbance, Faulty, Schedule};
pub use recorded::{Mismatch, Recorded, Replay, Traced};
