//! TDH.PHYMEM.PAGE.RECLAIM: a page of a TD that is torn down (spec: host-platform.md 7.3).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::{PageSize, PageType, PageUse, Want};
use crate::refusal::Refusal;
use crate::state::LifeCycle;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11],
    ..Row::new(HostLeaf::PHYMEM_PAGE_RECLAIM)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let raw = call.get(Gpr::Rcx);
    call.defaults([Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11], 0);
    let hpa = call.page_address_of(raw, OperandId::RCX, PageSize::Size4K)?;
    let mut page = call.walk(Lock::ControlPage, hpa, OperandId::RCX, Want::Exclusive, None)?;
    let page_type = page.page.page_type();
    if matches!(page_type, PageType::Nda | PageType::Rsvd) {
        return Err(Refusal::PageUse(OperandId::RCX).into());
    }
    // Shown on success and on the refusals that follow.
    call.set(Gpr::Rcx, page_type as u64);
    call.set(Gpr::Rdx, page.entry.owner().raw());
    call.set(Gpr::R8, page.size.level().into());
    if !hpa.is_aligned(page.size.bytes()) {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    let in_teardown = |life_cycle| match life_cycle {
        LifeCycle::Teardown => Ok(()),
        _ => Err(Status::LIFECYCLE_STATE_INCORRECT),
    };
    if let PageUse::Tdr(td) = &*page.page {
        in_teardown(td.life_cycle)?;
        if td.chldcnt() != 0 {
            return Err(Status::TD_ASSOCIATED_PAGES_EXIST.into());
        }
        let commit = call.commit();
        page.free(&commit);
        return Ok(commit.done());
    }
    let td = call.tdr_of(page.entry.owner())?;
    in_teardown(td.life_cycle)?;

    let commit = call.commit();
    td.remove_children(&commit, page.size.pages());
    page.free(&commit);
    Ok(commit.done())
}
