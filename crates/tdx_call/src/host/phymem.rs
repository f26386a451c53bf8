//! Physical pages and caches: TDH.PHYMEM.*.

use tdx_abi::{HostLeaf, Status};
use x86_arch::Hpa;

use super::{PageMetadata, call, progress_with_status};
use crate::{CallError, Progress, SeamcallLp, TdxModuleArgs, Traffic};

/// TDH.PHYMEM.PAGE.RDMD: what the module knows of a physical page.
pub fn tdh_phymem_page_rdmd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    page: Hpa,
) -> Result<PageMetadata, CallError> {
    let mut args = TdxModuleArgs {
        rcx: page.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::PHYMEM_PAGE_RDMD.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(PageMetadata {
        page_type: args.rcx,
        owner: Hpa::new(args.rdx),
        size: args.r8 as u8,
        bepoch: args.r9,
    })
}

/// TDH.PHYMEM.PAGE.RECLAIM: takes back a page of a TD whose key is free.
pub fn tdh_phymem_page_reclaim<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    page: Hpa,
) -> Result<PageMetadata, CallError> {
    let mut args = TdxModuleArgs {
        rcx: page.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::PHYMEM_PAGE_RECLAIM.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(PageMetadata {
        page_type: args.rcx,
        owner: Hpa::new(args.rdx),
        size: args.r8 as u8,
        bepoch: args.r9,
    })
}

/// TDH.PHYMEM.PAGE.WBINVD: writes back and invalidates the cache lines of a page under one key ID.
/// `page` carries the key-ID bits as on the bus.
pub fn tdh_phymem_page_wbinvd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    page: Hpa,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: page.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::PHYMEM_PAGE_WBINVD.word(),
        &mut args,
        Traffic::In,
    )
}

/// TDH.PHYMEM.CACHE.WB: writes back the caches of this package, from the start or resumed.
pub fn tdh_phymem_cache_wb<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    resume: bool,
) -> Result<Progress<Status>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: resume.into(),
        ..Default::default()
    };
    let status = call(
        lp,
        HostLeaf::PHYMEM_CACHE_WB.word(),
        &mut args,
        Traffic::InOut,
    );
    progress_with_status(status)
}
