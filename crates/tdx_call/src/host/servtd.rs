//! Service TDs: TDH.SERVTD.*.

use tdx_abi::{HostLeaf, Status};
use x86_arch::Hpa;

use super::call;
use crate::{CallError, SeamcallLp, Tdr, TdxModuleArgs, Traffic};

/// TDH.SERVTD.BIND: binds a service TD; returns the binding handle and the target TD's UUID.
pub fn tdh_servtd_bind<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    target: Tdr,
    service: Tdr,
    slot: u64,
    kind: u64,
    attributes: u64,
) -> Result<(u64, [u64; 4]), CallError> {
    let mut args = TdxModuleArgs {
        rcx: target.raw(),
        rdx: service.raw(),
        r8: slot,
        r9: kind,
        r10: attributes,
        ..Default::default()
    };
    call(lp, HostLeaf::SERVTD_BIND.word(), &mut args, Traffic::Saved)?;
    Ok((args.rcx, [args.r10, args.r11, args.r12, args.r13]))
}

/// TDH.SERVTD.PREBIND: fixes the SERVTD_INFO hash (48 bytes at `hash`) of a service TD to be bound later.
pub fn tdh_servtd_prebind<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    target: Tdr,
    hash: Hpa,
    slot: u64,
    kind: u64,
    attributes: u64,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: target.raw(),
        rdx: hash.raw(),
        r8: slot,
        r9: kind,
        r10: attributes,
        ..Default::default()
    };
    call(lp, HostLeaf::SERVTD_PREBIND.word(), &mut args, Traffic::In)
}
