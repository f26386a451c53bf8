//! TD_PARAMS: what the host wants of a TD, checked in the module's order (spec: host-td.md 3.4).

use crate::cpuid::{CONFIGURABLE, ConfigRefusal, Registers, TdCpuid, TdCpuidInput, configurable};
use crate::machine::{LpId, Machine};
use crate::msr::{
    IA32_ARCH_CAPABILITIES, IA32_PERF_CAPABILITIES, IA32_TSC_ADJUST, MsrFeatures, VirtualVmxMsrs,
    virtual_arch_capabilities,
};
use crate::profile::Profile;
use crate::sys::SysInfo;
use crate::td::{Hash384, MIN_TDCS_PAGES, SEPT_ROOT_PAGE, Td, TdConfig, attributes, config_flags};
use crate::xstate::{Xfam, supported};
use alloc::boxed::Box;
use tdx_abi::{OperandId, Status};

/// Where the values of configurable CPUID leaves begin, 16 bytes each.
const CPUID_CONFIG: usize = 256;
/// Bytes of TD_PARAMS.
pub const SIZE: usize = 1024;

const ATTRIBUTES_ALLOWED: u64 = attributes::DEBUG
    | attributes::SEPT_VE_DISABLE
    | attributes::MIGRATABLE
    | attributes::PKS
    | attributes::PERFMON;
const CONFIG_FLAGS_ALLOWED: u64 =
    config_flags::GPAW | config_flags::FLEXIBLE_PENDING_VE | config_flags::NO_RBP_MOD;
const MAX_L2_VMS: u16 = 3;
/// TSC_FREQUENCY, in units of 25 MHz.
const TSC_FREQUENCY: core::ops::RangeInclusive<u16> = 4..=400;
const TSC_UNIT_HZ: u128 = 25_000_000;

/// Why TD_PARAMS are refused, and what goes to RCX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadParams {
    pub status: Status,
    pub rcx: u64,
}

impl From<Status> for BadParams {
    fn from(status: Status) -> Self {
        BadParams { status, rcx: 0 }
    }
}

/// The structure in memory.
pub struct Raw<'a>(pub &'a [u8; SIZE]);

impl Raw<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        core::array::from_fn(|i| self.0[at + i])
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }
    fn hash(&self, at: usize) -> Hash384 {
        Hash384(self.bytes(at))
    }
    fn is_zero(&self, range: core::ops::Range<usize>) -> bool {
        self.0[range].iter().all(|byte| *byte == 0)
    }
    /// `N` entries of CPUID_CONFIG from entry `first` on.
    fn cpuid_config<const N: usize>(&self, first: usize) -> [Registers; N] {
        let at = |i| CPUID_CONFIG + 16 * (first + i);
        core::array::from_fn(|i| {
            core::array::from_fn(|r| u32::from_le_bytes(self.bytes(at(i) + 4 * r)))
        })
    }

    /// XFAM, if rows 5 and 6 let it pass: then the offsets of its components are the TD's, whatever comes later.
    pub fn accepted_xfam(&self, sys: &SysInfo) -> Option<Xfam> {
        let xfam = Xfam(self.u64(8));
        let good = attributes_are_valid(self.u64(0)) && xfam.is_valid(supported(&sys.cpuid));
        good.then_some(xfam)
    }

    /// Rows 5 to 19: what the TD becomes, or the first refusal.
    pub fn check<M: Machine>(
        &self,
        machine: &M,
        lp: LpId,
        sys: &SysInfo,
        td: &Td,
        profile: &Profile,
    ) -> Result<TdConfig, BadParams> {
        let invalid = |op| Status::OPERAND_INVALID.with_operand(op);
        let need = |ok: bool, op| if ok { Ok(()) } else { Err(invalid(op)) };
        let attributes = self.u64(0);
        let migratable = attributes & attributes::MIGRATABLE != 0;
        need(attributes_are_valid(attributes), OperandId::ATTRIBUTES)?;
        let xfam = Xfam(self.u64(8));
        need(xfam.is_valid(supported(&sys.cpuid)), OperandId::XFAM)?;
        let max_vcpus = self.u16(16);
        need(max_vcpus != 0, OperandId::MAX_VCPUS)?;
        let num_l2_vms = self.0[18] as u16;
        need(num_l2_vms <= MAX_L2_VMS, OperandId::NUM_L2_VMS)?;
        if td.tdcx.len() < MIN_TDCS_PAGES + num_l2_vms as usize {
            return Err(Status::TDCS_NOT_ALLOCATED.into());
        }
        need(self.is_zero(20..24), OperandId::RDX)?;
        let config_flags = self.u64(32);
        need(
            config_flags & !CONFIG_FLAGS_ALLOWED == 0,
            OperandId::EXEC_CONTROLS,
        )?;
        let eptp = self.u64(24);
        let good = eptp_is_valid(eptp, sys, config_flags);
        need(good, OperandId::EPTP_CONTROLS)?;
        let tsc_frequency = self.u16(40);
        need(
            TSC_FREQUENCY.contains(&tsc_frequency),
            OperandId::TSC_FREQUENCY,
        )?;
        if machine.read_msr(lp, IA32_TSC_ADJUST) != sys.msrs.get(IA32_TSC_ADJUST) {
            return Err(Status::INCONSISTENT_MSR
                .with_details(IA32_TSC_ADJUST)
                .into());
        }
        need(self.is_zero(42..80), OperandId::RDX)?;
        let msr_config = self.0[19];
        need(msr_config & !1 == 0, OperandId::RDX)?;
        need(self.is_zero(232..CPUID_CONFIG), OperandId::RDX)?;
        let native_arch = sys.msrs.get(IA32_ARCH_CAPABILITIES);
        let user = xfam.0 & Xfam::USER;
        let cpuid = TdCpuid::configure(&TdCpuidInput {
            platform: &sys.cpuid,
            attributes,
            xfam,
            tsc_frequency,
            native_tsx_ctrl: native_arch >> 7 & 1 != 0,
            user_xsave_size: machine.xsave_size(lp, 0, user, 0),
            config: &self.cpuid_config(0),
            topology: profile
                .has_topology()
                .then_some(&self.cpuid_config(CONFIGURABLE.len())),
        })
        .map_err(refused_cpuid)?;
        let end = CPUID_CONFIG + 16 * configurable(profile.has_topology()).len();
        need(self.is_zero(end..SIZE), OperandId::RDX)?;
        let arch_capabilities =
            virtual_arch_capabilities(native_arch, msr_config & 1 != 0, self.u64(224), cpuid.tsx)
                .ok_or(invalid(OperandId::IA32_ARCH_CAPABILITIES_CONFIG))?;
        need(!(migratable && num_l2_vms > 0), OperandId::RDX)?;

        let native_hz = sys.cpuid.native_tsc_hz.max(1) as u128;
        let multiplier = ((tsc_frequency as u128 * TSC_UNIT_HZ) << 48) / native_hz;
        let scaled = (machine.tsc(lp) as u128 * multiplier) >> 48;
        let perf = sys.msrs.get(IA32_PERF_CAPABILITIES);
        let features = MsrFeatures::new(attributes, xfam, &cpuid, perf);
        let debug = attributes & attributes::DEBUG != 0;
        Ok(TdConfig {
            attributes,
            xfam,
            max_vcpus: max_vcpus as u32,
            num_l2_vms,
            eptp: eptp | td.tdcx[SEPT_ROOT_PAGE].raw(),
            config_flags,
            tsc_frequency,
            tsc_multiplier: multiplier as u64,
            tsc_offset: (scaled as u64).wrapping_neg(),
            mrconfigid: self.hash(80),
            mrowner: self.hash(128),
            mrownerconfig: self.hash(176),
            arch_capabilities,
            features,
            vmx: VirtualVmxMsrs::new(&sys.vmx, &features, debug, cpuid.monitor),
            msr_bitmap: Box::new(features.bitmap()),
            xbuff: td.config.xbuff,
            cpuid,
        })
    }
}

fn attributes_are_valid(attributes: u64) -> bool {
    let exclusive = attributes::DEBUG | attributes::PERFMON;
    let migratable = attributes & attributes::MIGRATABLE != 0;
    attributes & !ATTRIBUTES_ALLOWED == 0 && !(migratable && attributes & exclusive != 0)
}

/// Write-back, 4 or 5 levels as the CPU and the GPA width allow, nothing else.
fn eptp_is_valid(eptp: u64, sys: &SysInfo, config_flags: u64) -> bool {
    /// IA32_VMX_EPT_VPID_CAP: page-walk length 5.
    const FIVE_LEVELS: u64 = 1 << 7;
    let levels_minus_1 = eptp >> 3 & 7;
    let five = levels_minus_1 == 4;
    let supported = levels_minus_1 == 3 || five && sys.vmx.ept_vpid & FIVE_LEVELS != 0;
    let wide = config_flags & config_flags::GPAW != 0;
    eptp & 7 == 6 && eptp >> 6 == 0 && supported && (!wide || five)
}

fn refused_cpuid(why: ConfigRefusal) -> BadParams {
    match why {
        ConfigRefusal::Config(rcx) => BadParams {
            status: Status::OPERAND_INVALID.with_operand(OperandId::CPUID_CONFIG),
            rcx,
        },
        ConfigRefusal::ArchCapabilities => Status::INCORRECT_MSR_VALUE
            .with_details(IA32_ARCH_CAPABILITIES)
            .into(),
    }
}
