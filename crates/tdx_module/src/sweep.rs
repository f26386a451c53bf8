//! The sweep: every leaf against op-states, Secure-EPT states, held locks and versions, with the first refusal.
//!
//! What is allowed is compared with the ABI crate's tables (which are checked against the reference there); which
//! refusal comes first is in the reviewed snapshot `snapshots/sweep.txt`. `SWEEP=write cargo test -p tdx_module sweep`
//! writes it anew.

use crate::Profile;
use crate::leaf::ROWS;
use crate::lock::Side;
use crate::lock_order::Order;
use crate::operand::TdrShared;
use crate::sept::{SeptEntry, SeptState, WalkEnd};
use crate::state::OpState;
use crate::testing::{TestTd, World};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use std::string::ToString;
use tdx_abi::HostLeaf;
use x86_arch::{Gpa, Gpr, Hpa};

/// A TD with one of everything, and the operands that reach it.
struct Scene {
    world: World,
    td: TestTd,
    tdvpr: u64,
    free: u64,
    /// What the scene itself holds.
    order: Order,
}

/// The guest page that MEM.* leaves are tried on.
const GPA: u64 = 0x20_0000;
const FREE_GPA: u64 = 0x20_1000;

impl Scene {
    fn new() -> Scene {
        let mut world = World::ready(2);
        let td = world.td(33);
        world.sept_path(td, GPA, 0);
        world.add_page(td, GPA);
        let tdvpr = world.vcpu(td, 0);
        let free = world.page();
        Scene {
            world,
            td,
            tdvpr,
            free,
            order: Order::default(),
        }
    }
    fn tdr(&self) -> TdrShared<'_> {
        match self
            .world
            .module
            .implicit_tdr(Hpa::new(self.td.tdr), &self.order)
        {
            Ok(td) => td,
            Err(_) => panic!("the scene's TD"),
        }
    }
    fn force_op_state(&self, state: OpState) {
        self.tdr().set_op_state(&crate::call::Sticky::new(), state);
    }
    /// Forces the entry that the leaf looks at into a state.
    fn force_entry(&self, level: u8, state: SeptState) {
        let td = self.tdr();
        let Some(WalkEnd::Reached(slot)) = td.sept.walk(Gpa::new(GPA), level) else {
            panic!("the scene's page");
        };
        let entry = slot.lock(Side::Host).unwrap();
        let page = entry.entry().hpa();
        let raw = match state {
            SeptState::Free => SeptEntry::FREE,
            SeptState::NlMapped => SeptEntry::table(page),
            SeptState::NlBlocked => SeptEntry::table(page).blocked(level),
            _ => SeptEntry::leaf(state, page).with_access(state.is_guest_accessible()),
        };
        let commit = crate::call::Commit::new();
        entry.write(&commit, raw);
        let _ = commit.done();
    }
    /// Operands with which the leaf gets as far as it can.
    fn operands(&self, leaf: HostLeaf) -> Vec<(Gpr, u64)> {
        let (tdr, tdvpr, free) = (self.td.tdr, self.tdvpr, self.free);
        let regs: &[(Gpr, u64)] = match leaf {
            HostLeaf::VP_ENTER | HostLeaf::VP_FLUSH | HostLeaf::VP_INIT => &[(Gpr::Rcx, tdvpr)],
            HostLeaf::EXPORT_STATE_VP | HostLeaf::IMPORT_STATE_VP => &[(Gpr::Rcx, tdvpr)],
            HostLeaf::VP_RD | HostLeaf::VP_WR => &[(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0)],
            HostLeaf::VP_ADDCX => &[(Gpr::Rcx, free), (Gpr::Rdx, tdvpr)],
            HostLeaf::MNG_CREATE => &[(Gpr::Rcx, free), (Gpr::Rdx, 40)],
            HostLeaf::MNG_ADDCX | HostLeaf::VP_CREATE | HostLeaf::MIG_STREAM_CREATE => {
                &[(Gpr::Rcx, free), (Gpr::Rdx, tdr)]
            }
            HostLeaf::MEM_PAGE_ADD => &[
                (Gpr::Rcx, FREE_GPA),
                (Gpr::Rdx, tdr),
                (Gpr::R8, free),
                (Gpr::R9, 0x30_0000),
            ],
            HostLeaf::MEM_PAGE_AUG => &[(Gpr::Rcx, FREE_GPA), (Gpr::Rdx, tdr), (Gpr::R8, free)],
            HostLeaf::MEM_SEPT_ADD => &[(Gpr::Rcx, 0x40_0001), (Gpr::Rdx, tdr), (Gpr::R8, free)],
            HostLeaf::MEM_SEPT_REMOVE | HostLeaf::MEM_PAGE_PROMOTE => {
                &[(Gpr::Rcx, GPA | 1), (Gpr::Rdx, tdr)]
            }
            HostLeaf::MEM_PAGE_DEMOTE => &[(Gpr::Rcx, GPA | 1), (Gpr::Rdx, tdr), (Gpr::R8, free)],
            HostLeaf::MEM_PAGE_RELOCATE => &[(Gpr::Rcx, GPA), (Gpr::Rdx, tdr), (Gpr::R8, free)],
            HostLeaf::MEM_PAGE_REMOVE
            | HostLeaf::MEM_RANGE_BLOCK
            | HostLeaf::MEM_RANGE_UNBLOCK
            | HostLeaf::MEM_SEPT_RD
            | HostLeaf::MEM_RD
            | HostLeaf::MEM_WR
            | HostLeaf::MR_EXTEND
            | HostLeaf::EXPORT_BLOCKW
            | HostLeaf::EXPORT_UNBLOCKW
            | HostLeaf::EXPORT_RESTORE
            | HostLeaf::EXPORT_MEM
            | HostLeaf::IMPORT_MEM => &[(Gpr::Rcx, GPA), (Gpr::Rdx, tdr)],
            HostLeaf::SERVTD_PREBIND => &[
                (Gpr::Rcx, tdr),
                (Gpr::Rdx, 0x30_0000),
                (Gpr::R8, 0),
                (Gpr::R9, 0),
                (Gpr::R10, 0),
            ],
            HostLeaf::PHYMEM_PAGE_RDMD
            | HostLeaf::PHYMEM_PAGE_RECLAIM
            | HostLeaf::PHYMEM_PAGE_WBINVD => &[(Gpr::Rcx, free)],
            HostLeaf::PHYMEM_CACHE_WB => &[(Gpr::Rcx, 0)],
            HostLeaf::MNG_INIT => &[(Gpr::Rcx, tdr), (Gpr::Rdx, 0x21_0000)],
            HostLeaf::SYS_SHUTDOWN => &[(Gpr::Rcx, 1)],
            _ => &[(Gpr::Rcx, tdr), (Gpr::Rdx, 0)],
        };
        regs.to_vec()
    }
    fn first_refusal(&self, leaf: HostLeaf, version: u8) -> String {
        let (status, _) = self
            .world
            .call_version(0, leaf, version, &self.operands(leaf));
        status.to_string().replace("TDX_", "")
    }
}

/// Leaves that a running TD needs; the scene's vCPU has no guest.
fn runs_a_guest(leaf: HostLeaf) -> bool {
    leaf == HostLeaf::VP_ENTER
}

fn sorted_leaves() -> Vec<HostLeaf> {
    let mut leaves: Vec<_> = ROWS.iter().map(|row| row.leaf).collect();
    leaves.sort();
    leaves
}

fn sweep() -> String {
    let mut out = String::new();
    for leaf in sorted_leaves() {
        if runs_a_guest(leaf) {
            continue;
        }
        for version in [0, 1, 2, 255] {
            let scene = Scene::new();
            let refusal = scene.first_refusal(leaf, version);
            let _ = writeln!(out, "{leaf} version {version}: {refusal}");
        }
        let row = leaf_row(leaf);
        if row.op_states != crate::state::OpStates::NONE {
            for state in OpState::ALL.iter().copied() {
                if leads_into_migration(leaf, state) {
                    continue;
                }
                let scene = Scene::new();
                scene.force_op_state(state);
                let refusal = scene.first_refusal(leaf, 0);
                let _ = writeln!(out, "{leaf} op-state {state:?}: {refusal}");
            }
        }
        if let Some(level) = entry_level(leaf) {
            for state in SeptState::ALL {
                let scene = Scene::new();
                scene.force_entry(level, state);
                let refusal = with_entry(&scene, leaf);
                let _ = writeln!(out, "{leaf} entry {state:?}: {refusal}");
            }
        }
        for held in [
            "TDR shared",
            "TDR exclusive",
            "TDVPR shared",
            "TDVPR exclusive",
        ] {
            let _ = writeln!(out, "{leaf} {held}: {}", with_page_held(leaf, held));
        }
        for held in [
            "OP_STATE",
            "SEPT tree shared",
            "SEPT tree exclusive",
            "epoch",
            "KOT",
            "global",
        ] {
            let _ = writeln!(out, "{leaf} {held}: {}", with_lock_held(leaf, held));
        }
    }
    out
}

fn leaf_row(leaf: HostLeaf) -> &'static crate::leaf::Row {
    ROWS.iter().find(|row| row.leaf == leaf).expect("a row")
}

/// A migration leaf in a migration op-state: unreachable, and a stop of the module if forced.
fn leads_into_migration(leaf: HostLeaf, state: OpState) -> bool {
    let migration = (64..96).contains(&leaf.0);
    migration && leaf_row(leaf).op_states.contains(state) && ![2, 0].contains(&(state as u8))
}

/// The level of the entry whose state the leaf looks at, in the scene.
fn entry_level(leaf: HostLeaf) -> Option<u8> {
    match leaf {
        HostLeaf::MEM_PAGE_RELOCATE
        | HostLeaf::MEM_PAGE_REMOVE
        | HostLeaf::MEM_RANGE_BLOCK
        | HostLeaf::MEM_RANGE_UNBLOCK
        | HostLeaf::MEM_SEPT_RD
        | HostLeaf::MEM_PAGE_AUG
        | HostLeaf::MEM_PAGE_ADD => Some(0),
        _ => None,
    }
}

fn with_entry(scene: &Scene, leaf: HostLeaf) -> String {
    let mut regs = scene.operands(leaf);
    regs[0].1 = GPA;
    let (status, _) = scene.world.call_version(0, leaf, 0, &regs);
    status.to_string().replace("TDX_", "")
}

fn with_page_held(leaf: HostLeaf, held: &str) -> String {
    let scene = Scene::new();
    let page = if held.starts_with("TDR") {
        scene.td.tdr
    } else {
        scene.tdvpr
    };
    let entry = scene
        .world
        .module
        .pamt()
        .unwrap()
        .entry(Hpa::new(page))
        .unwrap();
    if held.ends_with("shared") {
        let _held = entry.lock().shared(Side::Host).unwrap();
        scene.first_refusal(leaf, 0)
    } else {
        let _held = entry.lock().exclusive(Side::Host).unwrap();
        scene.first_refusal(leaf, 0)
    }
}

fn with_lock_held(leaf: HostLeaf, held: &str) -> String {
    let scene = Scene::new();
    let module = &scene.world.module;
    let kot = (held == "KOT").then(|| module.kot.exclusive().unwrap());
    let global = (held == "global").then(|| module.global.exclusive().unwrap());
    if kot.is_some() || global.is_some() {
        return scene.first_refusal(leaf, 0);
    }
    // Whoever holds a lock inside the TD holds the TDR shared.
    let td = scene.tdr();
    let _op_state = (held == "OP_STATE").then(|| td.op_state_lock.exclusive(Side::Host).unwrap());
    let _tree = (held == "SEPT tree exclusive").then(|| td.sept.lock.exclusive().unwrap());
    let _shared_tree = (held == "SEPT tree shared").then(|| td.sept.lock.shared().unwrap());
    let _epoch = (held == "epoch").then(|| td.epoch.lock.exclusive().unwrap());
    scene.first_refusal(leaf, 0)
}

#[test]
fn the_sweep_is_as_reviewed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/snapshots/sweep.txt");
    let now = sweep();
    if std::env::var("SWEEP").is_ok_and(|v| v == "write") {
        std::fs::write(path, &now).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert!(reviewed.lines().count() < 2000);
    let differs = now.lines().zip(reviewed.lines()).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(now.lines().count(), reviewed.lines().count());
}

#[test]
fn rows_allow_what_the_abi_tables_allow() {
    for row in ROWS {
        let abi = row.leaf.row().unwrap_or_else(|| panic!("{}", row.leaf));
        for state in OpState::ALL.iter().copied() {
            // A leaf that may run in all states does not look.
            let allowed = match abi.op_states {
                Some(states) if states.len() < OpState::ALL.len() => {
                    states.iter().any(|s| *s as u8 == state as u8)
                }
                _ => false,
            };
            assert_eq!(
                row.op_states.contains(state),
                allowed,
                "{} {state:?}",
                row.leaf
            );
        }
        let highest = abi.versions.iter().max().copied().unwrap_or(0);
        assert_eq!(row.max_version, highest, "{}", row.leaf);
        let interruptible = abi.interruption != tdx_abi::Interruption::Never;
        assert_eq!(row.interruptible, interruptible, "{}", row.leaf);
    }
    for number in 0..128 {
        let leaf = HostLeaf(number);
        let implemented = leaf.row().is_some_and(|row| row.implemented);
        let here = ROWS.iter().any(|row| row.leaf == leaf);
        assert_eq!(here, implemented, "{leaf}");
    }
}

#[test]
fn entries_allow_what_the_abi_tables_allow() {
    for leaf in sorted_leaves() {
        let Some(level) = entry_level(leaf) else {
            continue;
        };
        let Some(allowed) = leaf.row().and_then(|row| row.sept_states) else {
            continue;
        };
        for state in SeptState::ALL {
            let scene = Scene::new();
            scene.force_entry(level, state);
            let refusal = with_entry(&scene, leaf);
            let wrong = refusal.starts_with("EPT_ENTRY_STATE_INCORRECT")
                || refusal.starts_with("GPA_RANGE_ALREADY_BLOCKED");
            let may = allowed.iter().any(|s| *s as u8 == state.public());
            assert_eq!(!wrong, may, "{leaf} {state:?}: {refusal}");
        }
    }
}

#[test]
fn a_newer_profile_only_adds() {
    let newest = Profile::ALL[Profile::ALL.len() - 1];
    let oldest = Profile::ALL[0];
    assert_eq!(newest.features0 & oldest.features0, oldest.features0);
    assert!(newest.vp_init_version >= oldest.vp_init_version);
    assert_eq!(Profile::by_name(oldest.name), Some(oldest));
}
