//! TDH.MR.EXTEND: measures 256 bytes of a page (spec: host-td.md 4.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::machine::Machine;
use crate::refusal::{Broken, Refusal};
use crate::sept::SeptState;
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpa, Gpr, Hpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MR_EXTEND)
};

const CHUNK: usize = 256;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (gpa, tdr) = (Gpa::new(call.get(Gpr::Rcx)), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let mut td = call.tdr_exclusive_at(tdr, OperandId::RDX)?;
    call.td_state_unlocked(&td, &ROW)?;
    if !gpa.is_aligned(CHUNK as u64) {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    call.private_gpa(&td, gpa)?;
    let slot = call.accessible_leaf(&td, gpa)?;
    let entry = slot.entry();
    if entry.state() != Some(SeptState::Mapped) {
        return Err(Status::EPT_ENTRY_NOT_PRESENT.into());
    }
    let offset = gpa.raw() & ((4096 << (9 * slot.level as u32)) - 1);
    let mut content = [0; CHUNK];
    let at = td.keyed(Hpa::new(entry.hpa().raw() + offset));
    if call.machine().read(at, &mut content).is_err() {
        return Err(Broken("machine check on a page of a TD that is being built").into());
    }

    let commit = call.commit();
    td.measurement.extend(&commit, "MR.EXTEND", gpa, &content);
    Ok(commit.done())
}
