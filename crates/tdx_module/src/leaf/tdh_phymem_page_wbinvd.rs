//! TDH.PHYMEM.PAGE.WBINVD: writes a freed page's lines back (spec: host-platform.md 7.4).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::pamt::{PageType, Want};
use crate::refusal::Refusal;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::{Gpr, Hkid, KeyedHpa};

pub const ROW: Row = Row {
    inputs: &[Gpr::Rcx],
    ..Row::new(HostLeaf::PHYMEM_PAGE_WBINVD)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let raw = call.get(Gpr::Rcx);
    if raw >= 1 << 52 {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    let KeyedHpa { hpa, hkid } = call.module.sys()?.split(raw);
    let _page = call.page_at(hpa.raw(), OperandId::RCX, Want::Shared, PageType::Nda)?;

    let commit = call.commit();
    call.machine().flush_page(KeyedHpa::new(hpa, Hkid(hkid.0)));
    Ok(commit.done())
}
