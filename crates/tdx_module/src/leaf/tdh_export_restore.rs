//! TDH.EXPORT.RESTORE: takes exported pages back after an aborted session (spec: host-migration.md 4).
//!
//! Without export no entry is in an exported state, so no list entry succeeds; the list is worked through all the same.

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::machine::Machine;
use crate::refusal::{Broken, BusyOn, Refusal};
use crate::sept::WalkEnd;
use crate::state::OpStates;
use crate::td::Td;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{Gpa, Gpr, Hpa, KeyedHpa};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
    inputs: &[Gpr::Rcx, Gpr::Rdx],
    outputs: &[Gpr::Rcx],
    interruptible: true,
    ..Row::new(HostLeaf::EXPORT_RESTORE)
};

const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// Bits of a list entry that must be 0: level, 6:3, 55:54, 63:61.
const ENTRY_RESERVED: u64 = 0b11 | 0xF << 3 | 0b11 << 54 | 0b111 << 61;
const SKIPPED: u64 = 1;
const WALK_FAILED: u64 = 2;
const BUSY: u64 = 3;
const WRONG_STATE: u64 = 4;
const INVALID: u64 = 15;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let td = call.tdr_shared(Gpr::Rdx)?;
    let _op_state = call.td_state(&td, &ROW)?;
    let _tree = call.hold(Lock::SeptTree, td.sept.lock.shared()).busy(OperandId::SEPT_TREE)?;
    let info = call.get(Gpr::Rcx);
    let (first, last) = (info >> 3 & 0x1FF, info >> 55);
    if info & (0b111 | 0b111 << 52) != 0 || first > last {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    let list = call.shared_hpa_of(info & ADDRESS, OperandId::RCX, 4096)?;
    let at = |i: u64| KeyedHpa::new(Hpa::new(list.hpa.raw() + 8 * i), list.hkid);
    let next = |i: u64| info & !(0x1FF << 3) | (i & 0x1FF) << 3;
    let mut problems = 0;
    for i in first..=last {
        let mut bytes = [0; 8];
        call.read_shared(at(i), &mut bytes)?;
        let entry = u64::from_le_bytes(bytes);
        let result = restore(&td, entry)?;
        // The operation becomes NOP, with the reason.
        let written = entry & !(0b11 << 52 | 0x1F << 56) | result << 56;
        call.write_shared(at(i), &written.to_le_bytes())?;
        if result == INVALID {
            call.set(Gpr::Rcx, next(i));
            return Err(Refusal::Invalid(OperandId::GPA_LIST_ENTRY).into());
        }
        problems += u32::from(result != SKIPPED);
        call.set(Gpr::Rcx, next(i + 1));
        if i < last && call.interrupted() {
            return Err(Status::INTERRUPTED_RESUMABLE.into());
        }
    }
    Ok(call.commit().done_with(Status::SUCCESS.with_details(problems)))
}

/// Why one list entry cannot be restored.
fn restore(td: &Td, entry: u64) -> Result<u64, Broken> {
    let valid = entry & ENTRY_RESERVED == 0;
    let gpa = Gpa::new(entry & ADDRESS);
    let migrates = entry >> 52 & 1 != 0;
    if !valid || migrates && !td.config.is_private(gpa) {
        return Ok(INVALID);
    }
    if !migrates {
        return Ok(SKIPPED);
    }
    match td.sept.walk(gpa, 0) {
        None => Err(Broken("Secure EPT without a page it names")),
        Some(WalkEnd::Stopped(_)) => Ok(WALK_FAILED),
        Some(WalkEnd::Reached(slot)) if slot.entry().is_locked() => Ok(BUSY),
        Some(WalkEnd::Reached(_)) => Ok(WRONG_STATE),
    }
}
