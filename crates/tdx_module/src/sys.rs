//! What SYS.INIT and SYS.CONFIG find out about the platform, fixed from then on.

use crate::cpuid::PlatformCpuid;
use crate::msr::VmxCapabilities;
use crate::tdmr::{AddressLimits, Tdmr};
use alloc::vec::Vec;
use x86_arch::{Hkid, Hpa, KeyedHpa};

/// MSRs that SYS.INIT samples and that SYS.LP.INIT compares on every processor.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SampledMsrs {
    /// (address, value) in the order of the comparison.
    pub values: Vec<(u32, u64)>,
}

impl SampledMsrs {
    /// The sampled value; 0 for an MSR that was not sampled.
    pub fn get(&self, msr: u32) -> u64 {
        let found = self.values.iter().find(|(address, _)| *address == msr);
        found.map_or(0, |(_, value)| *value)
    }
}

/// Fixed by a successful TDH.SYS.INIT.
#[derive(Clone, Debug)]
pub struct SysInfo {
    /// How many upper bits of a 52-bit physical address carry the key ID.
    pub keyid_bits: u32,
    /// Private key IDs, inclusive.
    pub hkid_min: u16,
    pub hkid_max: u16,
    pub msrs: SampledMsrs,
    pub cpuid: PlatformCpuid,
    /// VMX capability MSRs.
    pub vmx: VmxCapabilities,
    /// SEAMOPS offers SEAMVERIFYREPORT.
    pub has_verify_report: bool,
    pub cache_wb_sub_blocks: u32,
}

impl SysInfo {
    pub const fn hkid_mask(&self) -> u64 {
        ((1 << self.keyid_bits) - 1) << (52 - self.keyid_bits)
    }
    pub const fn limits(&self) -> AddressLimits {
        AddressLimits {
            hkid_mask: self.hkid_mask(),
        }
    }
    /// Takes an address below 2^52 apart.
    pub const fn split(&self, raw: u64) -> KeyedHpa {
        KeyedHpa::new(
            Hpa::new(raw & !self.hkid_mask()),
            Hkid((raw >> (52 - self.keyid_bits)) as u16),
        )
    }
    /// The address with its key ID, as CR3-like fields hold it.
    pub const fn join(&self, at: KeyedHpa) -> u64 {
        at.hpa.raw() | (at.hkid.0 as u64) << (52 - self.keyid_bits)
    }
    pub const fn is_private_hkid(&self, hkid: u16) -> bool {
        self.hkid_min <= hkid && hkid <= self.hkid_max
    }
}

/// Under the global lock: what SYS.CONFIG collects on the way.
#[derive(Default, Debug)]
pub struct Global {
    /// TDMRs that passed, also those of a call that failed later.
    pub tdmrs: Vec<Tdmr>,
    pub num_init_pkgs: u32,
}
