//! TDH.PHYMEM.PAGE.RDMD: a page's metadata (spec: host-platform.md 7.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::{PageType, Want};
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11],
    ..Row::new(HostLeaf::PHYMEM_PAGE_RDMD)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let raw = call.get(Gpr::Rcx);
    call.defaults([Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11], 0);
    let hpa = call.page_address_of(raw, OperandId::RCX, crate::pamt::PageSize::Size4K)?;
    let page = call.walk(Lock::ControlPage, hpa, OperandId::RCX, Want::Shared, None)?;
    let page_type = page.page.page_type();
    let has_epoch = matches!(page_type, PageType::Reg | PageType::Ept);

    let commit = call.commit();
    call.set(Gpr::Rcx, page_type as u64);
    call.set(Gpr::Rdx, page.entry.owner().raw());
    call.set(Gpr::R8, page.size.level().into());
    call.set(Gpr::R9, if has_epoch { page.entry.bepoch() } else { 0 });
    Ok(commit.done())
}
