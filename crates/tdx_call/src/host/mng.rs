//! The life of a TD: TDH.MNG.* and TDH.MR.*.

use tdx_abi::{HostLeaf, LeafWord, Status};
use x86_arch::{Gpa, Hkid, Hpa};

use super::call;
use crate::{CallError, FieldId, FieldValue, SeamcallLp, Tdr, TdxModuleArgs, Traffic};

/// TDH.MNG.CREATE: makes a page the TDR of a new TD with this key ID.
pub fn tdh_mng_create<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    hkid: Hkid,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        rdx: hkid.0.into(),
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_CREATE.word(), &mut args, Traffic::In)
}

/// TDH.MNG.ADDCX: adds a page to the TDCS.
pub fn tdh_mng_addcx<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    page: Hpa,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: page.raw(),
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_ADDCX.word(), &mut args, Traffic::In)
}

/// TDH.MNG.INIT: initialises the TD from TD_PARAMS (1024-byte aligned). `Refused::words[0]` names the CPUID leaf
/// and sub-leaf of a configuration error.
pub fn tdh_mng_init<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    td_params: Hpa,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        rdx: td_params.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_INIT.word(), &mut args, Traffic::InOut)
}

/// TDH.MNG.KEY.CONFIG: sets the TD's key on this package.
pub fn tdh_mng_key_config<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_KEY_CONFIG.word(), &mut args, Traffic::In)
}

/// TDH.MNG.KEY.FREEID: frees the TD's key ID.
pub fn tdh_mng_key_freeid<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_KEY_FREEID.word(), &mut args, Traffic::In)
}

/// TDH.MNG.KEY.RECLAIMID: retired; succeeds and does nothing in 1.5.
pub fn tdh_mng_key_reclaimid<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MNG_KEY_RECLAIMID.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDH.MNG.VPFLUSHDONE: no vCPU of the TD is associated with a processor any more.
pub fn tdh_mng_vpflushdone<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_VPFLUSHDONE.word(), &mut args, Traffic::In)
}

/// TDH.MNG.RD: one metadata field of a TD.
pub fn tdh_mng_rd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    field: FieldId,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        rdx: field.0,
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_RD.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}

/// TDH.MNG.RD version 1: one metadata field of a TD, and the id of the next.
pub fn tdh_mng_rd_next<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        rdx: field.0,
        ..Default::default()
    };
    call(
        lp,
        LeafWord::new(HostLeaf::MNG_RD.0, 1),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(FieldValue {
        value: args.r8,
        next: FieldId(args.rdx),
    })
}

/// TDH.MNG.WR: changes the bits of `mask` in a metadata field of a TD; returns the old value.
pub fn tdh_mng_wr<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdr: Tdr,
    field: FieldId,
    data: u64,
    mask: u64,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        rdx: field.0,
        r8: data,
        r9: mask,
        ..Default::default()
    };
    call(lp, HostLeaf::MNG_WR.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}

/// TDH.MR.EXTEND: measures 256 bytes of an added page.
pub fn tdh_mr_extend<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    gpa: Gpa,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: gpa.raw(),
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MR_EXTEND.word(), &mut args, Traffic::InOut)
}

/// TDH.MR.FINALIZE: ends the measurement; the TD can run.
pub fn tdh_mr_finalize<L: SeamcallLp + ?Sized>(lp: &mut L, tdr: Tdr) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MR_FINALIZE.word(), &mut args, Traffic::In)
}
