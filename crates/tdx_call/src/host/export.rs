//! Migration out: TDH.EXPORT.* and TDH.MIG.*.

use tdx_abi::{HostLeaf, Status};
use x86_arch::Hpa;

use super::{PageLists, call, progress};
use crate::{CallError, GpaMapping, Progress, SeamcallLp, Tdr, Tdvpr, TdxModuleArgs, Traffic};

/// TDH.MIG.STREAM.CREATE: makes a page the context of a migration stream.
pub fn tdh_mig_stream_create<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    page: Hpa,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: page.raw(),
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MIG_STREAM_CREATE.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDH.EXPORT.ABORT: ends an export, with the abort token in `mbmd` after the start token was sent, else 0.
pub fn tdh_export_abort<L: SeamcallLp + ?Sized>(
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
    call(lp, HostLeaf::EXPORT_ABORT.word(), &mut args, Traffic::In)
}

/// TDH.EXPORT.TRACK: ends a migration epoch, or the in-order phase (bit 63 of `stream`).
pub fn tdh_export_track<L: SeamcallLp + ?Sized>(
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
    call(lp, HostLeaf::EXPORT_TRACK.word(), &mut args, Traffic::In)
}

/// TDH.EXPORT.BLOCKW: blocks the listed pages for writing; returns the list word with its first entry advanced.
pub fn tdh_export_blockw<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    list: u64,
    tdr: Tdr,
) -> Result<Progress<u64>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: list,
        rdx: tdr.raw(),
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::EXPORT_BLOCKW.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, args.rcx)
}

/// TDH.EXPORT.RESTORE: takes back the export of the listed pages.
pub fn tdh_export_restore<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    list: u64,
    tdr: Tdr,
) -> Result<Progress<u64>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: list,
        rdx: tdr.raw(),
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::EXPORT_RESTORE.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, args.rcx)
}

/// TDH.EXPORT.UNBLOCKW: allows writing to a page again.
pub fn tdh_export_unblockw<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::EXPORT_UNBLOCKW.word(),
        &mut args,
        Traffic::InOut,
    )
}

/// TDH.EXPORT.PAUSE: stops the TD for the blackout phase of its export.
pub fn tdh_export_pause<L: SeamcallLp + ?Sized>(lp: &mut L, tdr: Tdr) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::EXPORT_PAUSE.word(), &mut args, Traffic::In)
}

/// TDH.EXPORT.MEM: exports the listed pages; returns the list word advanced and the pages processed.
pub fn tdh_export_mem<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    lists: PageLists,
    tdr: Tdr,
) -> Result<Progress<(u64, u64)>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: lists.gpas,
        rdx: tdr.raw(),
        r8: lists.mbmd,
        r9: lists.buffers,
        r10: lists.stream,
        r11: lists.macs[0],
        r12: lists.macs[1],
        ..Default::default()
    };
    let status = call(lp, HostLeaf::EXPORT_MEM.word(), &mut args, Traffic::Saved);
    progress(status, (args.rcx, args.rdx))
}

/// TDH.EXPORT.STATE.IMMUTABLE: starts an export with the immutable state; returns the pages written so far.
pub fn tdh_export_state_immutable<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    mbmd: u64,
    pages: u64,
    stream: u64,
) -> Result<Progress<u64>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        r8: mbmd,
        r9: pages,
        r10: stream,
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::EXPORT_STATE_IMMUTABLE.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, args.rdx)
}

/// TDH.EXPORT.STATE.TD: exports the mutable state of the TD; returns the pages written so far.
pub fn tdh_export_state_td<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    mbmd: u64,
    pages: u64,
    stream: u64,
) -> Result<Progress<u64>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        r8: mbmd,
        r9: pages,
        r10: stream,
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::EXPORT_STATE_TD.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, args.rdx)
}

/// TDH.EXPORT.STATE.VP: exports a vCPU; returns the pages written so far.
pub fn tdh_export_state_vp<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    mbmd: u64,
    pages: u64,
    stream: u64,
) -> Result<Progress<u64>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        r8: mbmd,
        r9: pages,
        r10: stream,
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::EXPORT_STATE_VP.word(),
        &mut args,
        Traffic::InOut,
    );
    progress(status, args.rdx)
}
