//! TDH.SYS.UPDATE: takes over from a predecessor's handoff data (spec: host-platform.md 3.8).
//!
//! The checks are 1.5.01's, and the last one is as far as a call comes: the loader of this machine loads each module into
//! an empty data region, whose handoff header is not valid. Taking over TDs of a predecessor needs a loader that replaces
//! modules, which is no part of the machine.

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::Refusal;
use crate::state::SysState;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};

pub const ROW: Row = Row {
    before_ready: true,
    ..Row::new(HostLeaf::SYS_UPDATE)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    let _global = call.hold(Lock::Global, module.global.exclusive()).map_err(|_| Refusal::SysBusy)?;
    let all = module.num_init_lps.load(Ordering::Acquire) >= module.platform.lps;
    if module.state.get() != SysState::SysInitDone || !all {
        return Err(Status::SYS_STATE_INCORRECT.into());
    }
    Err(Status::SYS_INVALID_HANDOFF.into())
}
