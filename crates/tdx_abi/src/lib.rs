//! Every number, layout and name of the Intel TDX module ABI 1.5; no behaviour.
#![no_std]
#![forbid(unsafe_code)]

mod leaf;
mod status;

pub use leaf::{GuestLeaf, HostLeaf, LeafWord};
pub use status::{OperandId, Status};
