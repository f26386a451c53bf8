//! TDH.MNG.CREATE: a TD's root page and key ID (spec: host-td.md 3.1).

use super::Row;
use crate::bug::Bug;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::key::random_256;
use crate::kot::HkidState;
use crate::machine::Machine;
use crate::pamt::{PageType, PageUse, Want};
use crate::refusal::{BusyOn, Refusal};
use crate::td::Td;
use alloc::boxed::Box;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpr, Hkid, Hpa};

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MNG_CREATE)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    let hkid = call.get(Gpr::Rdx);
    if hkid >> 16 != 0 || !module.sys()?.is_private_hkid(hkid as u16) {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let hkid = Hkid(hkid as u16);
    let mut page = call.page(Gpr::Rcx, Want::Exclusive, PageType::Nda)?;
    let tdr = Hpa::new(call.get(Gpr::Rcx));
    let mut kot = call.hold(Lock::Kot, module.kot.exclusive()).busy(OperandId::KOT)?;
    if kot.state(hkid) != HkidState::Free {
        return Err(Status::HKID_NOT_FREE.into());
    }
    // Cleared even if there is no entropy.
    call.clear_control_page(tdr, module.global_hkid()?);
    let uuid = random_256(call)?;

    let commit = call.commit();
    if !module.has(Bug::ForgetsHkid) {
        kot.set(&commit, hkid, HkidState::Assigned);
    }
    let td = Td::new(tdr, hkid, uuid);
    page.assign(&commit, PageUse::Tdr(Box::new(td)), Hpa::new(0));
    Ok(commit.done())
}
