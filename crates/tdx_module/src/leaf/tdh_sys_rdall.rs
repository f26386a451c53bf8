//! TDH.SYS.RDALL: all metadata fields of the platform as a list (spec: host-metadata.md 2.2).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::metadata::Accessor;
use tdx_abi::{FieldId, HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    before_ready: true,
    inputs: &[Gpr::Rdx, Gpr::R8],
    outputs: &[Gpr::R8],
    ..Row::new(HostLeaf::SYS_RDALL)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let start = call.get(Gpr::R8);
    call.set(Gpr::R8, FieldId::NULL.0);
    if !call.lp_state.is_initialized() {
        return Err(Status::SYS_LP_INIT_NOT_DONE.into());
    }
    let page = call.shared_hpa(Gpr::Rdx, 4096)?;
    let list = call.module.sys_list(Accessor::Host, start)?;

    let commit = call.commit();
    call.set(Gpr::R8, list.next.0);
    match call.write_shared(page, &list.bytes) {
        Ok(()) => Ok(commit.done_with(list.status)),
        Err(stop) => {
            let _ = commit.done();
            Err(stop)
        }
    }
}
