//! The software Intel TDX module: what TDH.* and TDG.* leaves do, over a trait [`Machine`].
//!
//! Start with [`Module`]: [`Module::seamcall`] is the one entry. A leaf is a row of data and one function in
//! `leaf/`; [`Call`](call::Call) is what it works on, `operand.rs` what many of them check, `pamt.rs` what every page is
//! used for, `td.rs`, `vp.rs` and `sept/` the structures behind the pages.
//!
//! It is no security boundary: a software module gives no confidentiality.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod audit;
mod bug;
pub mod call;
pub mod cpuid;
pub mod event;
mod fingerprint;
pub mod guest;
pub mod in_use;
mod key;
pub mod kot;
pub mod leaf;
pub mod lock;
pub mod lock_order;
pub mod lp;
mod machine;
pub mod metadata;
mod module;
pub mod msr;
pub mod operand;
pub mod pamt;
mod platform_check;
mod profile;
mod refusal;
pub mod report;
pub mod sept;
pub mod servtd;
pub mod state;
pub mod sys;
pub mod td;
pub mod td_info;
pub mod td_params;
pub mod tdmr;
pub mod vp;
pub mod xstate;

#[cfg(test)]
mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use machine::{
    CachedTranslation, CpuidValue, HostEvent, KeyError, LpId, Machine, MachineCheck, PackageId,
    PendingEvents, PlatformInfo, xsave_size,
};
pub use module::Module;
pub use profile::Profile;
pub use refusal::{Broken, BusyOn, NOT_MODELLED, Refusal, Stop};
