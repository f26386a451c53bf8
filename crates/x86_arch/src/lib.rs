//! x86-64 as the rest of swtdx needs it: addresses as kinds, register names, paging words,
//! the state of a processor in VMX non-root mode and the words of a VM exit.
//!
//! Read this crate first. It holds layouts and names (Intel SDM), no behaviour: what an
//! instruction does is in `x86_engine`, what a TD may do is in `tdx_module`.
#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod exit;
mod gpr;
mod qualification;
mod ram;
mod second_level;
pub mod vmx;

pub use addr::{Gpa, Hkid, Hpa, KeyedHpa, PAGE_SIZE};
pub use exit::{ExitReason, VmExit};
pub use gpr::Gpr;
pub use qualification::{InterruptionInfo, Qualification};
pub use ram::{HostPage, RamPage};
pub use second_level::{Access, EptFault, EptPermissions, SecondLevel, SecondLevelMapping};
