//! TDH.SYS.KEY.CONFIG: the module's global key on one package (spec: host-platform.md 3.4).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::key::program_key;
use crate::machine::Machine;
use crate::refusal::Refusal;
use crate::state::SysState;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};

pub const ROW: Row = Row {
    before_ready: true,
    ..Row::new(HostLeaf::SYS_KEY_CONFIG)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    let mut global = call.hold(Lock::Global, module.global.exclusive()).map_err(|_| Refusal::SysBusy)?;
    if module.state.get() != SysState::SysConfigDone {
        return Err(Status::SYS_KEY_CONFIG_NOT_PENDING.into());
    }
    let bit = 1u32 << call.package()?.0;
    if module.pkg_config_bitmap.load(Ordering::Acquire) & bit != 0 {
        return Err(Status::KEY_CONFIGURED.into());
    }
    program_key(call, module.global_hkid()?)?;

    let commit = call.commit();
    module.pkg_config_bitmap.fetch_or(bit, Ordering::AcqRel);
    global.num_init_pkgs += 1;
    if global.num_init_pkgs == module.platform.packages {
        module.state.set(&commit, SysState::SysReady);
    }
    Ok(commit.done())
}
