//! TDH.SYS.RD: a metadata field of the platform (spec: host-metadata.md 2.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::metadata::{self, Accessor, Request};
use tdx_abi::{FieldContext, FieldId, HostLeaf, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    before_ready: true,
    inputs: &[Gpr::Rdx],
    outputs: &[Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::SYS_RD)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let raw = call.get(Gpr::Rdx);
    call.set(Gpr::Rdx, FieldId::NULL.0);
    call.set(Gpr::R8, 0);
    if !call.lp_state.is_initialized() {
        return Err(Status::SYS_LP_INIT_NOT_DONE.into());
    }
    let id = match metadata::parse(raw, FieldContext::Sys)? {
        Request::First => {
            let first = call.module.sys_scope().first_readable(Accessor::Host);
            call.set(Gpr::Rdx, first.0);
            return Err(Status::METADATA_FIRST_FIELD_ID_IN_CONTEXT.into());
        }
        Request::Element(id) => id,
    };
    let (value, next) = call.module.sys_read(Accessor::Host, id)?;

    let commit = call.commit();
    call.set(Gpr::R8, value);
    call.set(Gpr::Rdx, next.0);
    Ok(commit.done())
}
