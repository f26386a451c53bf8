//! Plays call sequences out of bytes: the target of property tests and of the fuzzer.

use super::{GLOBAL_HKID, TDMR, World, td_params};
use crate::leaf::ROWS;
use alloc::sync::Arc;
use alloc::vec::Vec;
use tdx_abi::{HostLeaf, Status};
use x86_arch::vmx::Vcpu;
use x86_arch::{Access, ExitReason, Gpa, Gpr, SecondLevel, VmExit};

/// Bytes of one call.
pub const STEP: usize = 8;
const LPS: u32 = 3;

/// Half of the calls are one of these.
const MEMORY: [HostLeaf; 10] = [
    HostLeaf::MEM_PAGE_AUG,
    HostLeaf::MEM_PAGE_REMOVE,
    HostLeaf::MEM_PAGE_RELOCATE,
    HostLeaf::MEM_PAGE_PROMOTE,
    HostLeaf::MEM_PAGE_DEMOTE,
    HostLeaf::MEM_RANGE_BLOCK,
    HostLeaf::MEM_RANGE_UNBLOCK,
    HostLeaf::MEM_SEPT_ADD,
    HostLeaf::MEM_SEPT_REMOVE,
    HostLeaf::MEM_TRACK,
];

/// Leaves that a refused call may have changed something in (spec: what stays is named there).
fn keeps_something(leaf: HostLeaf) -> bool {
    matches!(
        leaf,
        HostLeaf::VP_ENTER | HostLeaf::VP_RD | HostLeaf::VP_WR | HostLeaf::VP_INIT
    )
}

/// Addresses that calls name again and again, so that they meet.
struct Pool {
    pages: Vec<u64>,
}

impl Pool {
    fn new() -> Pool {
        let mut pages: Vec<u64> = (0..40).map(|i| TDMR + 0x10_0000 + i * 0x1000).collect();
        // Two large ranges, a page outside, and wild values.
        pages.extend([TDMR + 0x40_0000, TDMR + 0x60_0000, TDMR + (3 << 30)]);
        pages.extend([0x30_0000, u64::MAX, TDMR + 0x10_0001, 1 << 51]);
        Pool { pages }
    }
    /// Often the TDR or the TDVPR of the TD that is built at the start.
    fn page(&self, pick: u8) -> u64 {
        match pick {
            0..=79 => self.pages[0],
            80..=111 => self.pages[11],
            _ => self.pages[pick as usize % self.pages.len()],
        }
    }
    fn mapping(pick: u8) -> u64 {
        const MAPPINGS: [u64; 12] = [
            0,
            0x1000,
            0x2000,
            0x20_0000,
            0x20_0001,
            1,
            2,
            3,
            0x4000_0001,
            0x1_0000_0000_0000,
            0x1005,
            0x40_0001,
        ];
        MAPPINGS[pick as usize % MAPPINGS.len()]
    }
}

/// Builds up a TD as a host would, so that the calls have something to meet: `steps` of it.
fn build(world: &mut World, steps: u8) {
    let page = |i: u64| TDMR + 0x10_0000 + i * 0x1000;
    let tdr = (Gpr::Rdx, page(0));
    let mut calls: Vec<(HostLeaf, Vec<(Gpr, u64)>)> = Vec::new();
    calls.push((
        HostLeaf::MNG_CREATE,
        [(Gpr::Rcx, page(0)), (Gpr::Rdx, GLOBAL_HKID + 1)].into(),
    ));
    calls.push((HostLeaf::MNG_KEY_CONFIG, [(Gpr::Rcx, page(0))].into()));
    for i in 1..7 {
        calls.push((HostLeaf::MNG_ADDCX, [(Gpr::Rcx, page(i)), tdr].into()));
    }
    calls.push((
        HostLeaf::MNG_INIT,
        [(Gpr::Rcx, page(0)), (Gpr::Rdx, 0x21_0000)].into(),
    ));
    for (level, i) in [(3, 7), (2, 8), (1, 9)] {
        let regs = [(Gpr::Rcx, level), tdr, (Gpr::R8, page(i))];
        calls.push((HostLeaf::MEM_SEPT_ADD, regs.into()));
    }
    let regs = [
        (Gpr::Rcx, 0),
        tdr,
        (Gpr::R8, page(10)),
        (Gpr::R9, 0x30_0000),
    ];
    calls.push((HostLeaf::MEM_PAGE_ADD, regs.into()));
    calls.push((HostLeaf::VP_CREATE, [(Gpr::Rcx, page(11)), tdr].into()));
    for i in 12..17 {
        calls.push((
            HostLeaf::VP_ADDCX,
            [(Gpr::Rcx, page(i)), (Gpr::Rdx, page(11))].into(),
        ));
    }
    calls.push((
        HostLeaf::VP_INIT,
        [(Gpr::Rcx, page(11)), (Gpr::Rdx, 0)].into(),
    ));
    calls.push((HostLeaf::MR_FINALIZE, [(Gpr::Rcx, page(0))].into()));
    for (leaf, regs) in calls.iter().take(steps as usize) {
        world.ok(0, *leaf, regs);
    }
}

/// A guest: reads what it can, so that its processor has translations, and leaves.
fn look_around(vcpu: &mut Vcpu, memory: &dyn SecondLevel, dies: bool) {
    for gpa in [0, 0x1000, 0x2000, 0x20_0000, 0x20_1000] {
        let _ = memory.translate(Gpa::new(gpa), Access::Read);
    }
    if dies {
        vcpu.exit = VmExit::new(ExitReason::TRIPLE_FAULT);
    }
}

/// Plays `bytes`: the first one says how far a TD is built before, each eight that follow are a call.
///
/// # Panics
/// When a refused call changed something, or the state breaks a rule at the end.
pub fn play(bytes: &[u8]) {
    play_in(World::ready(LPS), bytes);
}

fn play_in(mut world: World, bytes: &[u8]) {
    let Some((steps, calls)) = bytes.split_first() else {
        return;
    };
    world.machine().poke(0x21_0000, &td_params(0));
    build(&mut world, *steps);
    let pool = Pool::new();
    for call in calls.chunks_exact(STEP) {
        let leaf = match call[0] {
            0..128 => ROWS[call[0] as usize % ROWS.len()].leaf,
            pick => MEMORY[pick as usize % MEMORY.len()],
        };
        if leaf == HostLeaf::SYS_SHUTDOWN || leaf == HostLeaf::VP_ENTER && call[7] & 1 != 0 {
            continue;
        }
        let rcx = match call[2] & 3 {
            0 => Pool::mapping(call[3]),
            1 => call[3] as u64,
            _ => pool.page(call[3]),
        };
        let rdx = match call[2] & 0xC {
            0 => GLOBAL_HKID + (call[4] & 7) as u64,
            4 if leaf == HostLeaf::MNG_INIT => 0x21_0000,
            _ => pool.page(call[4]),
        };
        let mut regs: Vec<(Gpr, u64)> = [(Gpr::Rcx, rcx), (Gpr::Rdx, rdx)].into();
        regs.push((Gpr::R8, pool.page(call[5])));
        regs.push((Gpr::R9, pool.page(call[6])));
        let version = (call[7] >> 6 == 3) as u8;
        if leaf == HostLeaf::VP_ENTER {
            let dies = call[7] & 2 != 0;
            world.machine().share_guest(Arc::new(move |vcpu, memory| {
                look_around(vcpu, memory, dies)
            }));
        }
        let before = world.module.fingerprint();
        let (status, _) = world.call_version(call[1] as u32 % LPS, leaf, version, &regs);
        let refused = status.is_error() && status.code() != Status::INTERRUPTED_RESUMABLE;
        if refused && !keeps_something(leaf) {
            assert_eq!(
                world.module.fingerprint(),
                before,
                "{leaf} refused with {status}"
            );
        }
    }
    let found = world.module.audit();
    assert!(found.is_empty(), "{found:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bug::Bug;
    use proptest::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_sequence_of_calls_breaks_a_rule(
            steps in 0u8..24,
            calls in proptest::collection::vec(any::<[u8; STEP]>(), 0..120),
        ) {
            let mut bytes = std::vec![steps];
            bytes.extend(calls.iter().flatten());
            play(&bytes);
        }
    }

    /// A module with a bug, played with pseudo-random calls: how many of `games` show it.
    fn games_that_show(bug: Bug, games: u64) -> usize {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        let mut shown = 0;
        for _ in 0..games {
            let bytes: Vec<u8> = core::iter::once(24)
                .chain((0..STEP * 400).map(|_| next()))
                .collect();
            let mut world = World::ready(LPS);
            world.module.bug = Some(bug);
            shown += catch_unwind(AssertUnwindSafe(|| play_in(world, &bytes))).is_err() as usize;
        }
        shown
    }

    #[test]
    fn play_finds_deliberate_bugs() {
        std::panic::set_hook(std::boxed::Box::new(|_| {}));
        let shown = [
            Bug::ForgetsChild,
            Bug::ForgetsHkid,
            Bug::ChangesBeforeRefusing,
        ]
        .map(|bug| (bug, games_that_show(bug, 30)));
        let _ = std::panic::take_hook();
        for (bug, games) in shown {
            assert!(games > 0, "{bug:?}");
        }
    }
}
