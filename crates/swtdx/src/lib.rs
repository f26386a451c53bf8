//! The program `swtdx`: software Intel TDX on the command line. A library for its fuzz targets' sake; nobody else
//! should use it.
//!
//! Each subcommand is one module with an `Args` struct (its options, as clap reads them) and a `run` function;
//! `cli` lists them. Results go to standard output, everything else to standard error.
#![deny(unsafe_code)]

mod bring_up;
mod cli;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod exec;
mod explain;
mod measure;
mod plan;
mod replay;
mod run;
mod shell;
mod trace;

use std::process::ExitCode;

pub use explain::fuzz_explain;
pub use plan::fuzz_cmrs;
pub use run::fuzz_td_params;

/// The whole program.
pub fn main() -> ExitCode {
    cli::main()
}
