//! Simulated hardware under a TDX module: processors, memory with key IDs and integrity, key tables, time.
//!
//! It knows nothing of TDX but what hardware knows: key IDs, some of which are private, and a range that the
//! module owns. Read [`machine`] for the whole, [`memory`] for what a wrong access shows.
#![deny(unsafe_code)]

pub mod machine;
pub mod memory;
mod ram;

pub use machine::{Clock, Config, KeyError, LpConfig, Machine, Pending, TIMER_VECTOR};
pub use memory::{MachineCheck, Memory};
pub use ram::Page;
