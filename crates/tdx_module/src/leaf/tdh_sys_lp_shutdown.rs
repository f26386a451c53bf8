//! TDH.SYS.LP.SHUTDOWN: retired; succeeds and does nothing (spec: host-platform.md 2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use tdx_abi::HostLeaf;

pub const ROW: Row = Row {
    before_ready: true,
    ..Row::new(HostLeaf::SYS_LP_SHUTDOWN)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    Ok(call.commit().done())
}
