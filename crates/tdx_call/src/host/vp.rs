//! Virtual processors: TDH.VP.*. TDH.VP.ENTER is [`crate::SeamcallLp::vp_enter`].

use tdx_abi::{HostLeaf, LeafWord, Status};
use x86_arch::Hpa;

use super::call;
use crate::{CallError, FieldId, FieldValue, SeamcallLp, Tdr, Tdvpr, TdxModuleArgs, Traffic};

/// TDH.VP.CREATE: makes a page the TDVPR of a new vCPU.
pub fn tdh_vp_create<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::VP_CREATE.word(), &mut args, Traffic::In)
}

/// TDH.VP.ADDCX: adds a page to the TDVPS.
pub fn tdh_vp_addcx<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    page: Hpa,
    tdvpr: Tdvpr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: page.raw(),
        rdx: tdvpr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::VP_ADDCX.word(), &mut args, Traffic::In)
}

/// TDH.VP.INIT: initialises the vCPU; the guest finds `initial_rcx` in RCX and R8.
pub fn tdh_vp_init<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    initial_rcx: u64,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        rdx: initial_rcx,
        ..Default::default()
    };
    call(lp, HostLeaf::VP_INIT.word(), &mut args, Traffic::In)
}

/// TDH.VP.INIT version 1 (newer modules than 1.5.01): the same with the vCPU's x2APIC ID.
pub fn tdh_vp_init_apic<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    initial_rcx: u64,
    x2apic_id: u32,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        rdx: initial_rcx,
        r8: x2apic_id.into(),
        ..Default::default()
    };
    call(
        lp,
        LeafWord::new(HostLeaf::VP_INIT.0, 1),
        &mut args,
        Traffic::In,
    )
}

/// TDH.VP.FLUSH: ends the vCPU's association with this processor.
pub fn tdh_vp_flush<L: SeamcallLp + ?Sized>(lp: &mut L, tdvpr: Tdvpr) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::VP_FLUSH.word(), &mut args, Traffic::In)
}

/// TDH.VP.RD: one metadata field of a vCPU.
pub fn tdh_vp_rd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    field: FieldId,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        rdx: field.0,
        ..Default::default()
    };
    call(lp, HostLeaf::VP_RD.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}

/// TDH.VP.RD version 1: one metadata field of a vCPU, and the id of the next.
pub fn tdh_vp_rd_next<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    field: FieldId,
) -> Result<FieldValue, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        rdx: field.0,
        ..Default::default()
    };
    call(
        lp,
        LeafWord::new(HostLeaf::VP_RD.0, 1),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(FieldValue {
        value: args.r8,
        next: FieldId(args.rdx),
    })
}

/// TDH.VP.WR: changes the bits of `mask` in a metadata field of a vCPU; returns the old value.
pub fn tdh_vp_wr<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    tdvpr: Tdvpr,
    field: FieldId,
    data: u64,
    mask: u64,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdvpr.raw(),
        rdx: field.0,
        r8: data,
        r9: mask,
        ..Default::default()
    };
    call(lp, HostLeaf::VP_WR.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}
