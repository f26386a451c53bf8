//! TDH.SYS.INIT: checks and samples the platform (spec: host-platform.md 3.1).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::lock_order::Lock;
use crate::cpuid::{PlatformCpuid, PlatformRefusal};
use crate::machine::Machine;
use crate::msr::{
    ARCH_CAPABILITIES_REQUIRED_0, ARCH_CAPABILITIES_REQUIRED_1, IA32_ARCH_CAPABILITIES,
    IA32_MISC_ENABLE, IA32_PERF_CAPABILITIES, IA32_TSC_ADJUST, IA32_TSX_CTRL,
    IA32_XAPIC_DISABLE_STATUS, VmxCapabilities,
};
use crate::platform_check::{
    check_cmrs, check_memory_encryption, check_smrr, check_vmx, incorrect_msr,
};
use crate::refusal::{Broken, Refusal, Stop};
use crate::state::SysState;
use crate::sys::{SampledMsrs, SysInfo};
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    before_ready: true,
    inputs: &[Gpr::Rcx],
    outputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10],
    ..Row::new(HostLeaf::SYS_INIT)
};

const MISC_PACKAGE_CTLS: u32 = 0xBC;
const KEYID_PARTITIONING: u32 = 0x87;
const WBINVDP: u32 = 0x98;
const WBNOINVDP: u32 = 0x99;
const MAX_HKIDS: u64 = 2048;

/// What LP.INIT compares on each processor, in its order, before the CPUID and after it.
pub const SAMPLED_FIRST: [u32; 4] = [0xCF, IA32_ARCH_CAPABILITIES, MISC_PACKAGE_CTLS, IA32_XAPIC_DISABLE_STATUS];
/// SMRR2 (0x1F6, 0x1F7) is not among them: this machine's MCHECK says that there is none.
pub const SAMPLED_LAST: [u32; 23] = [
    IA32_TSC_ADJUST,
    0xFE,
    0x1F2,
    0x1F3,
    0x480,
    0x48D,
    0x48E,
    0x48B,
    0x492,
    0x48F,
    0x490,
    0x485,
    0x48C,
    0x486,
    0x487,
    0x488,
    0x489,
    IA32_PERF_CAPABILITIES,
    0x981,
    0x982,
    KEYID_PARTITIONING,
    WBINVDP,
    WBNOINVDP,
];

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let attributes = call.get(Gpr::Rcx);
    call.defaults([Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10], 0);
    let _global = call.hold(Lock::Global, call.module.global.exclusive()).map_err(|_| Refusal::SysBusy)?;
    if attributes != 0 {
        return Err(Refusal::Invalid(OperandId::RCX).into());
    }
    if call.module.state.get() != SysState::SysInitPending {
        return Err(Status::SYS_INIT_NOT_PENDING.into());
    }
    let machine = call.machine();
    let msr = |index| machine.read_msr(call.lp, index);
    let arch = msr(IA32_ARCH_CAPABILITIES);
    if arch & ARCH_CAPABILITIES_REQUIRED_1 != ARCH_CAPABILITIES_REQUIRED_1
        || arch & ARCH_CAPABILITIES_REQUIRED_0 != 0
    {
        return Err(incorrect_msr(IA32_ARCH_CAPABILITIES).into());
    }
    if msr(IA32_XAPIC_DISABLE_STATUS) != 1 {
        return Err(incorrect_msr(IA32_XAPIC_DISABLE_STATUS).into());
    }
    let tsx_hidden = hide_nothing_of_tsx(call, arch);
    let info = survey(call);
    if let Some(value) = tsx_hidden {
        machine.write_msr(call.lp, IA32_TSX_CTRL, value);
    }
    let info = info?;

    let commit = call.commit();
    call.module.sys.call_once(|| info);
    call.module.state.set(&commit, SysState::SysInitDone);
    Ok(commit.done())
}

/// CPUID must be read with TSX shown: clears TSX_CPUID_CLEAR and returns what to put back.
fn hide_nothing_of_tsx<M: Machine>(call: &Call<'_, M>, arch: u64) -> Option<u64> {
    const TSX_CTRL: u64 = 1 << 7;
    const TSX_CPUID_CLEAR: u64 = 1 << 1;
    if arch & TSX_CTRL == 0 {
        return None;
    }
    let value = call.machine().read_msr(call.lp, IA32_TSX_CTRL);
    if value & TSX_CPUID_CLEAR == 0 {
        return None;
    }
    call.machine()
        .write_msr(call.lp, IA32_TSX_CTRL, value & !TSX_CPUID_CLEAR);
    Some(value)
}

/// Rows 7 to 20.
fn survey<M: Machine>(call: &mut Call<'_, M>) -> Result<SysInfo, Stop> {
    let machine = call.machine();
    let lp = call.lp;
    let msr = |index| machine.read_msr(lp, index);
    if msr(MISC_PACKAGE_CTLS) & 1 == 0 {
        return Err(incorrect_msr(MISC_PACKAGE_CTLS).into());
    }
    const FULL_WRITE: u64 = 1 << 13;
    if msr(IA32_PERF_CAPABILITIES) & FULL_WRITE == 0 {
        return Err(incorrect_msr(IA32_PERF_CAPABILITIES).into());
    }
    if msr(IA32_MISC_ENABLE) >> 22 & 1 != 0 {
        return Err(Status::LIMIT_CPUID_MAXVAL_SET.into());
    }
    let cpuid = PlatformCpuid::sample(machine, lp).map_err(|why| refuse_cpuid(call, why))?;
    let vmx = VmxCapabilities::read(machine, lp);
    check_vmx(&vmx)?;
    let keyid_bits = check_memory_encryption(msr(0x981), msr(0x982))?;
    let partitioning = msr(KEYID_PARTITIONING);
    let (mktme, private) = (partitioning & 0xFFFF_FFFF, partitioning >> 32);
    if mktme + private >= MAX_HKIDS {
        return Err(Status::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED
            .with_details(MAX_HKIDS as u32)
            .into());
    }
    let sub_blocks = msr(WBINVDP);
    if msr(WBNOINVDP) != sub_blocks {
        return Err(incorrect_msr(WBNOINVDP).into());
    }
    let hkid_mask = ((1u64 << keyid_bits) - 1) << (52 - keyid_bits);
    let cmrs = &call.module.platform.cmrs;
    check_cmrs(cmrs, hkid_mask)?;
    check_smrr(msr(0xFE), msr(0x1F2), msr(0x1F3), cmrs)?;
    // The canary of the module's stack: drawn as on hardware, since a lack of entropy is seen.
    machine.random(lp).ok_or(Stop::from(Status::RND_NO_ENTROPY))?;
    let sampled = SAMPLED_FIRST.iter().chain(&SAMPLED_LAST);
    Ok(SysInfo {
        keyid_bits,
        hkid_min: mktme as u16 + 1,
        hkid_max: (mktme + private) as u16,
        msrs: SampledMsrs {
            values: sampled.map(|index| (*index, msr(*index))).collect(),
        },
        cpuid,
        vmx,
        has_verify_report: machine.has_verify_report(),
        cache_wb_sub_blocks: sub_blocks as u32,
    })
}

fn refuse_cpuid<M: Machine>(call: &mut Call<'_, M>, why: PlatformRefusal) -> Stop {
    let outputs = [Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10];
    for (reg, value) in outputs.into_iter().zip(why.registers()) {
        call.set(reg, value);
    }
    match why.status() {
        Some(status) => status.into(),
        None => Broken("a platform whose CPUID the module cannot run on").into(),
    }
}
