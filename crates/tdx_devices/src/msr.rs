//! MSRs that KVM emulates for a TD and that are no device (spec: linux.md 3.3, "Emulated MSRs").

use tdx_host::tdvmcall::MsrFault;

const APIC_BASE: u32 = 0x1B;
const FEATURE_CONTROL: u32 = 0x3A;
const MICROCODE_REVISION: u32 = 0x8B;
const PLATFORM_INFO: u32 = 0xCE;
const MTRR_CAP: u32 = 0xFE;
const MISC_FEATURES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17A;
const MCG_CTL: u32 = 0x17B;
const MISC_ENABLE: u32 = 0x1A0;
const POWER_CTL: u32 = 0x1FC;
const MTRR_DEFAULT: u32 = 0x2FF;
const KVM_POLL_CONTROL: u32 = 0x4B56_4D05;

/// Banks of machine-check registers that MCG_CAP names.
const MC_BANKS: u32 = 0;

/// Reads one; `first` says whether the vCPU is the first one (the bootstrap processor).
pub fn read(msr: u32, first: bool) -> Result<u64, MsrFault> {
    Ok(match msr {
        // x2APIC enabled since reset, at the architectural address.
        APIC_BASE => 0xFEE0_0C00 | u64::from(first) << 8,
        FEATURE_CONTROL => 1,
        MICROCODE_REVISION => 1 << 32,
        MISC_ENABLE => 1,
        // Write-back everywhere, no variable or fixed ranges.
        MTRR_DEFAULT => 0x806,
        MCG_CAP => MC_BANKS.into(),
        PLATFORM_INFO | MTRR_CAP | MISC_FEATURES | MCG_STATUS | POWER_CTL | KVM_POLL_CONTROL => 0,
        _ => return Err(MsrFault),
    })
}

/// Whether a write is taken, without effect.
pub fn write(msr: u32) -> Result<(), MsrFault> {
    match msr {
        MICROCODE_REVISION | MISC_FEATURES | MCG_STATUS | MCG_CTL | POWER_CTL | MTRR_DEFAULT
        | KVM_POLL_CONTROL => Ok(()),
        _ => Err(MsrFault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_processor_is_told_apart() {
        assert_eq!(read(APIC_BASE, true), Ok(0xFEE0_0D00));
        assert_eq!(read(APIC_BASE, false), Ok(0xFEE0_0C00));
    }

    #[test]
    fn what_kvm_refuses_is_refused() {
        for msr in [APIC_BASE, FEATURE_CONTROL, MISC_ENABLE, MCG_CAP, 0x1234] {
            assert_eq!(write(msr), Err(MsrFault), "{msr:#x}");
        }
        assert_eq!(read(0x1234, true), Err(MsrFault));
    }
}
