//! Register files and register windows for confidential VMs.
//!
//! For VMM authors: a confidential guest shows its VMM some registers on some exits, and takes some back. This crate
//! says which ([`tdx`], [`sev_es`], [`cca`]) and lends them through a [`Window`] that refuses the others, naming the
//! line of the VMM that asked. Code written over [`Registers`] serves ordinary VMs too, at the price of a plain array
//! access (`tests/zero_cost.rs` compares the machine code).
//!
//! It holds no transport: how registers come into a file is `tdx_call`'s business, or the VMM's.
#![no_std]
#![forbid(unsafe_code)]

pub mod cca;
mod file;
mod gprs;
pub mod sev_es;
pub mod tdx;
mod window;

pub use file::{RegFile, RegSet, Registers};
pub use gprs::{GprFile, GprSet, Xmm, XmmFile, XmmSet};
pub use tdx::{Exit, ExitKind, ExitWords};
pub use window::{Audit, Hidden, OnHidden, Refuse, Touch, Window};
