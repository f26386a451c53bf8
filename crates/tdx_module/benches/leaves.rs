//! Calls per second of the leaves that hosts make most, on the flat machine; measuring leaves beside the hash they owe.
//!
//! `cargo bench -p tdx_module`. The two-processor cases run on two TDs; their times are for one call on each processor.

use coco_regs::{GprFile, XmmFile};
use divan::Bencher;
use divan::counter::ItemsCount;
use sha2::{Digest, Sha384};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tdx_abi::{GuestLeaf, HostLeaf, Status};
use tdx_module::LpId;
use tdx_module::testing::{TDMR, TestTd, World};
use x86_arch::vmx::Seg;
use x86_arch::{ExitReason, Gpr, VmExit};

fn main() {
    divan::main();
}

/// TDCS.ATTRIBUTES.
const ATTRIBUTES: u64 = 0x1110_0003_0000_0000;

/// A runnable TD with one page and a vCPU on `lp`.
fn td_on(world: &mut World, lp: u32, hkid: u64) -> (TestTd, u64) {
    let td = world.td(hkid);
    world.sept_path(td, 0, 0);
    world.add_page(td, 0);
    let tdvpr = world.vcpu(td, lp);
    world.ok(lp, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
    (td, tdvpr)
}

fn call(world: &World, lp: u32, leaf: HostLeaf, regs: &[(Gpr, u64)]) -> Status {
    let mut file = GprFile::default();
    file[Gpr::Rax] = leaf.word().0;
    for (reg, value) in regs {
        file[*reg] = *value;
    }
    let result = world
        .module
        .seamcall(LpId(lp), &mut file, &mut XmmFile::default());
    assert!(result.is_ok());
    Status(file[Gpr::Rax])
}

#[divan::bench]
fn sept_rd(bencher: Bencher<'_, '_>) {
    let mut world = World::ready(1);
    let (td, _) = td_on(&mut world, 0, 33);
    let regs = [(Gpr::Rcx, 0), (Gpr::Rdx, td.tdr)];
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        assert_eq!(
            call(&world, 0, HostLeaf::MEM_SEPT_RD, &regs),
            Status::SUCCESS
        );
    });
}

#[divan::bench]
fn mng_rd(bencher: Bencher<'_, '_>) {
    let mut world = World::ready(1);
    let (td, _) = td_on(&mut world, 0, 33);
    let regs = [(Gpr::Rcx, td.tdr), (Gpr::Rdx, ATTRIBUTES)];
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        assert_eq!(call(&world, 0, HostLeaf::MNG_RD, &regs), Status::SUCCESS);
    });
}

/// Every guest makes the same TDVMCALL again and again.
fn with_tdvmcalls(world: &World) {
    world.machine().tsc_stands.store(true, Ordering::Relaxed);
    world.machine().share_guest(Arc::new(|vcpu, _| {
        let regs = &mut vcpu.regs;
        regs.msr.efer |= 1 << 10;
        regs.segments[Seg::Cs as usize].access |= 1 << 13;
        regs.gpr[Gpr::Rax.index()] = GuestLeaf::VP_VMCALL.0 as u64;
        regs.gpr[Gpr::Rcx.index()] = 0xFC00;
        vcpu.exit = VmExit {
            instruction_length: 4,
            ..VmExit::new(ExitReason::TDCALL)
        };
    }));
}

#[divan::bench]
fn vp_enter_with_a_tdvmcall(bencher: Bencher<'_, '_>) {
    let mut world = World::ready(1);
    let (_, tdvpr) = td_on(&mut world, 0, 33);
    with_tdvmcalls(&world);
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        let status = call(&world, 0, HostLeaf::VP_ENTER, &[(Gpr::Rcx, tdvpr)]);
        assert_eq!(status.raw(), ExitReason::TDCALL.0 as u64);
    });
}

/// One thread for each processor, each on its own TD in its own GiB: throughput over 1 and 2. (In one GiB they meet in
/// the lock word of its PAMT entry, as on hardware.)
#[divan::bench(threads = [1, 2], sample_size = 2000)]
fn vp_enter_on_each_processor(bencher: Bencher<'_, '_>) {
    enter_on_each(bencher, TDMR + (1 << 30));
}

#[divan::bench(threads = [1, 2], sample_size = 2000)]
fn vp_enter_on_each_processor_in_one_gib(bencher: Bencher<'_, '_>) {
    enter_on_each(bencher, TDMR + (32 << 20));
}

/// The same of a call that is little more than its locks.
#[divan::bench(threads = [1, 2], sample_size = 2000)]
fn mng_rd_on_each_processor(bencher: Bencher<'_, '_>) {
    let (world, tds) = two_tds(TDMR + (1 << 30));
    on_each(bencher, |lp| {
        let regs = [(Gpr::Rcx, tds[lp].0.tdr), (Gpr::Rdx, ATTRIBUTES)];
        let status = call(&world, lp as u32, HostLeaf::MNG_RD, &regs);
        assert_eq!(status, Status::SUCCESS);
    });
}

/// A TD with a vCPU on each of two processors, the second one's pages from `second_td_at` on.
fn two_tds(second_td_at: u64) -> (World, [(TestTd, u64); 2]) {
    let mut world = World::ready_with(2, 2);
    let first = td_on(&mut world, 0, 33);
    world.continue_at(second_td_at);
    let second = td_on(&mut world, 1, 34);
    with_tdvmcalls(&world);
    (world, [first, second])
}

fn enter_on_each(bencher: Bencher<'_, '_>, second_td_at: u64) {
    let (world, tds) = two_tds(second_td_at);
    on_each(bencher, |lp| {
        let regs = [(Gpr::Rcx, tds[lp].1)];
        let status = call(&world, lp as u32, HostLeaf::VP_ENTER, &regs);
        assert_eq!(status.raw(), ExitReason::TDCALL.0 as u64);
    });
}

/// Each thread calls on its own processor.
fn on_each(bencher: Bencher<'_, '_>, call: impl Fn(usize) + Sync) {
    std::thread_local! {
        static LP: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
    }
    let next = AtomicU32::new(0);
    bencher.counter(ItemsCount::new(1u32)).bench(|| {
        let lp = LP.get().unwrap_or_else(|| {
            let lp = next.fetch_add(1, Ordering::Relaxed) % 2;
            LP.set(Some(lp));
            lp
        });
        call(lp as usize);
    });
}

#[divan::bench]
fn mem_page_add(bencher: Bencher<'_, '_>) {
    let mut world = World::ready(1);
    let td = world.td(33);
    let mut gpa = 0;
    let mut sources = std::iter::from_fn(move || {
        gpa += 4096;
        Some(gpa - 4096)
    });
    world.machine().poke(0x30_0000, &[0x5A; 4096]);
    let world = std::cell::RefCell::new(world);
    bencher
        .counter(ItemsCount::new(1u32))
        .with_inputs(|| {
            let mut world = world.borrow_mut();
            let gpa = sources.next().unwrap_or(0);
            if gpa % (2 << 20) == 0 {
                world.sept_path(td, gpa, 0);
            }
            [
                (Gpr::Rcx, gpa),
                (Gpr::Rdx, td.tdr),
                (Gpr::R8, world.page()),
                (Gpr::R9, 0x30_0000),
            ]
        })
        .bench_local_values(|regs| {
            let status = call(&world.borrow(), 0, HostLeaf::MEM_PAGE_ADD, &regs);
            assert_eq!(status, Status::SUCCESS);
        });
}

/// The hash that PAGE.ADD owes: one 128-byte block.
#[divan::bench]
fn sha384_of_a_page_add(bencher: Bencher<'_, '_>) {
    let mut hash = Sha384::new();
    bencher
        .counter(ItemsCount::new(1u32))
        .bench_local(|| hash.update(divan::black_box([1u8; 128])));
}

#[divan::bench]
fn mr_extend(bencher: Bencher<'_, '_>) {
    let mut world = World::ready(1);
    let td = world.td(33);
    world.sept_path(td, 0, 0);
    world.add_page(td, 0);
    let regs = [(Gpr::Rcx, 0x100), (Gpr::Rdx, td.tdr)];
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        assert_eq!(call(&world, 0, HostLeaf::MR_EXTEND, &regs), Status::SUCCESS);
    });
}

/// The hash that MR.EXTEND owes: a 128-byte block and 256 bytes.
#[divan::bench]
fn sha384_of_an_mr_extend(bencher: Bencher<'_, '_>) {
    let mut hash = Sha384::new();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        hash.update(divan::black_box([1u8; 128]));
        hash.update(divan::black_box([1u8; 256]));
    });
}
