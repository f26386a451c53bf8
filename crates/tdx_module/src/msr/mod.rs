//! MSR virtualization: which accesses exit, and what the module does with those that do.
//!
//! Spec: guest-virtualization.md 6.

mod arch_capabilities;
mod table;
mod vmx;

pub use arch_capabilities::{
    ARCH_CAPABILITIES_CONFIGURABLE, ARCH_CAPABILITIES_REQUIRED_0, ARCH_CAPABILITIES_REQUIRED_1,
    virtual_arch_capabilities,
};
pub use table::RANGES;
pub use vmx::{L2Controls, VirtualVmxMsrs, VmxCapabilities, initial_control};

use crate::cpuid::TdCpuid;
use crate::xstate::Xfam;
use x86_arch::vmx::MsrBitmap;

pub const IA32_TSC_ADJUST: u32 = 0x3B;
pub const IA32_SPEC_CTRL: u32 = 0x48;
pub const IA32_XAPIC_DISABLE_STATUS: u32 = 0xBD;
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10A;
pub const IA32_TSX_CTRL: u32 = 0x122;
pub const IA32_MISC_ENABLE: u32 = 0x1A0;
pub const IA32_DEBUGCTL: u32 = 0x1D9;
pub const IA32_PERF_METRICS: u32 = 0x329;
pub const IA32_PERF_CAPABILITIES: u32 = 0x345;
pub const IA32_XSS: u32 = 0xDA0;
pub const IA32_EFER: u32 = 0xC000_0080;

/// When the bitmap makes an access exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bit {
    Never,
    Always,
    UnlessPerfmon,
    UnlessCet,
    UnlessPt,
    UnlessUintr,
    UnlessLbr,
    UnlessWaitpkg,
    UnlessXfd,
    UnlessPks,
    UnlessTsx,
    /// IA32_PERF_CAPABILITIES: unless PERFMON and PT; IA32_PERF_METRICS: unless PERFMON and the CPU has it.
    UnlessOther,
}

/// What the module does with an access that exits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// #VE.
    Ve,
    /// #GP(0).
    Gp,
    /// #VE if the TD's CPUID shows the feature, else #GP(0).
    GpOrVe,
    /// The bitmap never lets it exit.
    NeverExits,
    /// The module answers it.
    Emulated,
}

/// A range of MSRs with the same rules; the bounds are included.
pub struct Range {
    pub first: u32,
    pub last: u32,
    pub read: (Bit, Action),
    pub write: (Bit, Action),
}

/// The range that holds `msr`.
pub fn find(msr: u32) -> Option<&'static Range> {
    RANGES
        .iter()
        .find(|range| (range.first..=range.last).contains(&msr))
}

/// What a TD's MSR bitmap and MSR exits depend on.
#[derive(Clone, Copy, Default, Debug)]
pub struct MsrFeatures {
    pub perfmon: bool,
    pub pks: bool,
    pub xfam: Xfam,
    pub waitpkg: bool,
    pub xfd: bool,
    pub tsx: bool,
    pub dca: bool,
    pub tme: bool,
    pub mktme: bool,
    pub tsc_deadline: bool,
    /// Native IA32_PERF_CAPABILITIES bit 15.
    pub native_perf_metrics: bool,
}

impl MsrFeatures {
    pub fn new(attributes: u64, xfam: Xfam, cpuid: &TdCpuid, perf_capabilities: u64) -> Self {
        Self {
            perfmon: attributes >> 63 & 1 != 0,
            pks: attributes >> 30 & 1 != 0,
            xfam,
            waitpkg: cpuid.waitpkg,
            xfd: cpuid.xfd,
            tsx: cpuid.tsx,
            dca: cpuid.dca,
            tme: cpuid.tme,
            mktme: cpuid.mktme,
            tsc_deadline: cpuid.tsc_deadline,
            native_perf_metrics: perf_capabilities >> 15 & 1 != 0,
        }
    }

    fn exits(&self, msr: u32, bit: Bit) -> bool {
        match bit {
            Bit::Never => false,
            Bit::Always => true,
            Bit::UnlessPerfmon => !self.perfmon,
            Bit::UnlessCet => !self.xfam.has_all(Xfam::CET),
            Bit::UnlessPt => !self.xfam.has(Xfam::PT),
            Bit::UnlessUintr => !self.xfam.has(Xfam::UINTR),
            Bit::UnlessLbr => !self.xfam.has(Xfam::LBR),
            Bit::UnlessWaitpkg => !self.waitpkg,
            Bit::UnlessXfd => !self.xfd,
            Bit::UnlessPks => !self.pks,
            Bit::UnlessTsx => !self.tsx,
            Bit::UnlessOther if msr == IA32_PERF_METRICS => {
                !(self.perfmon && self.native_perf_metrics)
            }
            Bit::UnlessOther => !(self.perfmon && self.xfam.has(Xfam::PT)),
        }
    }

    /// The TD's bitmap: everything exits but what a range lets pass.
    pub fn bitmap(&self) -> MsrBitmap {
        let mut bitmap = MsrBitmap::default();
        for range in &RANGES {
            for msr in range.first..=range.last {
                bitmap.set(msr, false, self.exits(msr, range.read.0));
                bitmap.set(msr, true, self.exits(msr, range.write.0));
            }
        }
        bitmap
    }

    /// Whether a [`Action::GpOrVe`] access is a #VE.
    pub fn shows(&self, msr: u32) -> bool {
        match msr {
            0x87 => self.mktme,
            0x1F8..=0x1FA => self.dca,
            0x6E0 => self.tsc_deadline,
            0x981..=0x984 => self.tme,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> MsrFeatures {
        MsrFeatures::new(0, Xfam(3), &TdCpuid::default(), 0)
    }

    #[test]
    fn ranges_ascend_and_do_not_overlap() {
        assert!(RANGES.is_sorted_by(|a, b| a.last < b.first));
        assert!(RANGES.iter().all(|range| range.first <= range.last));
    }

    #[test]
    fn an_access_that_never_exits_has_no_action() {
        for range in &RANGES {
            assert_eq!(
                range.read.0 == Bit::Never,
                range.read.1 == Action::NeverExits,
                "{:#x}",
                range.first
            );
            assert_eq!(
                range.write.0 == Bit::Never,
                range.write.1 == Action::NeverExits,
                "{:#x}",
                range.first
            );
        }
    }

    /// guest-virtualization.md 6.2, first rows.
    #[test]
    fn a_td_without_options_reaches_its_own_msrs_only() {
        let bitmap = minimal().bitmap();
        for msr in [0x48, 0x277, 0xC000_0082, 0xC000_0103, 0x808, 0x83F] {
            assert!(
                !bitmap.exits(msr, false) && !bitmap.exits(msr, true),
                "{msr:#x}"
            );
        }
        assert!(!bitmap.exits(0x10, false) && bitmap.exits(0x10, true));
        for msr in [0x1B, 0x3A, 0x1C4, 0x6A0, 0x560, 0xE1, 0xC1, 0x1A0, 0x345] {
            assert!(bitmap.exits(msr, false), "{msr:#x}");
        }
    }

    #[test]
    fn a_feature_opens_its_msrs() {
        let mut features = minimal();
        features.perfmon = true;
        assert!(!features.bitmap().exits(0xC1, true));
        assert!(features.bitmap().exits(IA32_PERF_CAPABILITIES, false));
        assert!(!features.bitmap().exits(IA32_PERF_CAPABILITIES, true));
        features.xfam = Xfam(3 | Xfam::PT | Xfam::CET);
        assert!(!features.bitmap().exits(IA32_PERF_CAPABILITIES, false));
        assert!(!features.bitmap().exits(0x6A0, true));
        assert!(features.bitmap().exits(IA32_PERF_METRICS, false));
        features.native_perf_metrics = true;
        assert!(!features.bitmap().exits(IA32_PERF_METRICS, false));
    }
}
