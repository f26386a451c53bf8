//! Compares the CPU engine with the processor it runs on.
//!
//! [`form`] makes instructions from iced's opcode tables, [`values`] the states they start from; [`native`] runs them on
//! the host's processor, [`engine`] in the engine; [`compare`] looks for differences that [`vendor`] does not explain;
//! [`minimize`] makes failing cases small. [`campaign`] puts these together, [`report`] writes the table for the docs, [`record`] reads and
//! writes cases as lines, so that recorded ones can be replayed on any host.
#![deny(unsafe_code)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod campaign;
pub mod compare;
pub mod engine;
pub mod form;
pub mod minimize;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod native;
pub mod random;
pub mod record;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod report;
pub mod state;
pub mod values;
pub mod vendor;
