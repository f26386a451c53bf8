//! TDH.VP.ENTER's refusals, every exit reason of L1, and the defences (vp-enter.md 3, 7, 8, 10 and 12).

use super::inject;
use crate::HostEvent;
use crate::testing::{FlatMachine, TestTd, World};
use crate::{LpId, Module};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use coco_regs::{GprFile, XmmFile};
use core::sync::atomic::Ordering;
use spin::Mutex;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::vmx::{EntryEvent, Seg, Vcpu};
use x86_arch::{ExitReason, Gpr, VmExit};

const DEBUG: u64 = 1;
const SEPT_VE_DISABLE: u64 = 1 << 28;

fn enter(module: &Module<FlatMachine>, lp: u32, rcx: u64) -> GprFile {
    let mut gprs = GprFile(core::array::from_fn(|n| 0xC0DE_0000 | n as u64));
    gprs[Gpr::Rax] = 0;
    gprs[Gpr::Rcx] = rcx;
    let entered = module.seamcall(LpId(lp), &mut gprs, &mut XmmFile([7; 16]));
    entered.unwrap_or_else(|broken| panic!("{broken}"));
    gprs
}

/// An entry that a check refuses: the VMM's registers keep their values.
#[track_caller]
fn refused(world: &World, lp: u32, rcx: u64, expected: Status) {
    let mut gprs = GprFile(core::array::from_fn(|n| 0xC0DE_0000 | n as u64));
    gprs[Gpr::Rax] = 0;
    gprs[Gpr::Rcx] = rcx;
    let before = gprs;
    let mut xmms = XmmFile([7; 16]);
    let entered = world.module.seamcall(LpId(lp), &mut gprs, &mut xmms);
    entered.unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!(Status(gprs[Gpr::Rax]), expected);
    assert_eq!(gprs.0[1..], before.0[1..]);
    assert_eq!(xmms, XmmFile([7; 16]));
}

fn script(world: &World, guest: impl FnMut(&mut Vcpu) + Send + 'static) {
    let mut guest = guest;
    *world.machine().guest.lock() = Some(Box::new(move |vcpu, _| guest(vcpu)));
}

fn exits(vcpu: &mut Vcpu, reason: ExitReason) {
    vcpu.exit = VmExit::new(reason);
    vcpu.exit.instruction_length = 2;
}

fn interrupted(vcpu: &mut Vcpu) {
    exits(vcpu, ExitReason::INTERRUPT);
    vcpu.exit.interruption_info = 0x8000_0031;
}

fn in_64_bit_mode(vcpu: &mut Vcpu) {
    vcpu.regs.msr.efer = 0xD01;
    vcpu.regs.segments[Seg::Cs as usize].access = 0xA09B;
}

fn read_vp(world: &World, tdvpr: u64, field: u64) -> (Status, u64) {
    let regs = [(Gpr::Rcx, tdvpr), (Gpr::Rdx, field)];
    let (status, out) = world.call_version(0, HostLeaf::VP_RD, 0, &regs);
    (status, out[Gpr::R8])
}

#[test]
fn each_check_of_an_entry_refuses_alone_and_leaves_registers_alone() {
    let mut world = World::ready(2);
    let unfinished = world.td(40);
    let its_vp = world.vcpu(unfinished, 0);
    let bare_vp = world.page();
    let create = [(Gpr::Rcx, bare_vp), (Gpr::Rdx, unfinished.tdr)];
    world.ok(0, HostLeaf::VP_CREATE, &create);
    let (td, vp) = world.runnable_td(33);
    let rcx = OperandId::RCX;
    let invalid = Status::OPERAND_INVALID.with_operand(rcx);

    world.machine().set_msr(0, 0x1A0, 0x44_0801);
    refused(&world, 0, vp, Status::LIMIT_CPUID_MAXVAL_SET);
    world.machine().set_msr(0, 0x1A0, 0x4_0801);
    for bad in [1, 0x800, 1 << 54, 1 << 63] {
        refused(&world, 0, vp | bad, invalid);
    }
    refused(&world, 0, vp | 33 << 46, invalid);
    let range = Status::OPERAND_ADDR_RANGE_ERROR.with_operand(rcx);
    refused(&world, 0, 0x20_0000, range);
    let metadata = Status::PAGE_METADATA_INCORRECT.with_operand(rcx);
    refused(&world, 0, td.tdr, metadata);
    refused(&world, 0, its_vp, Status::OP_STATE_INCORRECT);
    world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, unfinished.tdr)]);
    refused(&world, 0, bare_vp, Status::TDCX_NUM_INCORRECT);
    refused(&world, 1, vp, Status::VCPU_ASSOCIATED);
    for flag in [1 << 52, 1 << 53] {
        refused(&world, 0, vp | flag, invalid);
    }
    world.machine().set_msr(0, 0x3B, 5);
    refused(&world, 0, vp, Status::INCONSISTENT_MSR.with_details(0x3B));
    world.machine().set_msr(0, 0x3B, 0);

    script(&world, interrupted);
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
    let now = world.machine().tsc.swap(0, Ordering::Relaxed);
    refused(&world, 0, vp, Status::TSC_ROLLBACK);
    world.machine().tsc.store(now, Ordering::Relaxed);
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
}

/// vp-enter.md 12, "row 8 then a failure".
#[test]
fn a_refused_entry_keeps_the_vcpu_associated() {
    let mut world = World::ready(2);
    let (_, vp) = world.runnable_td(33);
    world.ok(0, HostLeaf::VP_FLUSH, &[(Gpr::Rcx, vp)]);
    world.machine().set_msr(1, 0x3B, 5);
    refused(&world, 1, vp, Status::INCONSISTENT_MSR.with_details(0x3B));
    refused(&world, 0, vp, Status::VCPU_ASSOCIATED);
    world.ok(1, HostLeaf::VP_FLUSH, &[(Gpr::Rcx, vp)]);
    script(&world, interrupted);
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
}

/// vp-enter.md 6.4 and 12.
#[test]
fn a_triple_fault_ends_the_vcpu_and_nothing_else() {
    let mut world = World::ready(1);
    let (td, vp) = world.runnable_td_with(33, DEBUG, 0);
    script(&world, |vcpu| exits(vcpu, ExitReason::TRIPLE_FAULT));
    let out = enter(&world.module, 0, vp);
    assert_eq!(
        Status(out[Gpr::Rax]),
        Status::NON_RECOVERABLE_VCPU.with_details(2)
    );
    refused(&world, 0, vp, Status::VCPU_STATE_INCORRECT);
    assert_eq!(
        read_vp(&world, vp, 0x1020_0003_0000_0000).0,
        Status::SUCCESS
    );
    let attributes = 0x1110_0003_0000_0000;
    let read = [(Gpr::Rcx, td.tdr), (Gpr::Rdx, attributes)];
    assert_eq!(world.ok(0, HostLeaf::MNG_RD, &read)[Gpr::R8], DEBUG);
}

#[test]
fn a_machine_check_of_one_td_kills_that_td() {
    let mut world = World::ready(1);
    let (td, vp) = world.runnable_td(33);
    let (_, other) = world.runnable_td(34);
    script(&world, |vcpu| {
        exits(vcpu, ExitReason::EXCEPTION_OR_NMI);
        vcpu.exit.interruption_info = 0x8000_0312;
    });
    let out = enter(&world.module, 0, vp);
    assert_eq!(
        Status(out[Gpr::Rax]),
        Status::NON_RECOVERABLE_TD_NON_ACCESSIBLE
    );
    assert_eq!(out[Gpr::R9], 0x8000_0312);
    refused(&world, 0, vp, Status::TD_FATAL);
    assert_eq!(
        world.call(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]),
        Status::TD_FATAL
    );
    script(&world, interrupted);
    assert_eq!(enter(&world.module, 0, other)[Gpr::Rax], 1);
}

/// What the guest meets after an exit, or what the VMM sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Vector(u32),
    Exit(u64),
    Shutdown,
}

/// Words of an exit beside its reason.
type Prepare = fn(&mut Vcpu);

fn outcome(attributes: u64, reason: ExitReason, prepare: Prepare) -> Outcome {
    let mut world = World::ready(1);
    let (_, vp) = world.runnable_td_with(33, attributes, 0);
    let event = Arc::new(Mutex::new(None));
    let told = event.clone();
    let mut first = true;
    *world.machine().guest.lock() = Some(Box::new(move |vcpu, _| {
        if core::mem::take(&mut first) {
            in_64_bit_mode(vcpu);
            vcpu.entry_event = EntryEvent::default();
            exits(vcpu, reason);
            prepare(vcpu);
        } else {
            // `run` has taken the event's valid bit.
            *told.lock() = Some(vcpu.entry_event);
            interrupted(vcpu);
        }
    }));
    let mut gprs = GprFile::default();
    gprs[Gpr::Rcx] = vp;
    if world
        .module
        .seamcall(LpId(0), &mut gprs, &mut XmmFile::default())
        .is_err()
    {
        return Outcome::Shutdown;
    }
    let event = *event.lock();
    match event {
        Some(event) => Outcome::Vector(event.info & 0xFF),
        None => Outcome::Exit(gprs[Gpr::Rax]),
    }
}

/// The table of vp-enter.md 7.2, on a production TD and on a DEBUG TD.
#[test]
fn every_exit_reason_ends_as_the_table_says() {
    const VE: u32 = 20;
    const UD: u32 = 6;
    const GP: u32 = 13;
    let dead = Status::NON_RECOVERABLE_TD.raw();
    let plain = |_: &mut Vcpu| {};
    for reason in 0..=80u16 {
        let expected = match reason {
            // Rows that need more than a reason have tests of their own.
            0 | 8 | 10 | 28 | 31 | 32 | 48 | 49 | 55 | 77 => continue,
            1 | 3 | 6 | 9 | 42 | 74 | 75 => [Outcome::Exit(reason as u64); 2],
            2 => [Outcome::Exit(Status::NON_RECOVERABLE_VCPU.raw() | 2); 2],
            11 | 17 | 19..=27 | 50 | 53 | 59 | 60 | 70 | 73 | 76 => [Outcome::Vector(UD); 2],
            12 | 13 | 18 | 30 | 36 | 39 | 54 | 56 | 65 => [Outcome::Vector(VE); 2],
            15 | 72 => [Outcome::Vector(GP); 2],
            62 => [Outcome::Shutdown, Outcome::Exit(62)],
            _ => [
                Outcome::Exit(dead | reason as u64),
                Outcome::Exit(reason as u64),
            ],
        };
        let reason = ExitReason(reason);
        let got = [0, DEBUG].map(|attributes| outcome(attributes, reason, plain));
        assert_eq!(got, expected, "{reason:?}");
    }
}

#[test]
fn exits_with_details_end_as_the_table_says() {
    let dead = Status::NON_RECOVERABLE_TD.raw();
    let gone = Status::NON_RECOVERABLE_TD_NON_ACCESSIBLE.raw();
    let rows: [(ExitReason, Prepare, [Outcome; 2]); 7] = [
        (
            ExitReason::EXCEPTION_OR_NMI,
            |v| v.exit.interruption_info = 0x8000_0202,
            [Outcome::Exit(0); 2],
        ),
        (
            ExitReason::EXCEPTION_OR_NMI,
            |v| v.exit.interruption_info = 0x8000_0301,
            [Outcome::Shutdown, Outcome::Exit(0)],
        ),
        (
            ExitReason::SMI_OTHER_EVENT,
            |v| v.exit.qualification = 1,
            [Outcome::Exit(gone | 6); 2],
        ),
        (
            ExitReason::NOTIFICATION,
            |v| v.exit.qualification = 1,
            [Outcome::Exit(dead | 75); 2],
        ),
        (
            ExitReason::FAILED_VMENTER_GS,
            |v| v.exit.reason |= VmExit::ENTRY_FAILURE,
            [
                Outcome::Exit(dead | 0x8000_0021),
                Outcome::Exit(0x8000_0021),
            ],
        ),
        (
            ExitReason::FAILED_VMENTER_MC,
            |v| v.exit.reason |= VmExit::ENTRY_FAILURE,
            [Outcome::Exit(gone | 0x8000_0029); 2],
        ),
        // An event whose delivery was cut off.
        (
            ExitReason::HLT_INSTRUCTION,
            |v| v.exit.idt_vectoring_info = 0x8000_030E,
            [Outcome::Shutdown, Outcome::Exit(12)],
        ),
    ];
    for (reason, prepare, expected) in rows {
        let got = [0, DEBUG].map(|attributes| outcome(attributes, reason, prepare));
        assert_eq!(got, expected, "{reason:?}");
    }
}

/// vp-enter.md 8.5: bit 26 of an exit, and an exit of its own where the module handled the instruction.
#[test]
fn a_bus_lock_is_reported_once() {
    let mut world = World::ready(1);
    let (_, vp) = world.runnable_td(33);
    let mut run = 0;
    script(&world, move |vcpu| {
        run += 1;
        match run {
            1 => exits(vcpu, ExitReason::HLT_INSTRUCTION),
            _ => interrupted(vcpu),
        }
        if run < 3 {
            vcpu.exit.reason |= VmExit::BUS_LOCK;
        }
    });
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 0x0400_004A);
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 0x0400_0001);
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
}

/// A TD whose page at 0 is mapped and whose page at 4 KiB is not.
fn td_with_a_hole(attributes: u64) -> (World, TestTd, u64) {
    let mut world = World::ready(1);
    let (td, vp) = world.runnable_td_with(33, attributes, 0);
    world.sept_path(td, 0, 0);
    (world, td, vp)
}

fn violates(vcpu: &mut Vcpu, gpa: u64) {
    exits(vcpu, ExitReason::EPT_VIOLATION);
    vcpu.exit.qualification = 0x181;
    vcpu.exit.guest_physical_address = gpa;
}

/// vp-enter.md 8.2 and 12: the seventh violation at one RIP is remembered, and entries stop until the page is there.
#[test]
fn a_vcpu_that_faults_seven_times_in_one_place_waits_for_its_page() {
    let (mut world, td, vp) = td_with_a_hole(SEPT_VE_DISABLE);
    let runs = Arc::new(Mutex::new(0));
    let counted = runs.clone();
    script(&world, move |vcpu| {
        *counted.lock() += 1;
        violates(vcpu, 0x1238);
    });
    for n in 1..=7 {
        let out = enter(&world.module, 0, vp);
        assert_eq!(out[Gpr::Rax], 48);
        assert_eq!(
            out[Gpr::Rcx],
            1,
            "bits 12:7 of the qualification are not shown"
        );
        assert_eq!(out[Gpr::R8], 0x1000);
        assert_eq!(*runs.lock(), n);
    }
    for _ in 0..3 {
        let out = enter(&world.module, 0, vp);
        assert_eq!((out[Gpr::Rax], out[Gpr::Rcx], out[Gpr::Rdx]), (48, 2, 0));
        assert_eq!(out[Gpr::R8], 0x1000);
        assert_eq!(out[Gpr::Rbp], 0xC0DE_0005, "1.5.01 leaves RBP here");
        assert_eq!((out[Gpr::Rbx], out[Gpr::R15]), (0, 0));
    }
    assert_eq!(*runs.lock(), 7, "the guest has not run again");
    world.aug_page(td, 0x1000, 0);
    let out = enter(&world.module, 0, vp);
    assert_eq!(
        (out[Gpr::Rax], out[Gpr::Rcx]),
        (48, 2),
        "a pending page is not enough"
    );
    assert_eq!(*runs.lock(), 7);
}

#[test]
fn a_vcpu_that_moves_on_is_not_stepped() {
    let (world, _, vp) = td_with_a_hole(SEPT_VE_DISABLE);
    script(&world, |vcpu| {
        vcpu.regs.rip += 1;
        violates(vcpu, 0x1238);
    });
    for _ in 0..20 {
        assert_eq!(enter(&world.module, 0, vp)[Gpr::Rcx], 1);
    }
}

/// vp-enter.md 7.3: a pending page is the guest's own matter, unless its TD asked otherwise.
#[test]
fn a_pending_page_is_a_virtualization_exception_or_an_exit() {
    for (attributes, rax) in [(0, 1), (SEPT_VE_DISABLE, 48)] {
        let (mut world, td, vp) = td_with_a_hole(attributes);
        world.aug_page(td, 0x1000, 0);
        let info = Arc::new(Mutex::new(None));
        let told = info.clone();
        let mut first = true;
        script(&world, move |vcpu| {
            if core::mem::take(&mut first) {
                violates(vcpu, 0x1238);
                vcpu.exit.guest_linear_address = 0x7000_1238;
            } else {
                *told.lock() = Some((vcpu.entry_event.info & 0xFF, vcpu.ve_info));
                interrupted(vcpu);
            }
        });
        let out = enter(&world.module, 0, vp);
        assert_eq!(out[Gpr::Rax], rax);
        let info = info.lock();
        if rax == 48 {
            assert_eq!(
                out[Gpr::Rdx],
                6,
                "the extended qualification names the pending page"
            );
            assert_eq!(*info, None);
        } else {
            let (vector, ve) = (*info).expect("the guest runs again");
            assert_eq!((vector, ve.exit_reason, ve.valid), (20, 48, 0xFFFF_FFFF));
            assert_eq!(
                (
                    ve.guest_physical_address,
                    ve.guest_linear_address,
                    ve.exit_qualification
                ),
                (0x1238, 0x7000_1238, 0x181)
            );
        }
    }
}

/// guest-leaves.md, TDG.MEM.PAGE.ACCEPT: on a free entry the TD exits, and the TDCALL runs again.
#[test]
fn accepting_a_page_that_is_not_there_exits_at_the_tdcall_until_it_is() {
    let (mut world, td, vp) = td_with_a_hole(0);
    let seen = Arc::new(Mutex::new((0, Status::SUCCESS, 0)));
    let told = seen.clone();
    let mut accepted = false;
    script(&world, move |vcpu| {
        in_64_bit_mode(vcpu);
        let regs = &mut vcpu.regs;
        if accepted && regs.rip == 0x2004 {
            *told.lock() = (regs.rip, Status(regs.gpr[0]), regs.gpr[1]);
            return interrupted(vcpu);
        }
        accepted = true;
        regs.rip = 0x2000;
        regs.gpr[0] = 6;
        regs.gpr[1] = 0x1000;
        exits(vcpu, ExitReason::TDCALL);
        vcpu.exit.instruction_length = 4;
    });
    let out = enter(&world.module, 0, vp);
    assert_eq!(
        (out[Gpr::Rax], out[Gpr::Rdx] & 0xF, out[Gpr::R8]),
        (48, 1, 0x1000)
    );
    world.aug_page(td, 0x1000, 0);
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
    assert_eq!(*seen.lock(), (0x2004, Status::SUCCESS, 0x1000));
}

/// vp-enter.md 10.2 and 12: the debugger's exception bitmap.
#[test]
fn the_debugger_sees_an_exception_and_then_the_guest_does() {
    let mut world = World::ready(1);
    let (_, vp) = world.runnable_td_with(33, DEBUG, 0);
    // EXCEPTION_BITMAP of the TD's VMCS: #GP as well.
    let field = 0x4004;
    let write = [
        (Gpr::Rcx, vp),
        (Gpr::Rdx, field),
        (Gpr::R8, 1 << 13),
        (Gpr::R9, 1 << 13),
    ];
    world.ok(0, HostLeaf::VP_WR, &write);
    let seen = Arc::new(Mutex::new(0));
    let told = seen.clone();
    let mut first = true;
    script(&world, move |vcpu| {
        if core::mem::take(&mut first) {
            exits(vcpu, ExitReason::ENQCMD_PASID_TRANSLATION_FAILURE);
        } else {
            *told.lock() = vcpu.entry_event.info & 0xFFF;
            interrupted(vcpu);
        }
    });
    let out = enter(&world.module, 0, vp);
    assert_eq!((out[Gpr::Rax], out[Gpr::Rcx]), (0, 0));
    assert_eq!(out[Gpr::R9] & 0x8000_07FF, 0x8000_030D);
    assert_eq!(*seen.lock(), 0, "not delivered yet");
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
    assert_eq!(*seen.lock() & 0xFF, 13);
}

/// vp-enter.md 8.3: a virtual NMI waits for its window, and for the guest to have read its VE_INFO.
#[test]
fn a_virtual_nmi_is_delivered_at_its_window() {
    const NMI_WINDOW_EXITING: u32 = 1 << 22;
    let mut world = World::ready(1);
    let (_, vp) = world.runnable_td(33);
    let field = 0x2020_0000_0000_000B; // PEND_NMI
    let write = [
        (Gpr::Rcx, vp),
        (Gpr::Rdx, field),
        (Gpr::R8, 1),
        (Gpr::R9, !0),
    ];
    world.ok(0, HostLeaf::VP_WR, &write);
    let seen = Arc::new(Mutex::new(0));
    let told = seen.clone();
    let mut first = true;
    script(&world, move |vcpu| {
        if core::mem::take(&mut first) {
            assert_ne!(vcpu.controls.primary & NMI_WINDOW_EXITING, 0);
            exits(vcpu, ExitReason::NMI_WINDOW);
        } else {
            assert_eq!(vcpu.controls.primary & NMI_WINDOW_EXITING, 0);
            *told.lock() = vcpu.entry_event.info & !(1 << 31);
            interrupted(vcpu);
        }
    });
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
    assert_eq!(*seen.lock(), inject::NMI & !(1 << 31));
    let (status, pending) = read_vp(&world, vp, field);
    assert_eq!((status, pending), (Status::SUCCESS, 0));
}

/// vp-enter.md 10.1: guest state is its own on a production TD, and the debugger's on a DEBUG TD.
#[test]
fn the_vmm_reads_and_writes_the_registers_of_a_debug_td_only() {
    let rbx = 0x1020_0003_0000_0003;
    for attributes in [0, DEBUG] {
        let mut world = World::ready(1);
        let (_, vp) = world.runnable_td_with(33, attributes, 0);
        let seen = Arc::new(Mutex::new(0));
        let told = seen.clone();
        script(&world, move |vcpu| {
            *told.lock() = vcpu.regs.gpr[3];
            vcpu.regs.gpr[3] = 0x1111;
            interrupted(vcpu);
        });
        enter(&world.module, 0, vp);
        let write = [
            (Gpr::Rcx, vp),
            (Gpr::Rdx, rbx),
            (Gpr::R8, 0x2222),
            (Gpr::R9, !0),
        ];
        let written = world.call(0, HostLeaf::VP_WR, &write);
        let (status, value) = read_vp(&world, vp, rbx);
        enter(&world.module, 0, vp);
        if attributes == DEBUG {
            assert_eq!(
                (written, status, value),
                (Status::SUCCESS, Status::SUCCESS, 0x2222)
            );
            assert_eq!(*seen.lock(), 0x2222);
        } else {
            assert_eq!(status.code(), Status::METADATA_FIELD_NOT_READABLE);
            assert_eq!(written.code(), Status::METADATA_FIELD_NOT_WRITABLE);
            assert_eq!(*seen.lock(), 0x1111);
        }
    }
}

const MONITOR_TRAP_FLAG: u32 = 1 << 27;
const APIC_ON: u64 = 0xFEE0_0900;

/// A world that defends against single-stepping, and a vCPU in it.
fn defended(attributes: u64) -> (World, u64) {
    let mut world = World::ready(1);
    let (_, vp) = world.runnable_td_with(33, attributes, 0);
    world.module.single_step_defence = true;
    world.machine().set_msr(0, 0x1B, APIC_ON);
    (world, vp)
}

/// A guest of one-byte instructions that traps when it is asked to, with an interrupt at each of its entries.
fn stepped(world: &World) -> Arc<Mutex<Vec<u64>>> {
    let places = Arc::new(Mutex::new(Vec::new()));
    let told = places.clone();
    script(world, move |vcpu| {
        let first = told.lock().is_empty();
        told.lock().push(vcpu.regs.rip);
        if vcpu.controls.primary & MONITOR_TRAP_FLAG == 0 {
            return interrupted(vcpu);
        }
        let blocked = vcpu.regs.interruptibility & 2 != 0;
        assert!(first || blocked, "nothing comes between");
        vcpu.regs.interruptibility &= !2;
        vcpu.regs.rip += 1;
        exits(vcpu, ExitReason::MTF);
    });
    places
}

/// vp-enter.md 8.1.
#[test]
fn an_interrupt_near_the_entry_is_seen_some_instructions_later() {
    let (world, vp) = defended(0);
    let places = stepped(&world);
    let mut distances = Vec::new();
    for _ in 0..50 {
        places.lock().clear();
        let out = enter(&world.module, 0, vp);
        assert_eq!((out[Gpr::Rax], out[Gpr::R9]), (1, 0x8000_0031));
        assert_eq!(*world.machine().posted.lock(), [HostEvent::Interrupt(0x31)]);
        world.machine().posted.lock().clear();
        let places = places.lock();
        distances.push(places[places.len() - 1] - places[0]);
    }
    assert!(
        distances.iter().all(|distance| (1..=32).contains(distance)),
        "{distances:?}"
    );
    distances.sort_unstable();
    distances.dedup();
    assert!(distances.len() > 5, "{distances:?}");
}

#[test]
fn an_interrupt_far_from_the_entry_is_seen_where_it_is() {
    let (world, vp) = defended(0);
    script(&world, |vcpu| {
        vcpu.regs.rip += 33;
        interrupted(vcpu);
    });
    for _ in 0..5 {
        assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 1);
    }
    assert!(world.machine().posted.lock().is_empty());
}

#[test]
fn an_exit_of_the_guests_own_ends_the_stepping_and_keeps_the_interrupt() {
    let (world, vp) = defended(0);
    let mut run = 0;
    script(&world, move |vcpu| {
        run += 1;
        match run {
            1 => interrupted(vcpu),
            _ => {
                assert_ne!(vcpu.controls.primary & MONITOR_TRAP_FLAG, 0);
                exits(vcpu, ExitReason::TASK_SWITCH);
            }
        }
    });
    assert_eq!(enter(&world.module, 0, vp)[Gpr::Rax], 9);
    assert_eq!(*world.machine().posted.lock(), [HostEvent::Interrupt(0x31)]);
}

#[test]
fn stepping_needs_an_apic() {
    let (world, vp) = defended(0);
    world.machine().set_msr(0, 0x1B, 0);
    stepped(&world);
    let out = enter(&world.module, 0, vp);
    let status = Status::NON_RECOVERABLE_TD_WRONG_APIC_MODE;
    assert_eq!(Status(out[Gpr::Rax]), status.with_details(1));
    refused(&world, 0, vp, Status::TD_FATAL);
}

/// vp-enter.md 8.1, as recorded: MTF is no debugger's tool.
#[test]
fn the_trap_flag_of_a_debugger_is_swallowed_near_the_entry() {
    let (world, vp) = defended(DEBUG);
    let (primary, mtf) = (0x4002, MONITOR_TRAP_FLAG as u64);
    let write = [
        (Gpr::Rcx, vp),
        (Gpr::Rdx, primary),
        (Gpr::R8, mtf),
        (Gpr::R9, mtf),
    ];
    world.ok(0, HostLeaf::VP_WR, &write);
    stepped(&world);
    let out = enter(&world.module, 0, vp);
    assert_eq!(out[Gpr::Rax], 1, "no MTF exit, and MTF is off in the end");
    assert!(world.machine().posted.lock().is_empty());
}
