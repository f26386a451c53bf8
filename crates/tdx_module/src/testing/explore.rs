//! Interleavings of processors: every lock try and every publication is a point where another one may come in.
//!
//! The module's locks never wait, so real lock code runs under the explorer; only the points in between are its own.

use super::{TestTd, World};
use crate::bug::Bug;
use crate::lock_order::Order;
use crate::sept::SeptState;
use crate::state::VcpuState;
use crate::td::Td;
use alloc::sync::Arc;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner, thread};
use std::vec::Vec;
use tdx_abi::{GuestLeaf, HostLeaf, Status};
use x86_arch::vmx::Seg;
use x86_arch::{Access, ExitReason, Gpa, Gpr, Hkid, Hpa, KeyedHpa, VmExit};

use crate::machine::Machine;

std::thread_local! {
    static EXPLORING: Cell<bool> = const { Cell::new(false) };
}

/// Lets the explorer run another processor.
pub fn switch() {
    if EXPLORING.get() {
        thread::yield_now();
    }
}

/// Runs one closure for each processor, interleaved in `runs` random ways; then nothing may be broken.
fn explore(
    runs: usize,
    setup: impl Fn() -> World + Send + Sync + 'static,
    processors: impl Fn(Arc<World>) -> Vec<Job> + Send + Sync + 'static,
    check: impl Fn(&World, &[Vec<Status>]) + Send + Sync + 'static,
) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    let runner = Runner::new(RandomScheduler::new_from_seed(7, runs), config);
    runner.run(move || {
        EXPLORING.set(false);
        let world = Arc::new(setup());
        let jobs = processors(world.clone());
        EXPLORING.set(true);
        let handles: Vec<_> = jobs.into_iter().map(|job| thread::spawn(job)).collect();
        let results: Vec<_> = handles.into_iter().map(|h| h.join().unwrap()).collect();
        EXPLORING.set(false);
        check(&world, &results);
        let found = world.module.audit();
        assert!(found.is_empty(), "{found:?} after {results:?}");
    });
}

type Job = std::boxed::Box<dyn FnOnce() -> Vec<Status> + Send>;

/// Calls on one processor, each repeated while it is busy, at most a few times.
fn calls(world: &Arc<World>, lp: u32, script: &[(HostLeaf, &[(Gpr, u64)])]) -> Job {
    let world = world.clone();
    let script: Vec<_> = script.iter().map(|(l, r)| (*l, r.to_vec())).collect();
    std::boxed::Box::new(move || {
        let call = |(leaf, regs): &(HostLeaf, Vec<(Gpr, u64)>)| {
            let mut status = Status::OPERAND_BUSY;
            for _ in 0..30 {
                status = world.call(lp, *leaf, regs);
                let busy = [
                    Status::OPERAND_BUSY,
                    Status::SYS_BUSY,
                    Status::PREVIOUS_TLB_EPOCH_BUSY,
                ];
                if !busy.contains(&status.code()) && status.code() != Status::TLB_TRACKING_NOT_DONE
                {
                    break;
                }
            }
            status
        };
        script.iter().map(call).collect()
    })
}

/// A runnable TD with one page at GPA 0 and a vCPU on processor 0.
fn running(world: &mut World) -> (TestTd, u64, u64) {
    let td = world.td(33);
    world.sept_path(td, 0, 0);
    let page = world.add_page(td, 0);
    let tdvpr = world.vcpu(td, 0);
    world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
    // A guest that does nothing until an interrupt comes.
    world.machine().share_guest(Arc::new(|_, _| switch()));
    (td, tdvpr, page)
}

fn with_td<R>(world: &World, tdr: u64, f: impl FnOnce(&Td) -> R) -> R {
    let order = Order::default();
    match world.module.implicit_tdr(Hpa::new(tdr), &order) {
        Ok(td) => f(&td),
        Err(_) => panic!("the scene's TD"),
    }
}

#[test]
fn of_two_creates_of_one_page_or_one_hkid_only_one_wins() {
    for (pages, hkids) in [
        ([0x10_0000, 0x10_0000], [33, 34]),
        ([0x10_0000, 0x10_1000], [33, 33]),
    ] {
        explore(
            200,
            || World::ready(2),
            move |world| {
                let create = |lp: usize| {
                    let regs = [(Gpr::Rcx, super::TDMR + pages[lp]), (Gpr::Rdx, hkids[lp])];
                    calls(&world, lp as u32, &[(HostLeaf::MNG_CREATE, &regs)])
                };
                std::vec![create(0), create(1)]
            },
            |_, results| {
                let won = results.iter().filter(|r| r[0] == Status::SUCCESS).count();
                assert_eq!(won, 1, "{results:?}");
            },
        );
    }
}

/// The host blocks, tracks and removes a page while a vCPU enters, touches it and leaves.
fn removal_while_a_vcpu_runs(bug: Option<Bug>) {
    let removed = Arc::new(AtomicBool::new(false));
    let seen = removed.clone();
    explore(
        400,
        move || {
            removed.store(false, Ordering::SeqCst);
            let mut world = World::ready(2);
            world.module.bug = bug;
            let (_, _, page) = running(&mut world);
            let removed = removed.clone();
            world.machine().share_guest(Arc::new(move |_, memory| {
                // The translation is made once and used until the exit, as a TLB would.
                let mapping = memory.translate(Gpa::new(0), Access::Read);
                for _ in 0..80 {
                    switch();
                    let gone = mapping.is_ok() && removed.load(Ordering::SeqCst);
                    assert!(!gone, "page {page:#x} used after its removal");
                }
            }));
            world
        },
        move |world| {
            let (tdr, tdvpr) = (super::TDMR + 0x10_0000, tdvpr_of(&world));
            let range = [(Gpr::Rcx, 0), (Gpr::Rdx, tdr)];
            let enter = [(Gpr::Rcx, tdvpr)];
            let host = calls(
                &world,
                1,
                &[
                    (HostLeaf::MEM_RANGE_BLOCK, &range),
                    (HostLeaf::MEM_TRACK, &[(Gpr::Rcx, tdr)]),
                    (HostLeaf::MEM_PAGE_REMOVE, &range),
                ],
            );
            let seen = seen.clone();
            let host: Job = std::boxed::Box::new(move || {
                let results = host();
                seen.store(results[2] == Status::SUCCESS, Ordering::SeqCst);
                results
            });
            let enters: [(HostLeaf, &[_]); 2] = [(HostLeaf::VP_ENTER, &enter); 2];
            std::vec![host, calls(&world, 0, &enters)]
        },
        |_, _| {},
    );
}

#[test]
fn a_removed_page_is_in_no_tlb_any_more() {
    removal_while_a_vcpu_runs(None);
}

#[test]
#[should_panic(expected = "used after its removal")]
fn without_tracking_a_removed_page_stays_in_a_tlb() {
    removal_while_a_vcpu_runs(Some(Bug::SkipsTracking));
}

/// The guest accepts a page while the host gives it and blocks it.
#[test]
fn augment_against_accept_ends_in_a_state_that_both_understand() {
    explore(
        300,
        || {
            let mut world = World::ready(2);
            running(&mut world);
            world.machine().share_guest(Arc::new(|vcpu, _| {
                switch();
                let regs = &mut vcpu.regs;
                if regs.gpr[Gpr::R12.index()] != 0 {
                    return;
                }
                regs.gpr[Gpr::R12.index()] = 1;
                // 64-bit code that executes TDG.MEM.PAGE.ACCEPT of 0x1000.
                regs.msr.efer |= 1 << 10;
                regs.segments[Seg::Cs as usize].access |= 1 << 13;
                regs.gpr[Gpr::Rax.index()] = GuestLeaf::MEM_PAGE_ACCEPT.0 as u64;
                regs.gpr[Gpr::Rcx.index()] = 0x1000;
                vcpu.exit = VmExit {
                    instruction_length: 4,
                    ..VmExit::new(ExitReason::TDCALL)
                };
            }));
            world
        },
        |world| {
            let (tdr, tdvpr) = (super::TDMR + 0x10_0000, tdvpr_of(&world));
            let aug = [
                (Gpr::Rcx, 0x1000),
                (Gpr::Rdx, tdr),
                (Gpr::R8, super::TDMR + 0x20_0000),
            ];
            let enter = [(Gpr::Rcx, tdvpr)];
            let block = [(Gpr::Rcx, 0x1000), (Gpr::Rdx, tdr)];
            std::vec![
                calls(&world, 0, &[(HostLeaf::VP_ENTER, &enter)]),
                calls(
                    &world,
                    1,
                    &[
                        (HostLeaf::MEM_PAGE_AUG, &aug),
                        (HostLeaf::MEM_RANGE_BLOCK, &block)
                    ]
                ),
            ]
        },
        |world, results| {
            assert_eq!(results[1][0], Status::SUCCESS);
            let state = with_td(world, super::TDMR + 0x10_0000, |td| {
                td.sept
                    .walk_to_end(Gpa::new(0x1000))
                    .and_then(|slot| slot.state())
            });
            let blocked = results[1][1] == Status::SUCCESS;
            let expected: &[SeptState] = match blocked {
                true => &[SeptState::Blocked, SeptState::PendingBlocked],
                false => &[SeptState::Mapped, SeptState::Pending],
            };
            assert!(
                state.is_some_and(|s| expected.contains(&s)),
                "{state:?} {results:?}"
            );
        },
    );
}

fn tdvpr_of(world: &World) -> u64 {
    let mut found = 0;
    if let Ok(pamt) = world.module.pamt() {
        pamt.for_each(|hpa, _, entry| {
            let page = entry.lock().peek();
            if page.is_some_and(|p| p.page_type() == crate::pamt::PageType::Tdvpr) {
                found = hpa.raw();
            }
        });
    }
    found
}

#[test]
fn tracking_against_entries_loses_no_reference() {
    explore(
        300,
        || {
            let mut world = World::ready(3);
            running(&mut world);
            world
        },
        |world| {
            let (tdr, tdvpr) = (super::TDMR + 0x10_0000, tdvpr_of(&world));
            let enter = [(Gpr::Rcx, tdvpr)];
            let track = [(Gpr::Rcx, tdr)];
            std::vec![
                calls(
                    &world,
                    0,
                    &[(HostLeaf::VP_ENTER, &enter), (HostLeaf::VP_ENTER, &enter)]
                ),
                calls(
                    &world,
                    1,
                    &[(HostLeaf::MEM_TRACK, &track), (HostLeaf::MEM_TRACK, &track)]
                ),
                calls(&world, 2, &[(HostLeaf::MEM_TRACK, &track)]),
            ]
        },
        |world, results| {
            let tracks = results[1].iter().chain(&results[2]);
            let advanced = tracks.filter(|s| **s == Status::SUCCESS).count() as u64;
            with_td(world, super::TDMR + 0x10_0000, |td| {
                assert_eq!(td.epoch.current(), 1 + advanced);
                assert_eq!((td.epoch.references(0), td.epoch.references(1)), (0, 0));
            });
        },
    );
}

#[test]
fn a_vcpu_is_flushed_or_entered_but_never_on_two_processors() {
    explore(
        300,
        || {
            let mut world = World::ready(2);
            running(&mut world);
            world
        },
        |world| {
            let tdvpr = tdvpr_of(&world);
            let regs = [(Gpr::Rcx, tdvpr)];
            std::vec![
                calls(
                    &world,
                    0,
                    &[(HostLeaf::VP_FLUSH, &regs), (HostLeaf::VP_ENTER, &regs)]
                ),
                calls(
                    &world,
                    1,
                    &[(HostLeaf::VP_ENTER, &regs), (HostLeaf::VP_ENTER, &regs)]
                ),
            ]
        },
        |world, results| {
            let entered = |s: &Status| s.raw() == 1;
            let on_0 = entered(&results[0][1]);
            let on_1 = results[1].iter().any(entered);
            assert!(on_0 || on_1, "{results:?}");
            assert!(!(on_0 && on_1), "{results:?}");
            let hpa = Hpa::new(tdvpr_of(world));
            let entry = world.module.pamt().unwrap().entry(hpa).unwrap();
            if let crate::pamt::PageUse::Tdvpr(vp) = &*entry.lock().peek().unwrap() {
                assert_eq!(vp.state(), VcpuState::Ready);
            }
        },
    );
}

#[test]
fn of_two_augs_of_one_gpa_or_one_page_only_one_wins() {
    for (gpas, pages) in [
        ([0x1000, 0x1000], [0x20_0000, 0x20_1000]),
        ([0x1000, 0x2000], [0x20_0000, 0x20_0000]),
    ] {
        explore(
            200,
            || {
                let mut world = World::ready(2);
                running(&mut world);
                world
            },
            move |world| {
                let aug = |lp: usize| {
                    let regs = [
                        (Gpr::Rcx, gpas[lp]),
                        (Gpr::Rdx, super::TDMR + 0x10_0000),
                        (Gpr::R8, super::TDMR + pages[lp]),
                    ];
                    calls(&world, lp as u32, &[(HostLeaf::MEM_PAGE_AUG, &regs)])
                };
                std::vec![aug(0), aug(1)]
            },
            |_, results| {
                let won = results.iter().filter(|r| r[0] == Status::SUCCESS).count();
                assert_eq!(won, 1, "{results:?}");
            },
        );
    }
}

#[test]
fn memory_of_the_flat_machine_is_flat() {
    let world = World::loaded(1);
    world.machine().poke(0x1000, &[1, 2, 3]);
    let mut read = [0; 3];
    let at = KeyedHpa::new(Hpa::new(0x1000), Hkid(40));
    assert!(world.machine().read(at, &mut read).is_ok());
    assert_eq!(read, [1, 2, 3]);
}
