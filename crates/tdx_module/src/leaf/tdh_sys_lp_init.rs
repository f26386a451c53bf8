//! TDH.SYS.LP.INIT: a processor joins, if it is like the one that ran SYS.INIT (spec: host-platform.md 3.2).

use super::Row;
use super::tdh_sys_init::{SAMPLED_FIRST, SAMPLED_LAST};
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::{Machine, PackageId};
use crate::module::MAX_PACKAGES;
use crate::msr::IA32_MISC_ENABLE;
use crate::refusal::{Broken, Refusal};
use crate::state::SysState;
use crate::sys::SysInfo;
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    before_ready: true,
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::SYS_LP_INIT)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    call.defaults([Gpr::Rcx, Gpr::Rdx, Gpr::R8], 0);
    let _global = call.hold(Lock::Global, call.module.global.shared()).map_err(|_| Refusal::SysBusy)?;
    if call.module.state.get() != SysState::SysInitDone {
        return Err(Status::SYS_LP_INIT_NOT_PENDING.into());
    }
    if call.lp_state.is_initialized() {
        return Err(Status::SYS_LP_INIT_DONE.into());
    }
    let machine = call.machine();
    let seed = machine.random(call.lp).ok_or(Status::RND_NO_ENTROPY)?;
    let sys = call.module.sys()?;
    compare(call, sys, &SAMPLED_FIRST)?;
    if machine.read_msr(call.lp, IA32_MISC_ENABLE) >> 22 & 1 != 0 {
        return Err(Status::LIMIT_CPUID_MAXVAL_SET.into());
    }
    if let Err(why) = sys.cpuid.check_same(machine, call.lp) {
        let [rcx, rdx, r8, ..] = why.registers();
        call.set(Gpr::Rcx, rcx);
        call.set(Gpr::Rdx, rdx);
        call.set(Gpr::R8, r8);
        let status = why.status().ok_or(Broken("a processor the module cannot run on"))?;
        return Err(status.into());
    }
    let x2apic = machine.cpuid(call.lp, 0x1F, 0).edx;
    let package = x2apic >> sys.cpuid.package_shift;
    if package as usize >= MAX_PACKAGES {
        return Err(Status::INVALID_PKG_ID.with_details(package).into());
    }
    compare(call, sys, &SAMPLED_LAST)?;

    let commit = call.commit();
    if let Some(mut local) = call.lp_state.local.try_lock() {
        local.package = PackageId(package);
        local.last_tdvpr = None;
        local.lfsr = (seed as u32).max(1);
    }
    call.lp_state.initialized.store(true, Ordering::Release);
    call.module.num_init_lps.fetch_add(1, Ordering::AcqRel);
    Ok(commit.done())
}

/// The MSRs must be what SYS.INIT sampled.
fn compare<M: Machine>(call: &Call<'_, M>, sys: &SysInfo, msrs: &[u32]) -> Result<(), Status> {
    let differs = |msr: &&u32| call.machine().read_msr(call.lp, **msr) != sys.msrs.get(**msr);
    match msrs.iter().find(differs) {
        Some(msr) => Err(Status::INCONSISTENT_MSR.with_details(*msr)),
        None => Ok(()),
    }
}
