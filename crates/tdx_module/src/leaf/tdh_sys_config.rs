//! TDH.SYS.CONFIG: TDMRs and the global key ID (spec: host-platform.md 3.3).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::kot::HkidState;
use crate::machine::Machine;
use crate::module::MAX_TDMRS;
use crate::pamt::Pamt;
use crate::refusal::{BusyOn, Refusal};
use crate::state::SysState;
use crate::tdmr::{self, TDMR_INFO_SIZE};
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpr, Hkid, Hpa, KeyedHpa};

pub const ROW: Row = Row {
    before_ready: true,
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::SYS_CONFIG)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    let mut global = call.hold(Lock::Global, module.global.exclusive()).map_err(|_| Refusal::SysBusy)?;
    if module.state.get() != SysState::SysInitDone {
        return Err(Status::SYS_CONFIG_NOT_PENDING.into());
    }
    if module.num_init_lps.load(Ordering::Acquire) < module.platform.lps {
        return Err(Status::SYS_CONFIG_NOT_PENDING.into());
    }
    let list = call.shared_hpa(Gpr::Rcx, 512)?;
    let count = call.get(Gpr::Rdx);
    if !(1..=MAX_TDMRS).contains(&count) {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let sys = module.sys()?;
    let hkid = call.get(Gpr::R8);
    if hkid >> 16 != 0 || !sys.is_private_hkid(hkid as u16) {
        return Err(Refusal::Invalid(OperandId::R8).into());
    }
    // Stays although the call may fail below.
    let sticky = call.sticky();
    let mut kot = call.hold(Lock::Kot, module.kot.exclusive()).busy(OperandId::KOT)?;
    kot.set(&sticky, Hkid(hkid as u16), HkidState::Reserved);
    module.global_hkid.store(hkid as u32, Ordering::Release);
    global.tdmrs.clear();
    for i in 0..count {
        let at = Hpa::new(list.hpa.raw() + i * 8);
        let mut pointer = [0; 8];
        call.read_shared(KeyedHpa::new(at, list.hkid), &mut pointer)?;
        let entry = call.shared_hpa_of(u64::from_le_bytes(pointer), OperandId::RCX, 512)?;
        let mut raw = [0; TDMR_INFO_SIZE];
        call.read_shared(entry, &mut raw)?;
        let tdmr = tdmr::check(i as u8, &raw, &global.tdmrs, &module.platform.cmrs, sys.limits())?;
        global.tdmrs.push(tdmr);
    }

    let commit = call.commit();
    module.pamt.call_once(|| Pamt::new(global.tdmrs.clone()));
    module.pkg_config_bitmap.store(0, Ordering::Release);
    module.state.set(&commit, SysState::SysConfigDone);
    Ok(commit.done())
}
