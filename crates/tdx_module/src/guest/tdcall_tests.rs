//! Guest leaves as a guest calls them (guest-leaves.md).

use crate::testing::{TestTd, World};
use crate::{LpId, Machine};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use coco_regs::{GprFile, XmmFile};
use sha2::{Digest, Sha384};
use spin::Mutex;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::vmx::{Seg, Vcpu};
use x86_arch::{ExitReason, Gpr, Hkid, Hpa, KeyedHpa, VmExit};

const VP_INFO: u64 = 1;
const MR_RTMR_EXTEND: u64 = 2;
const VP_VEINFO_GET: u64 = 3;
const MR_REPORT: u64 = 4;
const VP_CPUIDVE_SET: u64 = 5;
const MEM_PAGE_ACCEPT: u64 = 6;
const VM_RD: u64 = 7;
const VM_WR: u64 = 8;
const MR_VERIFYREPORT: u64 = 22;
const MEM_PAGE_ATTR_RD: u64 = 23;
const MEM_PAGE_ATTR_WR: u64 = 24;

const SHARED: u64 = 1 << 47;
const NO_REGS: [(Gpr, u64); 0] = [];

/// A TD with one page of private memory, at GPA 0, and a guest that makes TDCALLs.
struct Caller {
    world: World,
    td: TestTd,
    vp: u64,
    /// Where the guest's page is.
    page: u64,
}

/// What a TDCALL came to.
#[derive(Debug)]
enum Answer {
    Done(Status, GprFile),
    /// A TD exit: what the VMM sees.
    Exit(GprFile),
}

impl Answer {
    #[track_caller]
    fn done(self) -> (Status, GprFile) {
        match self {
            Answer::Done(status, regs) => (status, regs),
            Answer::Exit(regs) => panic!("a TD exit: {:x?}", regs.0),
        }
    }
    #[track_caller]
    fn exit(self) -> GprFile {
        match self {
            Answer::Exit(regs) => regs,
            Answer::Done(status, _) => panic!("no TD exit but {status:?}"),
        }
    }
}

impl Caller {
    fn new() -> Caller {
        let mut world = World::ready(1);
        let td = world.td(33);
        world.sept_path(td, 0, 0);
        let page = world.add_page(td, 0);
        let vp = world.vcpu(td, 0);
        world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
        Caller {
            world,
            td,
            vp,
            page,
        }
    }

    fn call(&self, leaf: u64, regs: &[(Gpr, u64)]) -> Answer {
        let after = Arc::new(Mutex::new(None));
        let told = after.clone();
        let regs = Vec::from(regs);
        let mut called = false;
        *self.world.machine().guest.lock() = Some(Box::new(move |vcpu: &mut Vcpu, _| {
            if called {
                *told.lock() = Some((vcpu.regs.gpr, vcpu.regs.rip));
                vcpu.exit = VmExit::new(ExitReason::INTERRUPT);
                vcpu.exit.interruption_info = 0x8000_0031;
                return;
            }
            called = true;
            vcpu.regs.msr.efer = 0xD01;
            vcpu.regs.segments[Seg::Cs as usize].access = 0xA09B;
            vcpu.regs.rip = 0x1000;
            vcpu.regs.gpr = core::array::from_fn(|n| 0x7777_0000 | n as u64);
            vcpu.regs.gpr[0] = leaf;
            for (reg, value) in &regs {
                vcpu.regs.gpr[reg.index()] = *value;
            }
            vcpu.exit = VmExit::new(ExitReason::TDCALL);
            vcpu.exit.instruction_length = 4;
        }));
        let mut gprs = GprFile::default();
        gprs[Gpr::Rcx] = self.vp;
        let module = &self.world.module;
        let entered = module.seamcall(LpId(0), &mut gprs, &mut XmmFile::default());
        entered.unwrap_or_else(|broken| panic!("{broken}"));
        match after.lock().take() {
            Some((gpr, rip)) => {
                assert_eq!(rip, 0x1004, "RIP is past the TDCALL");
                Answer::Done(Status(gpr[0]), GprFile(gpr))
            }
            None => Answer::Exit(gprs),
        }
    }
    /// An instruction that exits: EAX, EBX, ECX and EDX after it, or `None` if it was a #VE.
    fn executes(&self, reason: ExitReason, regs: &[(Gpr, u64)]) -> Option<[u32; 4]> {
        /// As the flat machine leaves it: delivered, no longer valid.
        const VE: u32 = 0x314;
        let after = Arc::new(Mutex::new(None));
        let told = after.clone();
        let regs = Vec::from(regs);
        let mut called = false;
        *self.world.machine().guest.lock() = Some(Box::new(move |vcpu: &mut Vcpu, _| {
            if called {
                let ve = vcpu.entry_event.info == VE;
                let shown = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx];
                let shown = shown.map(|reg| vcpu.regs.gpr[reg.index()] as u32);
                *told.lock() = Some((!ve).then_some(shown));
                vcpu.exit = VmExit::new(ExitReason::INTERRUPT);
                vcpu.exit.interruption_info = 0x8000_0031;
                return;
            }
            called = true;
            vcpu.ve_info.valid = 0;
            vcpu.entry_event.info = 0;
            for (reg, value) in &regs {
                vcpu.regs.gpr[reg.index()] = *value;
            }
            vcpu.exit = VmExit::new(reason);
            vcpu.exit.instruction_length = 2;
        }));
        self.world
            .call(0, HostLeaf::VP_ENTER, &[(Gpr::Rcx, self.vp)]);
        after.lock().take().expect("the guest goes on")
    }
    #[track_caller]
    fn ok(&self, leaf: u64, regs: &[(Gpr, u64)]) -> GprFile {
        let (status, out) = self.call(leaf, regs).done();
        assert_eq!(status, Status::SUCCESS);
        out
    }
    #[track_caller]
    fn refused(&self, leaf: u64, regs: &[(Gpr, u64)], expected: Status) {
        assert_eq!(self.call(leaf, regs).done().0, expected);
    }

    fn poke(&self, offset: u64, bytes: &[u8]) {
        self.world.machine().poke(self.page + offset, bytes);
    }
    fn peek(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; size];
        let at = KeyedHpa::new(Hpa::new(self.page + offset), Hkid(0));
        assert_eq!(self.world.machine().read(at, &mut bytes), Ok(()));
        bytes
    }
}

const fn invalid(operand: OperandId) -> Status {
    Status::OPERAND_INVALID.with_operand(operand)
}

/// guest-leaves.md 1.2.
#[test]
fn leaves_and_versions_that_do_not_exist_are_refused() {
    let guest = Caller::new();
    let refused = invalid(OperandId::RAX);
    for rax in [
        13,
        28,
        0xFFFF,
        1 << 16 | VP_INFO,
        2 << 16 | VM_RD,
        1 << 24,
        1 << 63,
    ] {
        guest.refused(rax, &NO_REGS, refused);
    }
}

/// guest-leaves.md 4 and 5.
#[test]
fn a_vcpu_learns_about_itself() {
    let guest = Caller::new();
    let out = guest.ok(VP_INFO, &NO_REGS);
    assert_eq!((out[Gpr::Rcx], out[Gpr::Rdx]), (48, 0));
    assert_eq!((out[Gpr::R8], out[Gpr::R9]), (4 << 32 | 1, 0));
    assert_eq!((out[Gpr::R10], out[Gpr::R11]), (1, 0));
    let (status, out) = guest.call(VP_VEINFO_GET, &NO_REGS).done();
    assert_eq!(status, Status::NO_VALID_VE_INFO);
    for reg in [Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10] {
        assert_eq!(out[reg], 0);
    }
    assert_eq!(out[Gpr::R11], 0x7777_000B);
    guest.ok(VP_CPUIDVE_SET, &[(Gpr::Rcx, 3)]);
    guest.refused(VP_CPUIDVE_SET, &[(Gpr::Rcx, 4)], invalid(OperandId::RCX));
}

/// guest-leaves.md 7.1.
#[test]
fn an_rtmr_extends_as_sha384_says() {
    let guest = Caller::new();
    let data: [u8; 48] = core::array::from_fn(|n| n as u8);
    guest.poke(0x40, &data);
    for _ in 0..2 {
        guest.ok(MR_RTMR_EXTEND, &[(Gpr::Rcx, 0x40), (Gpr::Rdx, 2)]);
    }
    let once = Sha384::new().chain_update([0; 48]).chain_update(data);
    let twice = Sha384::new()
        .chain_update(once.finalize())
        .chain_update(data)
        .finalize();
    guest.ok(
        MR_REPORT,
        &[(Gpr::Rcx, 0x400), (Gpr::Rdx, 0x80), (Gpr::R8, 0)],
    );
    let report = guest.peek(0x400, 1024);
    assert_eq!(report[720 + 96..720 + 144], twice[..]);
    assert_eq!(report[720..720 + 96], [0; 96]);

    let extend = |rcx, rdx, why| {
        guest.refused(MR_RTMR_EXTEND, &[(Gpr::Rcx, rcx), (Gpr::Rdx, rdx)], why);
    };
    extend(0x48, 0, invalid(OperandId::RCX));
    extend(SHARED, 0, invalid(OperandId::RCX));
    extend(0x40, 4, invalid(OperandId::RDX));
    let out = guest
        .call(MR_RTMR_EXTEND, &[(Gpr::Rcx, 0x1000), (Gpr::Rdx, 4)])
        .exit();
    assert_eq!((out[Gpr::Rax], out[Gpr::R8]), (48, 0x1000));
}

/// guest-leaves.md 7.2 and 7.3.
#[test]
fn a_report_says_what_the_td_is_and_is_verified_unless_it_was_changed() {
    let guest = Caller::new();
    guest.poke(0x80, &[0xAB; 64]);
    guest.ok(
        MR_REPORT,
        &[(Gpr::Rcx, 0x400), (Gpr::Rdx, 0x80), (Gpr::R8, 0)],
    );
    let report = guest.peek(0x400, 1024);
    assert_eq!(report[..4], [0x81, 0, 0, 0]);
    assert_eq!(report[128..192], [0xAB; 64]);
    assert_eq!(report[80..128], Sha384::digest(&report[512..])[..]);
    assert_eq!(report[32..80], Sha384::digest(&report[256..495])[..]);
    assert_eq!(report[520], 7, "XFAM");
    guest.ok(MR_VERIFYREPORT, &[(Gpr::Rcx, 0x400)]);

    guest.poke(0x400 + 128, &[0xAC]);
    let verify = |why| guest.refused(MR_VERIFYREPORT, &[(Gpr::Rcx, 0x400)], why);
    verify(Status::INVALID_REPORTMACSTRUCT);
    guest.refused(
        MR_VERIFYREPORT,
        &[(Gpr::Rcx, 0x440)],
        invalid(OperandId::RCX),
    );
    let report = |rcx, rdx, r8, why| {
        let regs = [(Gpr::Rcx, rcx), (Gpr::Rdx, rdx), (Gpr::R8, r8)];
        guest.refused(MR_REPORT, &regs, invalid(why));
    };
    report(0x200, 0x81, 1, OperandId::RCX);
    report(0x400, 0x81, 1, OperandId::RDX);
    report(0x400, 0x80, 1, OperandId::R8);
}

/// guest-leaves.md 8.1: the order of the refusals.
#[test]
fn a_page_is_accepted_once_and_comes_zeroed() {
    let mut guest = Caller::new();
    let accept = |gpa| [(Gpr::Rcx, gpa)];
    for bad in [2, 8, 1 << 52, 1 << 63, 0x1000 | 1, SHARED, 1 << 48] {
        guest.refused(MEM_PAGE_ACCEPT, &accept(bad), invalid(OperandId::RCX));
    }
    guest.refused(MEM_PAGE_ACCEPT, &accept(0), Status::PAGE_ALREADY_ACCEPTED);
    guest.refused(
        MEM_PAGE_ACCEPT,
        &accept(1),
        Status::PAGE_SIZE_MISMATCH.with_details(1),
    );
    let hpa = guest.world.aug_page(guest.td, 0x1000, 0);
    guest.world.machine().poke(hpa, &[0x55; 4096]);
    guest.ok(MEM_PAGE_ACCEPT, &accept(0x1000));
    guest.page = hpa;
    assert_eq!(guest.peek(0, 4096), [0; 4096]);
    guest.refused(
        MEM_PAGE_ACCEPT,
        &accept(0x1000),
        Status::PAGE_ALREADY_ACCEPTED,
    );
    let out = guest.call(MEM_PAGE_ACCEPT, &accept(0x2000)).exit();
    assert_eq!((out[Gpr::Rax], out[Gpr::Rcx]), (48, 2));
    assert_eq!((out[Gpr::Rdx], out[Gpr::R8]), (1, 0x2000));
}

/// guest-leaves.md 8.2 and 8.3.
#[test]
fn the_attributes_of_a_page_say_its_size_and_whether_it_is_pending() {
    const PENDING: u64 = 1 << 62;
    let mut guest = Caller::new();
    let out = guest.ok(MEM_PAGE_ATTR_RD, &[(Gpr::Rcx, 0x123)]);
    assert_eq!((out[Gpr::Rcx], out[Gpr::Rdx]), (0, 0));
    guest.world.aug_page(guest.td, 0x1000, 0);
    let read = [(Gpr::Rcx, 0x1FFF)];
    let block = [(Gpr::Rcx, 0x1000), (Gpr::Rdx, guest.td.tdr)];
    assert_eq!(
        guest.ok(MEM_PAGE_ATTR_RD, &read)[Gpr::Rcx],
        0x1000 | PENDING
    );
    guest.world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &block);
    assert_eq!(
        guest.ok(MEM_PAGE_ATTR_RD, &read)[Gpr::Rcx],
        0x1000 | PENDING
    );

    let block = [(Gpr::Rcx, 0), (Gpr::Rdx, guest.td.tdr)];
    guest.world.ok(0, HostLeaf::MEM_RANGE_BLOCK, &block);
    let out = guest.call(MEM_PAGE_ATTR_RD, &[(Gpr::Rcx, 0x123)]).exit();
    assert_eq!((out[Gpr::Rax], out[Gpr::Rcx]), (48, 0));
    assert_eq!((out[Gpr::Rdx], out[Gpr::R8]), (0, 0));

    // Without L2 VMs there is nothing to write.
    let write = |rdx, r8, why| {
        let regs = [(Gpr::Rcx, 0x1000), (Gpr::Rdx, rdx), (Gpr::R8, r8)];
        let (status, out) = guest.call(MEM_PAGE_ATTR_WR, &regs).done();
        assert_eq!(status, invalid(why));
        assert_eq!((out[Gpr::Rcx], out[Gpr::Rdx]), (0, 0));
    };
    write(1, 1, OperandId::RDX);
    write(0, 1, OperandId::R8);
    write(0x8001 << 16, 0, OperandId::RDX);
}

/// guest-leaves.md 9.2: PENDING_VE_DISABLE is the guest's only where FLEXIBLE_PENDING_VE says so.
#[test]
fn td_controls_change_only_where_the_td_may() {
    const TD_CTLS: u64 = 0x1110_0003_0000_0017;
    let guest = Caller::new();
    let read = [(Gpr::Rcx, 0), (Gpr::Rdx, TD_CTLS)];
    assert_eq!(guest.ok(VM_RD, &read)[Gpr::R8], 0);
    let write = |value| {
        [
            (Gpr::Rcx, 0),
            (Gpr::Rdx, TD_CTLS),
            (Gpr::R8, value),
            (Gpr::R9, 1),
        ]
    };
    guest.ok(VM_WR, &write(0));
    let (status, _) = guest.call(VM_WR, &write(1)).done();
    assert_eq!(status.code(), Status::METADATA_FIELD_VALUE_NOT_VALID);
    let regs = [(Gpr::Rcx, 1), (Gpr::Rdx, TD_CTLS)];
    guest.refused(VM_RD, &regs, invalid(OperandId::RCX));
}

/// Releases after 1.5.01: topology is a #VE until the guest asks, and the host's afterwards.
#[test]
fn topology_is_shown_to_a_guest_that_asks_where_each_vcpu_has_its_id() {
    const TD_CTLS: u64 = 0x1110_0003_0000_0017;
    const CONFIGURED: u64 = 0x9100_0000_0000_0019;
    const X2APIC_APICID: u64 = 0x802;
    for (version, configured) in [(0, 0), (1, 1)] {
        let mut world = World::ready(1);
        world.module.profile = crate::Profile::V1_5_LINUX;
        let td = world.td(33);
        world.sept_path(td, 0, 0);
        let page = world.add_page(td, 0);
        let vp = world.vcpu_before_init(td);
        let regs = [(Gpr::Rcx, vp), (Gpr::Rdx, 0), (Gpr::R8, 0x1_2345)];
        let (status, _) = world.call_version(0, HostLeaf::VP_INIT, version, &regs);
        assert_eq!(status, Status::SUCCESS);
        world.ok(0, HostLeaf::MR_FINALIZE, &[(Gpr::Rcx, td.tdr)]);
        let guest = Caller {
            world,
            td,
            vp,
            page,
        };
        let read = [(Gpr::Rcx, 0), (Gpr::Rdx, CONFIGURED)];
        assert_eq!(guest.ok(VM_RD, &read)[Gpr::R8], configured);
        let cpuid = |leaf, subleaf| {
            guest.executes(
                ExitReason::CPUID_INSTRUCTION,
                &[(Gpr::Rax, leaf), (Gpr::Rcx, subleaf)],
            )
        };
        let ve = [cpuid(0xB, 0), cpuid(0x1F, 0)];
        assert_eq!(ve, [None, None]);
        let enable = [
            (Gpr::Rcx, 0),
            (Gpr::Rdx, TD_CTLS),
            (Gpr::R8, 2),
            (Gpr::R9, 2),
        ];
        let (status, _) = guest.call(VM_WR, &enable).done();
        if configured == 0 {
            assert_eq!(status.code(), Status::METADATA_FIELD_VALUE_NOT_VALID);
            continue;
        }
        assert_eq!(status, Status::SUCCESS);
        assert_eq!(cpuid(0xB, 1), Some([1, 2, 0x201, 0x1_2345]));
        assert_eq!(cpuid(0x1F, 0), Some([0, 1, 0x100, 0x1_2345]));
        assert_eq!(cpuid(0xB, 3), None);
        assert_eq!(cpuid(1, 0).map(|[_, ebx, ..]| ebx >> 24), Some(0x45));
        let rdmsr = [(Gpr::Rcx, X2APIC_APICID)];
        let msr = guest.executes(ExitReason::MSR_READ, &rdmsr);
        assert_eq!(msr.map(|[eax, _, _, edx]| (eax, edx)), Some((0x1_2345, 0)));
    }
}
