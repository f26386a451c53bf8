//! TDH.VP.ENTER: runs a vCPU until it leaves the TD (spec: vp-enter.md).

use super::Row;
use crate::bug::Bug;
use crate::call::{Call, Commit, Done, LeafResult};
use crate::lock_order::Lock;
use crate::guest::{AsyncExit, Guest, TdExit, extended, inject, stepping};
use crate::machine::Machine;
use crate::msr::{IA32_DEBUGCTL, IA32_MISC_ENABLE, IA32_TSC_ADJUST};
use crate::pamt::Want;
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use crate::state::{LastTdExit, OpStates, VcpuState};
use crate::td::{Td, config_flags::NO_RBP_MOD};
use crate::vp::VpData;
use coco_regs::{GprFile, XmmFile};
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::{ExitReason, Gpa, Gpr, VmExit};

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0]),
    inputs: &[Gpr::Rcx],
    outputs: &[
        Gpr::Rcx,
        Gpr::Rdx,
        Gpr::Rbx,
        Gpr::Rbp,
        Gpr::Rsi,
        Gpr::Rdi,
        Gpr::R8,
        Gpr::R9,
        Gpr::R10,
        Gpr::R11,
        Gpr::R12,
        Gpr::R13,
        Gpr::R14,
        Gpr::R15,
    ],
    ..Row::new(HostLeaf::VP_ENTER)
};

/// RCX of the call.
struct Operand {
    tdvpr: u64,
    recoverability_hint: bool,
    resume_l1: bool,
}

const LIMIT_CPUID_MAXVAL: u64 = 1 << 22;
const MONITOR_ENABLED: u64 = 1 << 18;
const UNCORE_PMI: u64 = 1 << 13;
const HINT: u64 = 1 << 60;
/// NOTIFY_ENABLES: #VE after a fault that repeated.
const NOTIFY: u64 = 1;
/// XSTATE_BV word of XBUFF, its SSE bit, and where XMM0 is.
const XSTATE_BV: usize = 64;
const SSE: u64 = 1 << 1;
const XMM0: usize = 160;

impl Operand {
    fn parse(raw: u64) -> Option<Operand> {
        (raw & 0xFFC0_0000_0000_0FFF == 0).then_some(Operand {
            tdvpr: raw & 0x000F_FFFF_FFFF_F000,
            recoverability_hint: raw >> 52 & 1 != 0,
            resume_l1: raw >> 53 & 1 != 0,
        })
    }
}

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let invalid = Refusal::Invalid(OperandId::RCX);
    let (machine, lp) = (&call.module.machine, call.lp);
    let misc_enable = machine.read_msr(lp, IA32_MISC_ENABLE);
    if misc_enable & LIMIT_CPUID_MAXVAL != 0 {
        return Err(Status::LIMIT_CPUID_MAXVAL_SET.into());
    }
    let operand = Operand::parse(call.get(Gpr::Rcx)).ok_or(invalid)?;
    let vp = call.tdvpr_at(operand.tdvpr, OperandId::RCX, Want::Shared)?;
    let td = call.tdr_of(vp.owner())?;
    let op_state = call.td_state(&td, &ROW)?;
    if vp.pages.len() < td.config.tdvps_pages() {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    let new = call.associate(&td, &vp, &[VcpuState::Ready])?;
    let mut data = vp.data().ok_or(Broken("two processors hold one vCPU"))?;
    data.extra.entered_here &= !new;
    if operand.recoverability_hint && data.last_td_exit != LastTdExit::AsyncTrap {
        return Err(invalid.into());
    }
    if operand.resume_l1 && data.curr_vm == 0 {
        return Err(invalid.into());
    }
    let sys = call.module.sys()?;
    if machine.read_msr(lp, IA32_TSC_ADJUST) != sys.msrs.get(IA32_TSC_ADJUST) {
        return Err(Status::INCONSISTENT_MSR
            .with_details(IA32_TSC_ADJUST)
            .into());
    }
    if (machine.tsc(lp).wrapping_sub(data.last_exit_tsc) as i64) < 0 {
        return Err(Status::TSC_ROLLBACK.into());
    }
    if td.config.cpuid.monitor && misc_enable & MONITOR_ENABLED == 0 {
        return Err(Status::INCORRECT_MSR_VALUE
            .with_details(IA32_MISC_ENABLE)
            .into());
    }
    let epoch = enter_epoch(call, &td, &mut data, |vpids| {
        if !new && !call.module.has(Bug::KeepsTranslations) {
            machine.invalidate_translations(lp, vpids);
        }
    })?;
    let mut local = call
        .lp_state
        .local
        .try_lock()
        .ok_or(Broken("a processor calls twice at once"))?;
    local.stepping.guest_rip_on_tdentry = data.vcpu.regs.rip;

    // The zero-step filter takes the tree only if there is something to look up.
    let mut tree = None;
    if !data.epf_gpas.is_empty() {
        match call.hold(Lock::SeptTree, td.sept.lock.exclusive()).busy(OperandId::SEPT_TREE) {
            Ok(guard) => tree = Some(guard),
            Err(refusal) => {
                td.epoch.leave(&call.sticky(), epoch);
                return Err(refusal.into());
            }
        }
    }
    let fault = tree
        .as_ref()
        .and_then(|_| stepping::certain_fault(&td, &data));
    if let Some(gpa) = fault {
        td.epoch.leave(&call.sticky(), epoch);
        data.last_td_exit = LastTdExit::AsyncFault;
        let keeps_rbp = !call.module.profile.keeps_rbp || td.config.config_flags & NO_RBP_MOD != 0;
        return Ok(emulated_ept_violation(
            call.commit(),
            call.gprs,
            call.xmms,
            gpa,
            keeps_rbp,
        ));
    }
    if tree.is_some() && td.notify_enables.load(Ordering::Acquire) & NOTIFY != 0 {
        notify(&td, &mut data);
    }

    let commit = call.commit();
    drop(op_state);
    if local.last_tdvpr != Some(vp.tdvpr) {
        machine.invalidate_translations(lp, &td.vpids());
        local.last_tdvpr = Some(vp.tdvpr);
    }
    take_answer(&mut data, call.gprs, call.xmms, operand.recoverability_hint);
    vp.set_state(&commit, VcpuState::Active);
    let host_debugctl = machine.read_msr(lp, IA32_DEBUGCTL);
    let debugctl = &mut data.vcpu.regs.msr.debugctl;
    *debugctl = *debugctl & !UNCORE_PMI | host_debugctl & UNCORE_PMI;
    data.extra.entered = true;
    data.extra.entered_here = true;
    drop(tree);

    let mut guest = Guest {
        module: call.module,
        sys,
        lp,
        td: &td,
        vp: &vp,
        data: &mut data,
        local: &mut local,
        order: &call.lp_state.order,
        right: call.sticky(),
    };
    guest.arm_nmi_window();
    let exit = load_and_run(&mut guest);
    let exit = match exit {
        Ok(exit) => exit,
        Err(broken) => {
            let _ = commit.done();
            return Err(Stop::Broken(broken));
        }
    };
    let status = leave(&mut guest, &exit, epoch, call.gprs, call.xmms);
    Ok(commit.done_with(status))
}

/// TLB tracking (vp-enter.md 3.1): the epoch that the vCPU enters in.
fn enter_epoch<M: Machine>(
    call: &Call<'_, M>,
    td: &Td,
    data: &mut VpData,
    flush: impl FnOnce(&[u16]),
) -> Result<u64, Refusal> {
    let _lock = call
        .hold(Lock::Epoch, td.epoch.lock.shared())
        .busy(OperandId::TD_EPOCH)?;
    let epoch = td.epoch.enter(&crate::call::Sticky::new());
    if epoch != data.epoch {
        flush(&td.vpids());
        data.epoch = epoch;
    }
    Ok(epoch)
}

/// An entry that would only fault again does not happen (vp-enter.md 3.2).
///
/// 1.5.01 leaves RBP alone here, whatever the TD asked for.
fn emulated_ept_violation(
    commit: Commit,
    gprs: &mut GprFile,
    xmms: &mut XmmFile,
    gpa: u64,
    keeps_rbp: bool,
) -> Done {
    let (rsp, rbp) = (gprs[Gpr::Rsp], gprs[Gpr::Rbp]);
    *gprs = GprFile::default();
    *xmms = XmmFile::default();
    gprs[Gpr::Rsp] = rsp;
    gprs[Gpr::Rbp] = if keeps_rbp { rbp } else { 0 };
    gprs[Gpr::Rcx] = 1 << 1;
    gprs[Gpr::R8] = gpa & !0xFFF;
    commit.done_with(Status(ExitReason::EPT_VIOLATION.0 as u64))
}

/// The guest asked to be told of a fault that its VMM let repeat (vp-enter.md 8.2).
fn notify(td: &Td, data: &mut VpData) {
    let exit = data.vcpu.exit;
    let gpa = Gpa::new(exit.guest_physical_address);
    let private = exit.basic_reason() == ExitReason::EPT_VIOLATION && td.config.is_private(gpa);
    let free = data.vcpu.regs.interruptibility & inject::BLOCKED_BY_NMI == 0
        && exit.qualification >> 12 & 1 == 0
        && exit.idt_vectoring_info & inject::VALID == 0
        && data.vcpu.ve_info.valid == 0;
    if private && free {
        inject::ve(&mut data.vcpu, exit.qualification, 0, gpa.raw());
    }
}

/// What the VMM gives back to the guest (vp-enter.md 4).
fn take_answer(data: &mut VpData, gprs: &GprFile, xmms: &XmmFile, hint: bool) {
    let guest = &mut data.vcpu.regs.gpr;
    match data.last_td_exit {
        LastTdExit::AsyncFault => {}
        LastTdExit::AsyncTrap => {
            let rax = &mut guest[Gpr::Rax.index()];
            *rax = *rax & !HINT | if hint { HINT } else { 0 };
        }
        LastTdExit::Tdvmcall => {
            let mask = guest[Gpr::Rcx.index()];
            guest[Gpr::Rax.index()] = 0;
            for reg in Gpr::ALL.into_iter().skip(2) {
                if mask >> reg.index() & 1 != 0 && reg != Gpr::Rsp {
                    guest[reg.index()] = gprs[reg];
                }
            }
            let xbuff = &mut data.extra.xbuff;
            for n in (0..16).filter(|n| mask >> (16 + n) & 1 != 0) {
                let at = XMM0 + 16 * n;
                xbuff.0[at..at + 16].copy_from_slice(&xmms.0[n].to_le_bytes());
                xbuff.set_qword(XSTATE_BV, xbuff.qword(XSTATE_BV) | SSE);
            }
        }
    }
}

/// Loads what the VMCS does not hold, and runs.
fn load_and_run<M: Machine>(guest: &mut Guest<'_, M>) -> Result<TdExit, Broken> {
    let config = &guest.td.config;
    let VpData { vcpu, extra, .. } = &mut *guest.data;
    if extra
        .xbuff
        .restore(config.xfam, &config.xbuff, &mut vcpu.regs)
        .is_err()
    {
        let status = match config.is_debug() {
            true => Status::SUCCESS,
            false => Status::NON_RECOVERABLE_TD,
        };
        return Ok(TdExit::Async(AsyncExit {
            extended: extended::XSTATE_LOAD,
            ..AsyncExit::with_status(status, &VmExit::new(ExitReason::FAILED_VMENTER_GS))
        }));
    }
    guest.local.stepping.last_entry_tsc = guest.module.machine().tsc(guest.lp);
    guest.run()
}

/// The exit sequence (vp-enter.md 6.5).
fn leave<M: Machine>(
    guest: &mut Guest<'_, M>,
    exit: &TdExit,
    epoch: u64,
    gprs: &mut GprFile,
    xmms: &mut XmmFile,
) -> Status {
    let status = guest.leave(exit, gprs, xmms);
    let gone = matches!(exit, TdExit::Async(exit) if exit.is_non_accessible());
    if !gone {
        let config = &guest.td.config;
        let VpData { vcpu, extra, .. } = &mut *guest.data;
        extra.xbuff.save(config.xfam, &config.xbuff, &vcpu.regs);
        let trap = match exit {
            TdExit::Tdvmcall => true,
            TdExit::Async(exit) => exit.is_trap(),
        };
        if trap {
            inject::advance_rip(vcpu);
        }
        guest.td.epoch.leave(&guest.right, epoch);
    }
    guest.scrub_host_msrs();
    status
}
