//! TDH.SYS.INFO: TDSYSINFO_STRUCT and the CMRs (spec: host-platform.md 3.6).

use super::Row;
use crate::call::{Call, LeafResult};
use crate::cpuid::{ROWS as CPUID_ROWS, choices, configurable};
use crate::machine::Machine;
use crate::module::Module;
use crate::refusal::{Broken, Refusal};
use crate::xstate::{Xfam, supported};
use alloc::vec;
use alloc::vec::Vec;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    before_ready: true,
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9],
    outputs: &[Gpr::Rdx, Gpr::R9],
    ..Row::new(HostLeaf::SYS_INFO)
};

const SIZE: usize = 1024;
const CMRS: usize = 32;
/// ATTRIBUTES bits that a TD may set.
pub const ATTRIBUTES_FIXED0: u64 = 1 << 0 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 63;

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let (size, entries) = (call.get(Gpr::Rdx), call.get(Gpr::R9));
    call.defaults([Gpr::Rdx, Gpr::R9], 0);
    if !call.lp_state.is_initialized() {
        return Err(Status::SYS_LP_INIT_NOT_DONE.into());
    }
    let info_at = call.shared_hpa(Gpr::Rcx, SIZE as u64)?;
    if size < SIZE as u64 {
        return Err(Refusal::Invalid(OperandId::RDX).into());
    }
    // The buffer is cleared even if the operands that follow are refused.
    call.write_shared(info_at, &[0; SIZE])?;
    let cmrs_at = call.shared_hpa(Gpr::R8, 512)?;
    if entries < CMRS as u64 {
        return Err(Refusal::Invalid(OperandId::R9).into());
    }
    let info = tdsysinfo(call.module)?;

    let commit = call.commit();
    let written = call.write_shared(info_at, &info);
    if let Err(broken) = written.and(call.write_shared(cmrs_at, &cmr_array(call.module))) {
        let _ = commit.done();
        return Err(broken);
    }
    call.set(Gpr::Rdx, SIZE as u64);
    call.set(Gpr::R9, CMRS as u64);
    Ok(commit.done())
}

fn tdsysinfo<M: Machine>(module: &Module<M>) -> Result<Vec<u8>, Broken> {
    let profile = module.profile();
    let cpuid = &module.sys()?.cpuid;
    let mut bytes = vec![0; SIZE];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x04, &0x8086u32.to_le_bytes());
    put(0x08, &profile.build_date.to_le_bytes());
    put(0x0C, &profile.build_num.to_le_bytes());
    put(0x0E, &profile.minor.to_le_bytes());
    put(0x10, &profile.major.to_le_bytes());
    put(0x12, &[1]); // TDH.SYS.RD is there
    put(0x20, &64u16.to_le_bytes()); // TDMRs
    put(0x22, &16u16.to_le_bytes()); // reserved areas of each
    put(0x24, &16u16.to_le_bytes()); // bytes of a PAMT entry
    put(0x30, &0x6000u16.to_le_bytes()); // TDCS
    put(0x34, &0x6000u16.to_le_bytes()); // TDVPS
    put(0x40, &ATTRIBUTES_FIXED0.to_le_bytes());
    put(0x50, &(Xfam::KNOWN & supported(cpuid)).to_le_bytes());
    put(0x58, &3u64.to_le_bytes());
    let configurable = configurable(module.profile.has_topology());
    put(0x80, &(configurable.len() as u32).to_le_bytes());
    for (i, &index) in configurable.iter().enumerate() {
        let row = &CPUID_ROWS[index];
        let (direct, allow) = choices(index);
        let at = 0x84 + 24 * i;
        put(at, &row.leaf.to_le_bytes());
        put(at + 4, &row.subleaf.unwrap_or(u32::MAX).to_le_bytes());
        for r in 0..4 {
            let mask = direct[r] | allow[r] & cpuid.native[index][r];
            put(at + 8 + 4 * r, &mask.to_le_bytes());
        }
    }
    Ok(bytes)
}

fn cmr_array<M: Machine>(module: &Module<M>) -> Vec<u8> {
    let mut bytes = vec![0; CMRS * 16];
    for (i, cmr) in module.platform.cmrs.iter().take(CMRS).enumerate() {
        bytes[16 * i..16 * i + 8].copy_from_slice(&cmr.start.to_le_bytes());
        bytes[16 * i + 8..16 * i + 16].copy_from_slice(&(cmr.end - cmr.start).to_le_bytes());
    }
    bytes
}
