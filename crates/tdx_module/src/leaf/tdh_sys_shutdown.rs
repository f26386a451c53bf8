//! TDH.SYS.SHUTDOWN: no more calls; the successor would take over from handoff data (spec: host-platform.md 3.8).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::Refusal;
use crate::state::SysState;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::SYS_SHUTDOWN)
};

/// The only handoff version this line knows.
const HANDOFF_VERSION: u64 = 0;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    if call.get(Gpr::Rcx) != HANDOFF_VERSION {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    let _global = call.hold(Lock::Global, module.global.exclusive()).map_err(|_| Refusal::SysBusy)?;
    // Calls that start from now on see SHUTDOWN; those that run already are counted.
    let sticky = call.sticky();
    module.state.set(&sticky, SysState::SysShutdown);
    let busy = module.lps.iter().filter(|lp| lp.busy.load(Ordering::Acquire)).count();
    if busy > 1 {
        module.state.set(&sticky, SysState::SysReady);
        return Err(Refusal::SysBusy.into());
    }
    Ok(call.commit().done())
}
