//! What crosses the boundary of a TD, register by register (vp-enter.md 4, 6.1 and 12).

use crate::testing::World;
use crate::{LpId, Module, testing::FlatMachine};
use alloc::boxed::Box;
use alloc::sync::Arc;
use coco_regs::{GprFile, XmmFile};
use proptest::prelude::*;
use spin::Mutex;
use tdx_abi::{OperandId, Status};
use x86_arch::vmx::{Seg, Vcpu};
use x86_arch::{ExitReason, Gpr, VmExit};

const NO_RBP_MOD: u64 = 1 << 2;
/// Registers that TDG.VP.VMCALL may never show.
const NEVER: u64 = 1 << 0 | 1 << 1 | 1 << 4;

/// The vCPU as it was when it exited, and as it was when it ran again.
#[derive(Default, Clone)]
struct Seen {
    before: Option<Vcpu>,
    after: Option<Vcpu>,
}

fn guest_gpr(n: usize) -> u64 {
    0x6E57_0000_0000_0000 | n as u64
}
fn guest_xmm(n: usize) -> u128 {
    0xBB00_0000_0000_0000_AA00 | n as u128
}
fn host_gpr(n: usize) -> u64 {
    0xC0DE_0000_0000_0000 | n as u64
}
fn host_xmm(n: usize) -> u128 {
    0x1157_0000_0000_0000_CC00 | n as u128
}

fn load_guest(vcpu: &mut Vcpu) {
    for n in 0..16 {
        vcpu.regs.gpr[n] = guest_gpr(n);
        vcpu.regs.fpu.ymm[n] = [guest_xmm(n), guest_xmm(n) << 1];
    }
    vcpu.regs.msr.efer = 0xD01;
    vcpu.regs.segments[Seg::Cs as usize].access = 0xA09B;
}

fn tdcall(vcpu: &mut Vcpu, leaf: u64, rcx: u64) {
    vcpu.regs.gpr[Gpr::Rax.index()] = leaf;
    vcpu.regs.gpr[Gpr::Rcx.index()] = rcx;
    vcpu.exit = VmExit::new(ExitReason::TDCALL);
    vcpu.exit.instruction_length = 4;
}

fn host_registers(tdvpr: u64) -> (GprFile, XmmFile) {
    let mut gprs = GprFile(core::array::from_fn(host_gpr));
    gprs[Gpr::Rax] = 0;
    gprs[Gpr::Rcx] = tdvpr;
    (gprs, XmmFile(core::array::from_fn(host_xmm)))
}

fn enter(module: &Module<FlatMachine>, tdvpr: u64) -> (GprFile, XmmFile) {
    let (mut gprs, mut xmms) = host_registers(tdvpr);
    let entered = module.seamcall(LpId(0), &mut gprs, &mut xmms);
    entered.unwrap_or_else(|broken| panic!("{broken}"));
    (gprs, xmms)
}

/// A guest that makes one TDVMCALL with this mask and is interrupted when it runs again.
fn script(world: &World, mask: u64) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let told = seen.clone();
    let mut runs = 0;
    *world.machine().guest.lock() = Some(Box::new(move |vcpu, _| {
        runs += 1;
        let mut seen = told.lock();
        if runs == 1 {
            load_guest(vcpu);
            tdcall(vcpu, 0, mask);
            seen.before = Some(vcpu.clone());
        } else {
            seen.after = Some(vcpu.clone());
            vcpu.exit = VmExit::new(ExitReason::INTERRUPT);
            vcpu.exit.interruption_info = 0x8000_0031;
        }
    }));
    seen
}

/// A TDVMCALL with a legal mask, both ways.
fn check_legal(world: &World, tdvpr: u64, mask: u64, no_rbp_mod: bool) {
    let seen = script(world, mask);
    let (gprs, xmms) = enter(&world.module, tdvpr);
    assert_eq!(gprs[Gpr::Rax], 77, "mask {mask:#x}");
    assert_eq!(gprs[Gpr::Rcx], mask);
    let (host, _) = host_registers(tdvpr);
    for reg in Gpr::ALL.into_iter().skip(2) {
        let untouched = reg == Gpr::Rsp || (reg == Gpr::Rbp && no_rbp_mod);
        let expected = match (untouched, mask >> reg.index() & 1) {
            (true, _) => host[reg],
            (false, 0) => 0,
            (false, _) => guest_gpr(reg.index()),
        };
        assert_eq!(gprs[reg], expected, "{reg} to the VMM, mask {mask:#x}");
    }
    for n in 0..16 {
        let shown = mask >> (16 + n) & 1 != 0;
        let expected = if shown { guest_xmm(n) } else { 0 };
        assert_eq!(xmms.0[n], expected, "XMM{n} to the VMM, mask {mask:#x}");
    }

    let (gprs, _) = enter(&world.module, tdvpr);
    assert_eq!(gprs[Gpr::Rax], 1, "the guest runs until its interrupt");
    let seen = seen.lock();
    let (before, after) = (seen.before.as_ref().unwrap(), seen.after.as_ref().unwrap());
    assert_eq!(after.regs.gpr[0], 0);
    assert_eq!(after.regs.gpr[1], mask);
    assert_eq!(after.regs.rip, before.regs.rip.wrapping_add(4));
    for n in 2..16 {
        let given = mask >> n & 1 != 0;
        let expected = if given { host_gpr(n) } else { guest_gpr(n) };
        assert_eq!(
            after.regs.gpr[n], expected,
            "register {n} to the guest, mask {mask:#x}"
        );
    }
    for n in 0..16 {
        let given = mask >> (16 + n) & 1 != 0;
        let low = if given { host_xmm(n) } else { guest_xmm(n) };
        assert_eq!(
            after.regs.fpu.ymm[n],
            [low, guest_xmm(n) << 1],
            "YMM{n}, mask {mask:#x}"
        );
    }
}

/// A TDVMCALL with an illegal mask: the guest is told, and nothing leaves the TD for it.
fn check_illegal(world: &World, tdvpr: u64, mask: u64) {
    let seen = script(world, mask);
    let (gprs, _) = enter(&world.module, tdvpr);
    assert_eq!(
        gprs[Gpr::Rax],
        1,
        "only the interrupt leaves the TD, mask {mask:#x}"
    );
    let seen = seen.lock();
    let (before, after) = (seen.before.as_ref().unwrap(), seen.after.as_ref().unwrap());
    let status = Status::OPERAND_INVALID.with_operand(OperandId::RCX);
    assert_eq!(Status(after.regs.gpr[0]), status);
    assert_eq!(after.regs.gpr[1..], before.regs.gpr[1..]);
    assert_eq!(after.regs.fpu, before.regs.fpu);
    assert_eq!(after.regs.rip, before.regs.rip.wrapping_add(4));
}

fn td(no_rbp_mod: bool) -> (World, u64) {
    let mut world = World::ready(1);
    let flags = if no_rbp_mod { NO_RBP_MOD } else { 0 };
    let (_, tdvpr) = world.runnable_td_with(33, 0, flags);
    (world, tdvpr)
}

#[test]
fn every_legal_choice_of_general_registers_crosses_as_chosen() {
    for no_rbp_mod in [false, true] {
        let (world, tdvpr) = td(no_rbp_mod);
        let refused = NEVER | if no_rbp_mod { 1 << 5 } else { 0 };
        // XMM registers change with the mask, so that their choice varies too.
        for gprs in (0..1u64 << 16).filter(|mask| mask & refused == 0) {
            let xmms = gprs.wrapping_mul(0x9E37_79B9) >> 8 & 0xFFFF;
            check_legal(&world, tdvpr, gprs | xmms << 16, no_rbp_mod);
        }
    }
}

#[test]
fn every_single_register_crosses_alone() {
    let (world, tdvpr) = td(false);
    for bit in (0..32).filter(|bit| NEVER >> bit & 1 == 0) {
        check_legal(&world, tdvpr, 1 << bit, false);
    }
    check_legal(&world, tdvpr, 0xFFFF_FFFF & !NEVER, false);
    check_legal(&world, tdvpr, 0, false);
}

#[test]
fn rbp_cannot_be_chosen_where_the_td_promised_to_leave_it() {
    let (world, tdvpr) = td(true);
    check_illegal(&world, tdvpr, 1 << 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_mask_is_either_honoured_or_refused(mask in any::<u64>(), high in any::<bool>(), flag in any::<bool>()) {
        let (world, tdvpr) = td(flag);
        let mask = if high { mask } else { mask & 0xFFFF_FFFF };
        let refused = NEVER | !0 << 32 | if flag { 1 << 5 } else { 0 };
        if mask & refused != 0 {
            check_illegal(&world, tdvpr, mask);
        }
        check_legal(&world, tdvpr, mask & !refused, flag);
    }
}

/// vp-enter.md 6.1, kind D, and 6.2.
#[test]
fn an_interrupt_shows_nothing_of_the_guest() {
    for flags in [0, NO_RBP_MOD] {
        let mut world = World::ready(1);
        let (_, tdvpr) = world.runnable_td_with(33, 0, flags);
        *world.machine().guest.lock() = Some(Box::new(|vcpu, _| {
            load_guest(vcpu);
            vcpu.exit = VmExit::new(ExitReason::INTERRUPT);
            vcpu.exit.interruption_info = 0x8000_00EF;
            vcpu.exit.qualification = 7 << 32 | 5;
        }));
        let (gprs, xmms) = enter(&world.module, tdvpr);
        let mut expected = GprFile::default();
        expected[Gpr::Rax] = 1;
        expected[Gpr::Rcx] = 4 << 32 | 5; // bits 33:32 are the VM's index
        expected[Gpr::R9] = 0x8000_00EF;
        expected[Gpr::Rsp] = host_gpr(4);
        // 1.5.01 clears RBP even where the TD asked it not to.
        assert_eq!(gprs, expected);
        assert_eq!(xmms, XmmFile::default());
    }
}
