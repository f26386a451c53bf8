//! The embedded guest: what `swtdx run` boots when it is given none.
//!
//! It shows a TD's life from the inside: where it runs, memory acceptance, a #VE it serves itself, memory
//! shared with the VMM and taken back, its other processors, a measurement extended, and a TDREPORT over it.
#![no_std]
#![no_main]

mod program;
#[path = "../rt/mod.rs"]
mod rt;

use program::{guest_main, woken_main};
