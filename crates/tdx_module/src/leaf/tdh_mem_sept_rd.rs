//! TDH.MEM.SEPT.RD: an entry as software may see it (spec: host-memory.md 4.3).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::{BusyOn, Refusal};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::MEM_SEPT_RD)
};

/// RDX bit 0: give the attributes of L2 aliases in R8 (DEBUG TDs).
const READ_L2_ATTRIBUTES: u64 = 1;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let with_l2 = tdr & READ_L2_ATTRIBUTES != 0;
    let td = call.tdr_shared_at(tdr & !READ_L2_ATTRIBUTES, OperandId::RDX)?;
    let _op_state = call.td_state(&td, &ROW)?;
    if with_l2 && !td.config.is_debug() {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    let at = call.mapping(mapping, 0, td.sept.root_level())?;
    call.private_gpa(&td, at.gpa)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.lock_entry(&slot)?;

    let commit = call.commit();
    call.show(entry.entry().details(at.level));
    if with_l2 {
        call.set(Gpr::R8, td.sept.l2_attributes(at.gpa, at.level, entry.entry().aliases()));
    }
    Ok(commit.done())
}
