//! Module releases as values: a newer one is another row here, never a fork of a leaf.

/// What tells one release of the module from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The name that `--module` takes.
    pub name: &'static str,
    pub major: u16,
    pub minor: u16,
    pub build_num: u16,
    /// Decimal digits YYYYMMDD, as TDSYSINFO shows it.
    pub build_date: u32,
    /// TDX_FEATURES0 without the bits that depend on the platform.
    pub features0: u64,
    /// Highest version of TDH.VP.INIT; version 1 takes the x2APIC id in R8.
    pub vp_init_version: u8,
    /// MAX_VCPUS_PER_TD as a system field, if the release has the field.
    pub max_vcpus_per_td: Option<u16>,
    /// CONFIG_FLAGS.NO_RBP_MOD keeps RBP on every return. 1.5.01 honours it on TDVMCALL exits only.
    pub keeps_rbp: bool,
}

impl Profile {
    /// TDX_FEATURES0 bit 8: local attestation, only where the CPU has SEAMVERIFYREPORT.
    pub const LOCAL_ATTESTATION: u64 = 1 << 8;
    /// TDX_FEATURES0 bit 20: topology enumeration.
    pub const TOPOLOGY: u64 = 1 << 20;

    /// Intel's release 1.5.01, exact: the reference for replay.
    pub const V1_5_01: Profile = Profile {
        name: "1.5.01",
        major: 1,
        minor: 5,
        build_num: 0,
        build_date: 20_240_222,
        features0: 0x000F_0EBF,
        vp_init_version: 0,
        max_vcpus_per_td: None,
        keeps_rbp: false,
    };

    /// 1.5.01 and what today's Linux host code asks for beyond it (spec: tdx-abi/README.md, "Known differences").
    pub const V1_5_LINUX: Profile = Profile {
        name: "1.5-linux",
        build_num: 1,
        features0: Self::V1_5_01.features0 | Self::TOPOLOGY,
        vp_init_version: 1,
        max_vcpus_per_td: Some(0xFFFF),
        keeps_rbp: true,
        ..Self::V1_5_01
    };

    /// The guest may ask for its vCPUs' x2APIC ids and for CPUID 0xB and 0x1F.
    pub const fn has_topology(&self) -> bool {
        self.features0 & Self::TOPOLOGY != 0
    }

    /// Every profile, oldest first; the last one is the default.
    pub const ALL: [&'static Profile; 2] = [&Self::V1_5_01, &Self::V1_5_LINUX];

    pub fn by_name(name: &str) -> Option<&'static Profile> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }
}
