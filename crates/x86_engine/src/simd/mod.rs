//! Vector instructions as functions of values: what they compute, apart from operands, registers and faults.
//!
//! [`crate::exec`]'s vector files decode operands and call these.

pub mod aes;
pub mod clmul;
pub mod float;
pub mod fma;
pub mod gfni;
pub mod integer;
pub mod lanes;
pub mod sha;
pub mod shift;
pub mod shuffle;
pub mod string_compare;
pub mod xstate;
