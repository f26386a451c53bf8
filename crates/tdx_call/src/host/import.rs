//! Migration in: TDH.IMPORT.*.

use tdx_abi::{HostLeaf, Status};

use super::{PageLists, call, progress};
use crate::{CallError, Progress, SeamcallLp, Tdr, Tdvpr, TdxModuleArgs, Traffic};

/// TDH.IMPORT.ABORT: ends an import that failed and writes the abort token.
pub fn tdh_import_abort<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    mbmd: u64,
    stream: u64,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        r8: mbmd,
        r10: stream,
        ..Default::default()
    };
    call(lp, HostLeaf::IMPORT_ABORT.word(), &mut args, Traffic::In)
}

/// TDH.IMPORT.TRACK: takes an epoch or start token.
pub fn tdh_import_track<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    mbmd: u64,
    stream: u64,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        r8: mbmd,
        r10: stream,
        ..Default::default()
    };
    call(lp, HostLeaf::IMPORT_TRACK.word(), &mut args, Traffic::In)
}

/// TDH.IMPORT.END: ends the import.
pub fn tdh_import_end<L: SeamcallLp + ?Sized>(lp: &mut L, tdr: Tdr) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::IMPORT_END.word(), &mut args, Traffic::In)
}

/// TDH.IMPORT.COMMIT: the TD may run while its last pages arrive.
pub fn tdh_import_commit<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::IMPORT_COMMIT.word(), &mut args, Traffic::In)
}

/// TDH.IMPORT.MEM: imports the listed pages, into new pages or in place (`new_pages` all ones).
pub fn tdh_import_mem<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    lists: PageLists,
    new_pages: u64,
    tdr: Tdr,
) -> Result<Progress<u64>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: lists.gpas,
        rdx: tdr.raw(),
        r8: lists.mbmd,
        r9: lists.buffers,
        r10: lists.stream,
        r11: lists.macs[0],
        r12: lists.macs[1],
        r13: new_pages,
        ..Default::default()
    };
    let status = call(lp, HostLeaf::IMPORT_MEM.word(), &mut args, Traffic::Saved);
    progress(status, args.rcx)
}

/// TDH.IMPORT.STATE.IMMUTABLE: starts an import. `Refused::words` 0 and 1 name the field that was not accepted.
pub fn tdh_import_state_immutable<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    mbmd: u64,
    pages: u64,
    stream: u64,
) -> Result<Progress<()>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        r8: mbmd,
        r9: pages,
        r10: stream,
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::IMPORT_STATE_IMMUTABLE.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, ())
}

/// TDH.IMPORT.STATE.TD: imports the mutable state of the TD. `Refused::words` as for the immutable state.
pub fn tdh_import_state_td<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    mbmd: u64,
    pages: u64,
    stream: u64,
) -> Result<Progress<()>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        r8: mbmd,
        r9: pages,
        r10: stream,
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::IMPORT_STATE_TD.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, ())
}

/// TDH.IMPORT.STATE.VP: imports a vCPU. `Refused::words` as for the immutable state.
pub fn tdh_import_state_vp<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    mbmd: u64,
    pages: u64,
    stream: u64,
) -> Result<Progress<()>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        r8: mbmd,
        r9: pages,
        r10: stream,
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::IMPORT_STATE_VP.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, ())
}
