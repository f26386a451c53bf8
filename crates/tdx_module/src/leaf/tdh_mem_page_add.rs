//! TDH.MEM.PAGE.ADD: a measured page, copied from host memory (spec: host-memory.md 4.4).

use super::Row;
use crate::bug::Bug;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::pamt::{PageType, PageUse, Want};
use crate::refusal::{Broken, BusyOn};
use crate::sept::{SeptEntry, SeptState, SeptStates};
use crate::state::OpStates;
use tdx_abi::{HostLeaf, OperandId};
use x86_arch::{Gpr, Hkid, Hpa, KeyedHpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9],
    outputs: &[Gpr::Rcx, Gpr::Rdx],
    ..Row::new(HostLeaf::MEM_PAGE_ADD)
};

const STATES: SeptStates = SeptStates::of(&[SeptState::Free]);

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (mapping, tdr) = (call.get(Gpr::Rcx), call.get(Gpr::Rdx));
    call.defaults([Gpr::Rcx, Gpr::Rdx], 0);
    let mut td = call.tdr_exclusive_at(tdr, OperandId::RDX)?;
    call.td_state_unlocked(&td, &ROW)?;
    let at = call.mapping(mapping, 0, 0)?;
    call.private_gpa(&td, at.gpa)?;
    let slot = call.sept_walk(&td, at)?;
    let entry = call.hold(Lock::SeptEntry, slot.lock(crate::lock::Side::Host)).busy(OperandId::RCX)?;
    call.entry_state(&entry, STATES)?;
    let source = call.shared_hpa(Gpr::R9, 4096)?;
    let mut page = call.page(Gpr::R8, Want::Exclusive, PageType::Nda)?;
    let target = Hpa::new(call.get(Gpr::R8));
    let to = match call.module.has(Bug::WritesInTheClear) {
        true => KeyedHpa::new(target, Hkid(0)),
        false => td.keyed(target),
    };
    // The last that can go wrong; nothing is refused from here on.
    let copied = call.machine().copy_page(source, to);
    copied.map_err(|_| Broken("machine check on host memory"))?;

    let commit = call.commit();
    entry.write(&commit, SeptEntry::leaf(SeptState::Mapped, target));
    td.measurement.extend(&commit, "MEM.PAGE.ADD", at.gpa, &[]);
    if !call.module.has(Bug::ForgetsChild) {
        td.add_children(&commit, 1);
    }
    page.assign(&commit, PageUse::Regular, td.tdr);
    Ok(commit.done())
}
