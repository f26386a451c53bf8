//! The checks of TDH.SYS.INIT on MSRs, memory ranges and keys (spec: host-platform.md 3.1, rows 14 to 17).

use crate::msr::VmxCapabilities;
use crate::refusal::{Broken, Stop};
use core::ops::Range;
use tdx_abi::Status;

pub fn incorrect_msr(msr: u32) -> Status {
    Status::INCORRECT_MSR_VALUE.with_details(msr)
}

/// A control field as the module needs it: what it sets, what it must be able to choose, what it leaves to the CPU.
struct Control {
    msr: u32,
    init: u32,
    variable: u32,
    unknown: u32,
}

impl Control {
    /// Low half of `capability`: bits that must be 1; high half: bits that may be 1.
    fn check(&self, capability: u64) -> Result<(), Stop> {
        let (must, may) = (capability as u32, (capability >> 32) as u32);
        if must & !may & self.unknown != 0 {
            return Err(Broken("a VMX capability that is required and forbidden at once").into());
        }
        let known = !self.unknown;
        let needed = (self.init | self.variable) & known;
        let clear = (!self.init | self.variable) & known;
        match needed & !may == 0 && clear & must == 0 {
            true => Ok(()),
            false => Err(incorrect_msr(self.msr).into()),
        }
    }
}

const fn control(msr: u32, init: u32, variable: u32, unknown: u32) -> Control {
    Control {
        msr,
        init,
        variable,
        unknown,
    }
}

/// CR0 and CR4 as a TD starts, and what it may not be refused.
const CR0: u64 = 0x21;
const CR0_PG: u64 = 1 << 31;
const CR4: u64 = 0x2040;
const EPT_VPID_NEEDED: u64 = 0x106_3340_41;
/// Tertiary controls: set always, and those that follow a TD's configuration.
const TERTIARY: u64 = 0x80 | 0x20;
const TERTIARY_L2: u64 = 0x80 | 0x2E;

/// The VMX capability MSRs, in the module's order.
pub fn check_vmx(cpu: &VmxCapabilities) -> Result<(), Stop> {
    let l1 = [
        (control(0x48D, 0x29, 0x80, 0xFFFF_FF16), cpu.pin),
        (
            control(0x48E, 0x9122_0088, 0x2040_0C00, 0x0404_6173),
            cpu.primary,
        ),
        (control(0x48B, 0x133C_B3FA, 0xCC00_0400, 0), cpu.secondary),
    ];
    let after = [
        (
            control(0x48F, 0x1F3C_8204, 0x4000_1000, 0x0003_6DFB),
            cpu.exit,
        ),
        (
            control(0x490, 0x003E_C004, 0x0040_2200, 0xFF80_11FB),
            cpu.entry,
        ),
    ];
    let l2 = [
        (control(0x48D, 0x29, 0, 0xFFFF_FF16), cpu.pin),
        (
            control(0x48E, 0x9122_0088, 0x68D8_1E04, 0x0404_6173),
            cpu.primary,
        ),
        (control(0x48B, 0x1338_B3FA, 0x0C51_3E0C, 0), cpu.secondary),
    ];
    let need = |ok: bool, msr| {
        if ok {
            Ok(())
        } else {
            Err(Stop::from(incorrect_msr(msr)))
        }
    };
    for (control, value) in &l1 {
        control.check(*value)?;
    }
    need(TERTIARY & !cpu.tertiary == 0, 0x492)?;
    for (control, value) in &after {
        control.check(*value)?;
    }
    need(EPT_VPID_NEEDED & !cpu.ept_vpid == 0, 0x48C)?;
    need(cpu.cr0_fixed0 & !(CR0 | CR0_PG) == 0, 0x486)?;
    need((CR0 | CR0_PG) & !cpu.cr0_fixed1 == 0, 0x487)?;
    need(cpu.cr4_fixed0 & !CR4 == 0, 0x488)?;
    need(CR4 & !cpu.cr4_fixed1 == 0, 0x489)?;
    for (control, value) in &l2 {
        control.check(*value)?;
    }
    need(TERTIARY_L2 & !cpu.tertiary == 0, 0x492)
}

/// TME must be on and locked, with a cipher the module accepts. Returns how many bits carry the key ID.
pub fn check_memory_encryption(capability: u64, activate: u64) -> Result<u32, Stop> {
    /// AES-XTS-128 and AES-XTS-256 without integrity.
    const CIPHERS: u64 = 0b101;
    if capability & CIPHERS == 0 {
        return Err(incorrect_msr(0x981).into());
    }
    let locked = activate & 1 != 0;
    if !locked || activate >> 48 & CIPHERS == 0 {
        return Err(incorrect_msr(0x982).into());
    }
    Ok((activate >> 32 & 0xF) as u32)
}

/// Ascending whole pages below 2^52 without key-ID bits. A range ends at `end`; empty ones do not count.
pub fn check_cmrs(cmrs: &[Range<u64>], hkid_mask: u64) -> Result<(), Status> {
    let mut last_end = 0;
    for cmr in cmrs.iter().filter(|c| c.start != c.end) {
        let good = cmr.start < cmr.end
            && cmr.start & hkid_mask == 0
            && (cmr.end - 1) & hkid_mask == 0
            && cmr.end - 1 <= 1 << 52
            && cmr.start.is_multiple_of(4096)
            && cmr.end.is_multiple_of(4096)
            && cmr.start >= last_end;
        if !good {
            return Err(Status::CMR_LIST_INVALID);
        }
        last_end = cmr.end;
    }
    Ok(())
}

/// The system-management range: supported, locked, well formed, in no CMR.
pub fn check_smrr(mtrrcap: u64, base: u64, mask: u64, cmrs: &[Range<u64>]) -> Result<(), Status> {
    const SMRR: u64 = 1 << 11;
    const SMRR_LOCK: u64 = 1 << 14;
    const VALID: u64 = 1 << 11;
    const LOCKED: u64 = 1 << 10;
    const FIELD: u64 = 0xFFFF_F000;
    if mtrrcap & SMRR == 0 {
        return Err(Status::SMRR_NOT_SUPPORTED);
    }
    if mtrrcap & SMRR_LOCK == 0 {
        return Err(Status::SMRR_LOCK_NOT_SUPPORTED);
    }
    if mask & LOCKED == 0 {
        return Err(Status::SMRR_NOT_LOCKED);
    }
    if mask & VALID == 0 {
        return Ok(());
    }
    let (start, field) = (base & FIELD, mask & FIELD);
    let size = field & field.wrapping_neg();
    let contiguous = field != 0 && field | (size - 1) == 0xFFFF_FFFF;
    if !contiguous || !start.is_multiple_of(size) {
        return Err(Status::INVALID_SMRR_CONFIGURATION);
    }
    match cmrs
        .iter()
        .position(|c| c.start < start + size && start < c.end)
    {
        Some(index) => Err(Status::SMRR_OVERLAPS_CMR.with_details((index as u32) << 8)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn memory_ranges_must_ascend_in_whole_pages() {
        assert_eq!(check_cmrs(&[0..0x1000, 0x1000..0x3000, 0..0], 0), Ok(()));
        for bad in [
            [0x2000..0x3000, 0..0x1000],
            [0..0x1800, 0..0],
            [0..0x2000, 0x1000..0x3000],
        ] {
            assert_eq!(check_cmrs(&bad, 0), Err(Status::CMR_LIST_INVALID));
        }
        let keyed = core::iter::once(0x4000_0000_0000..0x4000_0020_0000).collect::<Vec<_>>();
        assert!(check_cmrs(&keyed, 0x3F << 46).is_err());
    }

    #[test]
    fn a_system_management_range_lies_in_no_cmr() {
        let check = |base, cmrs: &[Range<u64>]| check_smrr(0xFD0A, base, 0xFE00_0C00, cmrs);
        assert_eq!(check(0x9000_0006, &[0..0x8000_0000, 0..0]), Ok(()));
        let overlap = Status::SMRR_OVERLAPS_CMR.with_details(0x100);
        assert_eq!(
            check(0x9000_0006, &[0..0x1000, 0x8200_0000..0xC000_0000]),
            Err(overlap)
        );
        assert_eq!(
            check(0x9001_0006, &[]),
            Err(Status::INVALID_SMRR_CONFIGURATION)
        );
    }
}
