//! TDH.MNG.KEY.RECLAIMID: retired; succeeds and does nothing (spec: host-platform.md 2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use tdx_abi::HostLeaf;

pub const ROW: Row = Row {
    before_ready: false,
    ..Row::new(HostLeaf::MNG_KEY_RECLAIMID)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    Ok(call.commit().done())
}
