//! A TD's whole life, and that what the module keeps follows the pages that are really used.

use super::World;
use std::vec::Vec;
use tdx_abi::{HostLeaf, Status};
use x86_arch::{Gpr, Hpa};

/// PAMT entries that were ever made.
fn pamt_entries(world: &World) -> usize {
    let mut entries = 0;
    if let Ok(pamt) = world.module.pamt() {
        pamt.for_each(|_, _, _| entries += 1);
    }
    entries
}

#[test]
fn a_sparse_td_of_64_gib_is_built_and_torn_down_in_proportion_to_its_pages() {
    let mut world = World::ready(1);
    let before = world.module.fingerprint();
    let td = world.td(33);
    let mut sept = Vec::new();
    let mut pages = Vec::new();
    for gib in 0..64u64 {
        let gpa = gib << 30;
        sept.extend(world.sept_path(td, gpa, 0));
        pages.push((gpa, world.add_page(td, gpa)));
    }
    let tdvpr = world.vcpu(td, 0);
    world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
    // A page, a PT and a PD for each GiB, one PDPT. Entries of the PAMT come in groups of 64, and the scene leaves
    // one page in four unused.
    assert_eq!(sept.len(), 64 * 2 + 1);
    let used = pages.len() + sept.len() + 13;
    assert!(pamt_entries(&world) <= 2 * used);

    let status = world.call(0, HostLeaf::MNG_VPFLUSHDONE, &[(Gpr::Rcx, td.tdr)]);
    assert_eq!(status, Status::FLUSHVP_NOT_DONE);
    world.ok(0, HostLeaf::VP_FLUSH, &[(Gpr::Rcx, tdvpr)]);
    world.ok(0, HostLeaf::MNG_VPFLUSHDONE, &[(Gpr::Rcx, td.tdr)]);
    let free = [(Gpr::Rcx, td.tdr)];
    assert_eq!(
        world.call(0, HostLeaf::MNG_KEY_FREEID, &free),
        Status::WBCACHE_NOT_COMPLETE
    );
    world.ok(0, HostLeaf::PHYMEM_CACHE_WB, &[(Gpr::Rcx, 0)]);
    world.ok(0, HostLeaf::MNG_KEY_FREEID, &free);
    let reclaim = [(Gpr::Rcx, td.tdr)];
    let status = world.call(0, HostLeaf::PHYMEM_PAGE_RECLAIM, &reclaim);
    assert_eq!(status, Status::TD_ASSOCIATED_PAGES_EXIST);
    let mut children = Vec::new();
    world.module.pamt().unwrap().for_each(|hpa, _, entry| {
        let in_use = entry.lock().peek().unwrap().page_type() as u8 > 1;
        if in_use && hpa != Hpa::new(td.tdr) {
            children.push(hpa.raw());
        }
    });
    assert_eq!(children.len(), used - 1);
    for page in children {
        world.ok(0, HostLeaf::PHYMEM_PAGE_RECLAIM, &[(Gpr::Rcx, page)]);
        assert_eq!(world.module.audit(), []);
    }
    world.ok(0, HostLeaf::PHYMEM_PAGE_RECLAIM, &reclaim);
    assert_eq!(world.module.audit(), []);
    // Only owners of freed pages stay readable.
    assert_ne!(world.module.fingerprint(), before);
    let (status, regs) =
        world.call_version(0, HostLeaf::PHYMEM_PAGE_RDMD, 0, &[(Gpr::Rcx, pages[0].1)]);
    assert_eq!(status, Status::SUCCESS);
    assert_eq!((regs[Gpr::Rcx], regs[Gpr::Rdx]), (0, td.tdr));
}

#[test]
fn a_large_page_splits_and_merges_and_comes_back() {
    let mut world = World::ready(1);
    let (td, _) = world.runnable_td(33);
    world.sept_path(td, 0, 1);
    let page = world.aug_page(td, 0, 1);
    let table = world.page();
    let at = (Gpr::Rcx, 1);
    let tdr = (Gpr::Rdx, td.tdr);
    let demote = [
        at,
        tdr,
        (Gpr::R8, table),
        (Gpr::R9, u64::MAX),
        (Gpr::R10, u64::MAX),
        (Gpr::R11, u64::MAX),
    ];
    let track = || world.ok(0, HostLeaf::MEM_TRACK, &[(Gpr::Rcx, td.tdr)]);
    let status = world.call(0, HostLeaf::MEM_PAGE_DEMOTE, &demote);
    assert_eq!(status.code(), Status::GPA_RANGE_NOT_BLOCKED);
    world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &[at, tdr]);
    track();
    world.ok(0, HostLeaf::MEM_PAGE_DEMOTE, &demote);
    assert_eq!(world.module.audit(), []);
    world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &[at, tdr]);
    track();
    let regs = world.ok(0, HostLeaf::MEM_PAGE_PROMOTE, &[at, tdr]);
    assert_eq!(regs[Gpr::Rcx], table);
    assert_eq!(world.module.audit(), []);
    world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &[at, tdr]);
    track();
    let regs = world.ok(0, HostLeaf::MEM_PAGE_REMOVE, &[at, tdr]);
    assert_eq!(regs[Gpr::Rcx], page);
    assert_eq!(world.module.audit(), []);
}

#[test]
fn an_interrupted_leaf_gives_its_operands_back_and_resumes() {
    let mut world = World::ready(1);
    let td = world.td(33);
    world.ok(0, HostLeaf::MNG_VPFLUSHDONE, &[(Gpr::Rcx, td.tdr)]);
    world
        .machine()
        .nmi
        .store(true, core::sync::atomic::Ordering::Relaxed);
    let status = world.call(0, HostLeaf::PHYMEM_CACHE_WB, &[(Gpr::Rcx, 0)]);
    assert_eq!(status, Status::INTERRUPTED_RESUMABLE);
    let before = world.module.fingerprint();
    world
        .machine()
        .nmi
        .store(false, core::sync::atomic::Ordering::Relaxed);
    world.ok(0, HostLeaf::PHYMEM_CACHE_WB, &[(Gpr::Rcx, 1)]);
    assert_ne!(world.module.fingerprint(), before);
    let status = world.call(0, HostLeaf::PHYMEM_CACHE_WB, &[(Gpr::Rcx, 1)]);
    assert_eq!(status, Status::WBCACHE_RESUME_ERROR);
}
