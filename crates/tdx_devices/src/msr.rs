//! MSRs that a guest asks its VMM for, local APIC apart: KVM's list (spec: linux.md 3.3).

use std::collections::BTreeMap;

use tdx_host::tdvmcall::MsrFault;

/// The MSRs of one vCPU: constants, and those that only keep what was written.
#[derive(Clone, Debug)]
pub(crate) struct Msrs {
    apic_base: u64,
    kept: BTreeMap<u32, u64>,
}

const APIC_BASE: u32 = 0x1B;
const FEATURE_CONTROL: u32 = 0x3A;
const UCODE_REVISION: u32 = 0x8B;
const PLATFORM_INFO: u32 = 0xCE;
const MTRR_CAP: u32 = 0xFE;
const MISC_FEATURES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17A;
const MISC_ENABLE: u32 = 0x1A0;
const POWER_CTL: u32 = 0x1FC;
const MTRR_VARIABLE: std::ops::RangeInclusive<u32> = 0x200..=0x20F;
const MTRR_FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
];
const MTRR_DEFAULT: u32 = 0x2FF;
/// Ten banks of four registers, as KVM offers.
const MC_BANKS: std::ops::RangeInclusive<u32> = 0x400..=0x427;
const KVM_POLL_CONTROL: u32 = 0x4B56_4D05;

impl Msrs {
    pub(crate) fn new(vcpu: u32) -> Self {
        // Enabled and in x2APIC mode; bit 8 marks the first processor.
        let apic_base = 0xFEE0_0000 | 1 << 11 | 1 << 10 | u64::from(vcpu == 0) << 8;
        Self {
            apic_base,
            kept: BTreeMap::new(),
        }
    }

    pub(crate) fn read(&self, msr: u32) -> Result<u64, MsrFault> {
        let constant = match msr {
            APIC_BASE => self.apic_base,
            // Locked.
            FEATURE_CONTROL => 1,
            // Linux reads the revision from the upper half.
            UCODE_REVISION => 1 << 32,
            PLATFORM_INFO => 1 << 31,
            // Eight variable ranges, fixed ranges, write combining.
            MTRR_CAP => 0x508,
            MCG_CAP => 10 | 1 << 8 | 1 << 24,
            // Fast strings.
            MISC_ENABLE => 1,
            // Enabled, write-back.
            MTRR_DEFAULT => 1 << 11 | 6,
            KVM_POLL_CONTROL => 1,
            _ if keeps(msr) => 0,
            _ => return Err(MsrFault),
        };
        Ok(self.kept.get(&msr).copied().unwrap_or(constant))
    }

    pub(crate) fn write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        match msr {
            _ if keeps(msr) => {
                self.kept.insert(msr, value);
            }
            // The kernel announces its patch level before it reads the processor's.
            UCODE_REVISION => {}
            _ => return Err(MsrFault),
        }
        Ok(())
    }
}

/// Registers without an effect here, which must read back what was written.
fn keeps(msr: u32) -> bool {
    matches!(
        msr,
        MISC_FEATURES | MCG_STATUS | POWER_CTL | MTRR_DEFAULT | KVM_POLL_CONTROL
    ) || MTRR_VARIABLE.contains(&msr)
        || MTRR_FIXED.contains(&msr)
        || MC_BANKS.contains(&msr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kvm_answers_is_answered_and_the_rest_faults() {
        let mut msrs = Msrs::new(0);
        assert_eq!(msrs.read(APIC_BASE), Ok(0xFEE0_0D00));
        assert_eq!(msrs.write(APIC_BASE, 0), Err(MsrFault));
        assert_eq!(Msrs::new(1).read(APIC_BASE), Ok(0xFEE0_0C00));
        assert_eq!(msrs.write(MISC_ENABLE, 0), Err(MsrFault));
        assert_eq!(msrs.write(POWER_CTL, 2), Ok(()));
        assert_eq!(msrs.read(POWER_CTL), Ok(2));
        assert_eq!(msrs.write(0x20F, 7), Ok(()));
        assert_eq!(msrs.read(0x20F), Ok(7));
        assert_eq!(msrs.read(0xC001_1029), Err(MsrFault));
        assert_eq!(msrs.write(0x123, 0), Err(MsrFault));
    }
}
