//! The shape of a TD: TD_PARAMS from typed settings (`KVM_TDX_INIT_VM`), checked against the module's limits.

use crate::{HostError, ModuleInfo};

/// EAX, EBX, ECX and EDX of a CPUID leaf.
pub type CpuidValues = [u32; 4];

/// A CPUID leaf that TD_PARAMS configures, and the bits of it that are the host's to choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidConfig {
    pub leaf: u32,
    /// `None` when the leaf has no sub-leaves.
    pub subleaf: Option<u32>,
    pub mask: CpuidValues,
}

impl CpuidConfig {
    /// From CPUID_CONFIG_LEAVES and the two elements of CPUID_CONFIG_VALUES.
    pub(crate) fn from_fields(leaf: u64, low: u64, high: u64) -> Self {
        let subleaf = (leaf >> 32) as u32;
        Self {
            leaf: leaf as u32,
            subleaf: (subleaf != u32::MAX).then_some(subleaf),
            mask: [
                low as u32,
                (low >> 32) as u32,
                high as u32,
                (high >> 32) as u32,
            ],
        }
    }
}

/// TD_PARAMS as settings. The default is a production TD of one vCPU with x87 and SSE state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TdConfig {
    pub attributes: u64,
    pub xfam: u64,
    pub max_vcpus: u16,
    /// Guest physical addresses are 52 bits wide instead of 48.
    pub gpaw_52: bool,
    /// The module leaves RBP alone on TD exits (CONFIG_FLAGS bit 2).
    pub no_rbp_mod: bool,
    /// The guest may change whether unaccepted pages raise #VE (CONFIG_FLAGS bit 1).
    pub flexible_pending_ve: bool,
    /// Virtual TSC frequency in kHz: a multiple of 25 MHz, 100 MHz to 10 GHz.
    pub tsc_khz: u32,
    pub mrconfigid: [u8; 48],
    pub mrowner: [u8; 48],
    pub mrownerconfig: [u8; 48],
    /// Values for configurable leaves: (leaf, sub-leaf, EAX to EDX). Leaves not named here get 0.
    pub cpuid: Vec<(u32, Option<u32>, CpuidValues)>,
}

/// ATTRIBUTES bit 0.
pub(crate) const ATTRIBUTES_DEBUG: u64 = 1;
/// ATTRIBUTES bit 28: an access to an unaccepted page exits instead of raising #VE; Linux demands it.
pub(crate) const ATTRIBUTES_SEPT_VE_DISABLE: u64 = 1 << 28;

impl Default for TdConfig {
    fn default() -> Self {
        Self {
            attributes: ATTRIBUTES_SEPT_VE_DISABLE,
            xfam: 0b11,
            max_vcpus: 1,
            gpaw_52: false,
            no_rbp_mod: true,
            flexible_pending_ve: false,
            tsc_khz: 1_000_000,
            mrconfigid: [0; 48],
            mrowner: [0; 48],
            mrownerconfig: [0; 48],
            cpuid: Vec::new(),
        }
    }
}

impl TdConfig {
    /// Turns ATTRIBUTES.DEBUG on or off.
    pub fn debug(mut self, on: bool) -> Self {
        self.attributes = self.attributes & !ATTRIBUTES_DEBUG | u64::from(on);
        self
    }
    pub fn is_debug(&self) -> bool {
        self.attributes & ATTRIBUTES_DEBUG != 0
    }
    /// The bit of a GPA that selects the shared half: 47, or 51 for 52-bit addresses.
    pub fn shared_bit(&self) -> u64 {
        if self.gpaw_52 { 1 << 51 } else { 1 << 47 }
    }
    /// Levels of Secure EPT and of the shared EPT.
    pub fn ept_levels(&self) -> u8 {
        if self.gpaw_52 { 5 } else { 4 }
    }

    /// One package of `max_vcpus` cores with one thread each in CPUID 0x1F, where the module lets a host choose it and
    /// nothing was chosen. The x2APIC ids of [`crate::Td::add_vcpu`] fit.
    pub fn with_cores(mut self, info: &ModuleInfo) -> Self {
        const LEAF: u32 = 0x1F;
        let offered = |subleaf: &u32| {
            let mut rows = info.cpuid_config.iter();
            rows.any(|row| row.leaf == LEAF && row.subleaf == Some(*subleaf))
        };
        let chosen = self.cpuid.iter().any(|(leaf, ..)| *leaf == LEAF);
        if chosen || ![0, 1].iter().all(offered) {
            return self;
        }
        let cores = u32::from(self.max_vcpus);
        // EAX: bits of the x2APIC id below the next level; EBX: processors; ECX bits 15:8: thread, core.
        let threads = [0, 1, 1 << 8, 0];
        let package = [cores.next_power_of_two().ilog2(), cores, 2 << 8, 0];
        self.cpuid.push((LEAF, Some(0), threads));
        self.cpuid.push((LEAF, Some(1), package));
        self
    }

    /// TD_PARAMS, 1024 bytes (spec: host-td.md 3.4).
    pub(crate) fn to_params(&self, info: &ModuleInfo) -> Result<[u8; 1024], HostError> {
        let outside = |name, bits: u64| match bits {
            0 => Ok(()),
            bits => Err(HostError::Setting { name, bits }),
        };
        outside("ATTRIBUTES", self.attributes & !info.attributes_allowed)?;
        outside("ATTRIBUTES", info.attributes_required & !self.attributes)?;
        outside("XFAM", self.xfam & !info.xfam_allowed)?;
        outside("XFAM", info.xfam_required & !self.xfam)?;
        let tsc = u64::from(self.tsc_khz);
        if tsc % 25_000 != 0 || !(100_000..=10_000_000).contains(&tsc) {
            return Err(HostError::Setting {
                name: "TSC frequency in kHz",
                bits: tsc,
            });
        }
        if self.max_vcpus == 0 {
            return Err(HostError::Setting {
                name: "MAX_VCPUS",
                bits: 0,
            });
        }
        let flags = u64::from(self.gpaw_52)
            | u64::from(self.flexible_pending_ve) << 1
            | u64::from(self.no_rbp_mod) << 2;
        // Write-back, levels - 1 in bits 5:3.
        let eptp = 6 | u64::from(self.ept_levels() - 1) << 3;

        let mut params = [0; 1024];
        let mut put = |at: usize, bytes: &[u8]| params[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.attributes.to_le_bytes());
        put(8, &self.xfam.to_le_bytes());
        put(16, &self.max_vcpus.to_le_bytes());
        put(24, &eptp.to_le_bytes());
        put(32, &flags.to_le_bytes());
        put(40, &((tsc / 25_000) as u16).to_le_bytes());
        put(80, &self.mrconfigid);
        put(128, &self.mrowner);
        put(176, &self.mrownerconfig);
        for (leaf, subleaf, values) in &self.cpuid {
            let row = info
                .cpuid_config
                .iter()
                .position(|row| row.leaf == *leaf && row.subleaf == *subleaf)
                .ok_or(HostError::Setting {
                    name: "CPUID leaf",
                    bits: u64::from(*leaf),
                })?;
            for (i, value) in values.iter().enumerate() {
                put(256 + 16 * row + 4 * i, &value.to_le_bytes());
            }
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ModuleInfo {
        ModuleInfo {
            attributes_allowed: 0x8000_0000_7000_0001,
            xfam_allowed: 0x6_DBE7,
            xfam_required: 3,
            cpuid_config: vec![CpuidConfig::from_fields(
                0xFFFF_FFFF_0000_0001,
                0x00FF_0000_0FFF_3FFF,
                0,
            )],
            ..Default::default()
        }
    }

    #[test]
    fn settings_land_at_their_offsets() {
        let config = TdConfig {
            max_vcpus: 4,
            mrowner: [7; 48],
            cpuid: vec![(1, None, [0x806F8, 1, 2, 3])],
            ..Default::default()
        };
        let params = config.to_params(&info()).unwrap();
        assert_eq!(params[0..8], (1_u64 << 28).to_le_bytes());
        assert_eq!(params[16..18], [4, 0]);
        assert_eq!(params[24], 6 | 3 << 3);
        assert_eq!(params[32], 4, "NO_RBP_MOD");
        assert_eq!(params[40..42], [40, 0], "1 GHz in units of 25 MHz");
        assert_eq!(params[128..176], [7; 48]);
        assert_eq!(params[256..260], 0x806F8_u32.to_le_bytes());
    }

    #[test]
    fn cores_are_told_where_the_module_takes_them() {
        let config = TdConfig {
            max_vcpus: 5,
            ..Default::default()
        };
        assert_eq!(config.clone().with_cores(&info()), config);
        let mut newer = info();
        for subleaf in [0_u64, 1] {
            let leaf = subleaf << 32 | 0x1F;
            let row = CpuidConfig::from_fields(leaf, 0xFFFF_0000_001F, 0xFF00);
            newer.cpuid_config.push(row);
        }
        let told = config.with_cores(&newer);
        assert_eq!(told.cpuid[1], (0x1F, Some(1), [3, 5, 0x200, 0]));
        assert_eq!(told.clone().with_cores(&newer), told, "chosen already");
        let params = told.to_params(&newer).unwrap();
        assert_eq!(params[256 + 32..][..8], [3, 0, 0, 0, 5, 0, 0, 0]);
    }

    #[test]
    fn what_the_module_does_not_allow_is_named() {
        let refuse = |config: TdConfig| match config.to_params(&info()) {
            Err(HostError::Setting { name, bits }) => (name, bits),
            other => panic!("{other:?}"),
        };
        let default = TdConfig::default;
        assert_eq!(
            refuse(TdConfig {
                attributes: 2,
                ..default()
            }),
            ("ATTRIBUTES", 2)
        );
        assert_eq!(
            refuse(TdConfig {
                xfam: 1,
                ..default()
            }),
            ("XFAM", 2)
        );
        assert_eq!(
            refuse(TdConfig {
                xfam: 1 << 40 | 3,
                ..default()
            }),
            ("XFAM", 1 << 40)
        );
        assert_eq!(
            refuse(TdConfig {
                max_vcpus: 0,
                ..default()
            })
            .0,
            "MAX_VCPUS"
        );
        let odd = TdConfig {
            tsc_khz: 1_000_001,
            ..default()
        };
        assert_eq!(refuse(odd), ("TSC frequency in kHz", 1_000_001));
        let cpuid = vec![(6, None, [0; 4])];
        assert_eq!(refuse(TdConfig { cpuid, ..default() }), ("CPUID leaf", 6));
    }
}
