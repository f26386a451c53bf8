//! Bring-up and end of the module: TDH.SYS.*.

use tdx_abi::{HostLeaf, Status};
use x86_arch::{Hkid, Hpa};

use super::call;
use crate::{CallError, FieldId, FieldValue, SeamcallLp, TdxModuleArgs, Traffic};

/// TDH.SYS.INIT: starts the initialisation of the module; once for the platform.
pub fn tdh_sys_init<L: SeamcallLp + ?Sized>(lp: &mut L) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: 0,
        ..Default::default()
    };
    call(lp, HostLeaf::SYS_INIT.word(), &mut args, Traffic::InOut)
}

/// TDH.SYS.LP.INIT: initialises this logical processor.
pub fn tdh_sys_lp_init<L: SeamcallLp + ?Sized>(lp: &mut L) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs::default();
    call(lp, HostLeaf::SYS_LP_INIT.word(), &mut args, Traffic::InOut)
}

/// TDH.SYS.RD: one system metadata field, and the id of the next.
pub fn tdh_sys_rd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    let mut args = TdxModuleArgs {
        rdx: field.0,
        ..Default::default()
    };
    call(lp, HostLeaf::SYS_RD.word(), &mut args, Traffic::InOut)?;
    Ok(FieldValue {
        value: args.r8,
        next: FieldId(args.rdx),
    })
}

/// TDH.SYS.RDALL: as many system metadata fields as fit the 4 KiB list; returns the id to go on with.
pub fn tdh_sys_rdall<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    list: Hpa,
    first: FieldId,
) -> Result<FieldId, CallError> {
    let mut args = TdxModuleArgs {
        rdx: list.raw(),
        r8: first.0,
        ..Default::default()
    };
    call(lp, HostLeaf::SYS_RDALL.word(), &mut args, Traffic::InOut)?;
    Ok(FieldId(args.r8))
}

/// TDH.SYS.INFO: fills TDSYSINFO (1024-byte aligned) and the CMR array (512-byte aligned); returns the bytes and
/// the CMR entries written.
pub fn tdh_sys_info<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    info: Hpa,
    info_bytes: u64,
    cmrs: Hpa,
    cmr_entries: u64,
) -> Result<(u64, u64), CallError> {
    let mut args = TdxModuleArgs {
        rcx: info.raw(),
        rdx: info_bytes,
        r8: cmrs.raw(),
        r9: cmr_entries,
        ..Default::default()
    };
    call(lp, HostLeaf::SYS_INFO.word(), &mut args, Traffic::InOut)?;
    Ok((args.rdx, args.r9))
}

/// TDH.SYS.CONFIG: sets the TDMRs (an array of TDMR_INFO addresses) and the global key ID.
pub fn tdh_sys_config<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdmr_info_array: Hpa,
    count: u64,
    global: Hkid,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdmr_info_array.raw(),
        rdx: count,
        r8: global.0.into(),
        ..Default::default()
    };
    call(lp, HostLeaf::SYS_CONFIG.word(), &mut args, Traffic::In)
}

/// TDH.SYS.KEY.CONFIG: sets the global private key on this package.
pub fn tdh_sys_key_config<L: SeamcallLp + ?Sized>(lp: &mut L) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs::default();
    call(lp, HostLeaf::SYS_KEY_CONFIG.word(), &mut args, Traffic::In)
}

/// TDH.SYS.TDMR.INIT: initialises the next part of a TDMR; returns the address up to which it is done.
pub fn tdh_sys_tdmr_init<L: SeamcallLp + ?Sized>(lp: &mut L, tdmr: Hpa) -> Result<Hpa, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdmr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::SYS_TDMR_INIT.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(Hpa::new(args.rdx))
}

/// TDH.SYS.SHUTDOWN: ends the module and prepares hand-off data of this version.
pub fn tdh_sys_shutdown<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    handoff_version: u16,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: handoff_version.into(),
        ..Default::default()
    };
    call(lp, HostLeaf::SYS_SHUTDOWN.word(), &mut args, Traffic::In)
}

/// TDH.SYS.UPDATE: takes over the state that the previous module handed off.
pub fn tdh_sys_update<L: SeamcallLp + ?Sized>(lp: &mut L) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs::default();
    call(lp, HostLeaf::SYS_UPDATE.word(), &mut args, Traffic::In)
}

/// TDH.SYS.LP.SHUTDOWN: retired; succeeds and does nothing in 1.5.
pub fn tdh_sys_lp_shutdown<L: SeamcallLp + ?Sized>(lp: &mut L) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs::default();
    call(lp, HostLeaf::SYS_LP_SHUTDOWN.word(), &mut args, Traffic::In)
}
