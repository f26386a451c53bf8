//! Private memory: TDH.MEM.*.

use tdx_abi::{HostLeaf, LeafWord, SeptEntry, SeptEntryInfo, Status};
use x86_arch::{Gpa, Hpa};

use super::{call, progress};
use crate::{CallError, GpaMapping, Progress, SeamcallLp, ShownEntry, Tdr, TdxModuleArgs, Traffic};

/// TDH.MEM.SEPT.ADD: adds a Secure EPT page for the level of `mapping`.
pub fn tdh_mem_sept_add<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
    page: Hpa,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        r8: page.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_SEPT_ADD.word(), &mut args, Traffic::InOut)
}

/// TDH.MEM.SEPT.ADD version 1: Secure EPT pages for L1 and for the L2 VMs 1 to 3, all ones for "none".
/// Returned: the same with bit 63 set in those not used; call again with what `Interrupted` holds.
pub fn tdh_mem_sept_add_vms<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
    allow_existing: bool,
    pages: [u64; 4],
) -> Result<Progress<[u64; 4]>, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw() | u64::from(allow_existing),
        r8: pages[0],
        r9: pages[1],
        r10: pages[2],
        r11: pages[3],
        ..Default::default()
    };
    let status = call(
        lp,
        LeafWord::new(HostLeaf::MEM_SEPT_ADD.0, 1),
        &mut args,
        Traffic::InOut,
    );
    progress(status, [args.r8, args.r9, args.r10, args.r11])
}

/// TDH.MEM.SEPT.RD: a Secure EPT entry, and the attributes of its page for each VM.
pub fn tdh_mem_sept_rd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<(ShownEntry, u64), CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_SEPT_RD.word(), &mut args, Traffic::InOut)?;
    Ok((
        ShownEntry {
            entry: SeptEntry(args.rcx),
            info: SeptEntryInfo(args.rdx),
        },
        args.r8,
    ))
}

/// TDH.MEM.SEPT.REMOVE: removes an empty Secure EPT page and returns it.
pub fn tdh_mem_sept_remove<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<Hpa, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MEM_SEPT_REMOVE.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(Hpa::new(args.rcx))
}

/// TDH.MEM.SEPT.REMOVE version 1: returns also the pages of the L2 VMs 1 to 3, all ones for "none".
pub fn tdh_mem_sept_remove_vms<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<(Hpa, [u64; 3]), CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        LeafWord::new(HostLeaf::MEM_SEPT_REMOVE.0, 1),
        &mut args,
        Traffic::InOut,
    )?;
    Ok((Hpa::new(args.rcx), [args.r9, args.r10, args.r11]))
}

/// TDH.MEM.SEPT.WR: a number without a handler; the 1.5 module refuses it.
pub fn tdh_mem_sept_wr<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_SEPT_WR.word(), &mut args, Traffic::In)
}

/// TDH.MEM.PAGE.ADD: copies `source` into a page that becomes private memory of the TD being built.
pub fn tdh_mem_page_add<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
    page: Hpa,
    source: Hpa,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        r8: page.raw(),
        r9: source.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_PAGE_ADD.word(), &mut args, Traffic::InOut)
}

/// TDH.MEM.PAGE.AUG: gives a running TD a page that its guest must accept.
pub fn tdh_mem_page_aug<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
    page: Hpa,
) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        r8: page.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_PAGE_AUG.word(), &mut args, Traffic::InOut)
}

/// TDH.MEM.PAGE.REMOVE: takes a blocked and tracked page from the TD and returns it.
pub fn tdh_mem_page_remove<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<Hpa, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MEM_PAGE_REMOVE.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(Hpa::new(args.rcx))
}

/// TDH.MEM.PAGE.RELOCATE: moves a blocked page to `page` and returns the old one.
pub fn tdh_mem_page_relocate<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
    page: Hpa,
) -> Result<Hpa, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        r8: page.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MEM_PAGE_RELOCATE.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(Hpa::new(args.rcx))
}

/// TDH.MEM.PAGE.PROMOTE: merges 512 pages into a large one; returns the Secure EPT page that became free.
pub fn tdh_mem_page_promote<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<Hpa, CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MEM_PAGE_PROMOTE.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok(Hpa::new(args.rcx))
}

/// TDH.MEM.PAGE.PROMOTE version 1: returns also the pages of the L2 VMs 1 to 3, all ones for "none".
pub fn tdh_mem_page_promote_vms<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
) -> Result<(Hpa, [u64; 3]), CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(
        lp,
        LeafWord::new(HostLeaf::MEM_PAGE_PROMOTE.0, 1),
        &mut args,
        Traffic::InOut,
    )?;
    Ok((Hpa::new(args.rcx), [args.r9, args.r10, args.r11]))
}

/// TDH.MEM.PAGE.DEMOTE: splits a large page with a new Secure EPT page, and pages for the L2 VMs 1 to 3 (all ones
/// for "none"); returns those three with bit 63 set where not used.
pub fn tdh_mem_page_demote<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: Tdr,
    l2_only_aliased: bool,
    page: Hpa,
    l2_pages: [u64; 3],
) -> Result<[u64; 3], CallError> {
    let mut args = TdxModuleArgs {
        rcx: mapping.0,
        rdx: tdr.raw() | u64::from(l2_only_aliased),
        r8: page.raw(),
        r9: l2_pages[0],
        r10: l2_pages[1],
        r11: l2_pages[2],
        ..Default::default()
    };
    call(
        lp,
        HostLeaf::MEM_PAGE_DEMOTE.word(),
        &mut args,
        Traffic::InOut,
    )?;
    Ok([args.r9, args.r10, args.r11])
}

/// TDH.MEM.RANGE.BLOCK: blocks a mapping, the first step to remove or change it.
pub fn tdh_mem_range_block<L: SeamcallLp + ?Sized>(
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
        HostLeaf::MEM_RANGE_BLOCK.word(),
        &mut args,
        Traffic::InOut,
    )
}

/// TDH.MEM.RANGE.UNBLOCK: makes a blocked and tracked mapping usable again.
pub fn tdh_mem_range_unblock<L: SeamcallLp + ?Sized>(
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
        HostLeaf::MEM_RANGE_UNBLOCK.word(),
        &mut args,
        Traffic::InOut,
    )
}

/// TDH.MEM.TRACK: begins a new TLB epoch of the TD.
pub fn tdh_mem_track<L: SeamcallLp + ?Sized>(lp: &mut L, tdr: Tdr) -> Result<Status, CallError> {
    let mut args = TdxModuleArgs {
        rcx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_TRACK.word(), &mut args, Traffic::In)
}

/// TDH.MEM.RD: eight bytes of a DEBUG TD's private memory.
pub fn tdh_mem_rd<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    gpa: Gpa,
    tdr: Tdr,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: gpa.raw(),
        rdx: tdr.raw(),
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_RD.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}

/// TDH.MEM.WR: writes eight bytes of a DEBUG TD's private memory; returns the old ones.
pub fn tdh_mem_wr<L: SeamcallLp + ?Sized>(
    lp: &mut L,
    gpa: Gpa,
    tdr: Tdr,
    data: u64,
) -> Result<u64, CallError> {
    let mut args = TdxModuleArgs {
        rcx: gpa.raw(),
        rdx: tdr.raw(),
        r8: data,
        ..Default::default()
    };
    call(lp, HostLeaf::MEM_WR.word(), &mut args, Traffic::InOut)?;
    Ok(args.r8)
}
