//! The instructions themselves, and the handles that vouch for executing them.
//!
//! `66 0F 01 CF` is SEAMCALL, `66 0F 01 CC` is TDCALL. Everything here is machine code for x86-64 ELF targets.

// The macros of a stub's text are used by the modules after it.
#[macro_use]
mod stub;
#[macro_use]
mod entry;
pub mod evidence;
mod fixup;

pub use entry::{HostState, LeaveChanged, SeamLp, enter};
pub use fixup::{Fixup, fixup_of, fixups};
pub use stub::{
    TdCpu, seamcall, seamcall_ret, seamcall_saved_ret, tdcall, tdcall_ret, tdcall_saved_ret,
};

/// SEAMCALL and TDCALL as bytes at RIP.
pub const SEAMCALL: [u8; 4] = [0x66, 0x0F, 0x01, 0xCF];
pub const TDCALL: [u8; 4] = [0x66, 0x0F, 0x01, 0xCC];
