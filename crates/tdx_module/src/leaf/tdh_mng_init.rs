//! TDH.MNG.INIT: TD_PARAMS become the TD (spec: host-td.md 3.4).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::msr::IA32_MISC_ENABLE;
use crate::state::{OpState, OpStates};
use crate::td::{attributes, td_ctls};
use crate::td_params::{Raw, SIZE};
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::MNG_INIT)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let tdr = call.get(Gpr::Rcx);
    call.set(Gpr::Rcx, 0);
    let machine = call.machine();
    if machine.read_msr(call.lp, IA32_MISC_ENABLE) >> 22 & 1 != 0 {
        return Err(Status::LIMIT_CPUID_MAXVAL_SET.into());
    }
    let mut td = call.tdr_exclusive_at(tdr, tdx_abi::OperandId::RCX)?;
    call.td_state_unlocked(&td, &ROW)?;
    let params_at = call.shared_hpa(Gpr::Rdx, SIZE as u64)?;
    let mut params = [0; SIZE];
    call.read_shared(params_at, &mut params)?;
    let sys = call.module.sys()?;
    if let Some(xfam) = Raw(&params).accepted_xfam(sys) {
        // Offsets of components that an earlier, refused XFAM had stay.
        let right = call.sticky();
        td.keep_xbuff_layout(&right, xfam, &sys.cpuid.components);
    }
    let config = match Raw(&params).check(machine, call.lp, sys, &td, &call.module.profile) {
        Ok(config) => config,
        Err(bad) => {
            call.set(Gpr::Rcx, bad.rcx);
            return Err(bad.status.into());
        }
    };

    let commit = call.commit();
    *td.num_vcpus.get_mut() = 0;
    *td.num_assoc_vcpus.get_mut() = 0;
    td.epoch.reset(&commit);
    // One second.
    td.hp_lock_timeout.store(sys.cpuid.native_tsc_hz, Ordering::Release);
    let ve_disable = config.attributes & attributes::SEPT_VE_DISABLE != 0;
    let ctls = if ve_disable { td_ctls::PENDING_VE_DISABLE } else { 0 };
    td.td_ctls.store(ctls, Ordering::Release);
    td.sept.set_root_level(&commit, (config.eptp >> 3 & 7) as u8);
    td.topology.reset(&commit, config.cpuid.topology.is_some());
    td.config = config;
    td.set_op_state(&commit, OpState::Initialized);
    Ok(commit.done())
}
