//! TDH.MNG.KEY.CONFIG: the TD's key on one package (spec: host-td.md 3.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::key::program_key;
use crate::machine::Machine;
use crate::state::LifeCycle;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::MNG_KEY_CONFIG)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let mut td = call.tdr_exclusive(Gpr::Rcx)?;
    if td.is_fatal() {
        return Err(Status::TD_FATAL.into());
    }
    if td.life_cycle != LifeCycle::HkidAssigned {
        return Err(Status::LIFECYCLE_STATE_INCORRECT.into());
    }
    let bit = 1u32 << call.package()?.0;
    if td.pkg_config_bitmap & bit != 0 {
        return Err(Status::KEY_CONFIGURED.into());
    }
    program_key(call, td.hkid)?;

    let commit = call.commit();
    td.pkg_config_bitmap |= bit;
    if td.pkg_config_bitmap == call.module.pkg_config_bitmap.load(Ordering::Acquire) {
        td.life_cycle = LifeCycle::KeysConfigured;
    }
    Ok(commit.done())
}
