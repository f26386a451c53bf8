//! The host's side of TDX: what a VMM does with the SEAMCALL leaves.
//!
//! For those who write a VMM, and for `swtdx` itself. Bring a module up ([`Host::bring_up`]), build a TD
//! ([`Td::create`], [`Td::add_vcpu`], [`Td::init_mem_region`], [`Td::finalize`]), run it
//! ([`Run`] with the caller's [`Services`]), convert its memory, and take it down with every page
//! accounted for ([`Td::destroy`]). The types answer KVM's `KVM_TDX_*` ioctls and exits one to one.
//!
//! It speaks to a module only through [`tdx_call::SeamcallLp`] and to memory only through
//! [`tdx_call::HostMemory`], so it runs on hardware and on the software platform alike. It has no devices and
//! no threads: processors are handed in, and whoever holds one decides what runs on it.
#![forbid(unsafe_code)]
// A list of one address range is one range, not its elements.
#![allow(clippy::single_range_in_vec_init)]

mod bringup;
mod build;
mod config;
mod convert;
pub mod debug;
mod error;
mod exit_log;
mod fault;
mod field;
mod hkid;
mod launch;
mod memory;
mod pages;
pub mod plan;
mod ranges;
mod run;
mod seam;
mod shared_ept;
mod td;
mod tdmr;
pub mod tdvmcall;
mod teardown;
mod vcpu;
mod window;

pub use bringup::{Host, HostLayout, Lp, ModuleInfo};
pub use build::{BuildProgress, MemRegion};
pub use config::{CpuidConfig, CpuidValues, TdConfig};
pub use error::{Errno, HostError, Leak};
pub use exit_log::{ExitLog, LoggedExit};
pub use fault::{Faulted, MemoryFault};
pub use launch::td_hob;
pub use memory::GuestMemory;
pub use pages::PageAllocator;
pub use run::{Run, RunStats, Stop};
pub use td::{Td, TdStats};
pub use tdmr::{Tdmr, plan_tdmrs};
pub use tdvmcall::Services;
pub use teardown::Teardown;
pub use vcpu::{POSTED_VECTOR, Vcpu, post};
pub use window::Shown;
