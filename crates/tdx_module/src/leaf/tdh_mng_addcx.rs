//! TDH.MNG.ADDCX: a page for the TDCS (spec: host-td.md 3.3).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::key::random_256;
use crate::machine::Machine;
use crate::pamt::{PageType, PageUse, Want};
use crate::state::{LifeCycle, OpState, OpStates};
use crate::td::{L2_SEPT_ROOT_PAGE, MAX_TDCS_PAGES, MIN_TDCS_PAGES, SEPT_ROOT_PAGE};
use tdx_abi::{HostLeaf, Status};
use x86_arch::{Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MNG_ADDCX)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let mut td = call.tdr_exclusive(Gpr::Rdx)?;
    if td.is_fatal() {
        return Err(Status::TD_FATAL.into());
    }
    if td.life_cycle != LifeCycle::KeysConfigured {
        return Err(Status::TD_KEYS_NOT_CONFIGURED.into());
    }
    let index = td.tdcx.len();
    if index >= MAX_TDCS_PAGES {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    let mut page = call.page(Gpr::Rcx, Want::Exclusive, PageType::Nda)?;
    let hpa = Hpa::new(call.get(Gpr::Rcx));
    // Overwritten even if a check below refuses the page.
    call.clear_control_page(hpa, td.hkid);
    let count = index + 1;
    let enc_key = match count {
        MIN_TDCS_PAGES => Some(random_256(call)?),
        _ => None,
    };
    if count > MIN_TDCS_PAGES && td.op_state() != OpState::Uninitialized {
        return Err(Status::OP_STATE_INCORRECT.into());
    }

    let commit = call.commit();
    if let Some(key) = enc_key {
        td.migration.enc_key = key;
    }
    match index {
        SEPT_ROOT_PAGE => td.sept.create_root(&commit),
        _ if index > L2_SEPT_ROOT_PAGE => td.sept.create_l2_root(&commit, index - L2_SEPT_ROOT_PAGE),
        _ => {}
    }
    td.tdcx.push(hpa);
    td.add_children(&commit, 1);
    let owner = td.tdr;
    page.assign(&commit, PageUse::Tdcx, owner);
    Ok(commit.done())
}
