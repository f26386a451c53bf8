//! The metadata fields that the host library reads and writes (ABI metadata tables).

/// Fields of TDH.SYS.RD.
pub(crate) mod sys {
    pub(crate) const MINOR_VERSION: u64 = 0x0800_0001_0000_0003;
    pub(crate) const MAJOR_VERSION: u64 = 0x0800_0001_0000_0004;
    pub(crate) const UPDATE_VERSION: u64 = 0x0800_0001_0000_0005;
    pub(crate) const TDX_FEATURES0: u64 = 0x0A00_0003_0000_0008;
    pub(crate) const MAX_TDMRS: u64 = 0x9100_0001_0000_0008;
    pub(crate) const MAX_RESERVED_PER_TDMR: u64 = 0x9100_0001_0000_0009;
    pub(crate) const PAMT_4K_ENTRY_SIZE: u64 = 0x9100_0001_0000_0010;
    pub(crate) const PAMT_2M_ENTRY_SIZE: u64 = 0x9100_0001_0000_0011;
    pub(crate) const PAMT_1G_ENTRY_SIZE: u64 = 0x9100_0001_0000_0012;
    pub(crate) const TDCS_BASE_SIZE: u64 = 0x9800_0001_0000_0100;
    pub(crate) const TDVPS_BASE_SIZE: u64 = 0x9800_0001_0000_0200;
    pub(crate) const ATTRIBUTES_FIXED0: u64 = 0x1900_0003_0000_0000;
    pub(crate) const ATTRIBUTES_FIXED1: u64 = 0x1900_0003_0000_0001;
    pub(crate) const XFAM_FIXED0: u64 = 0x1900_0003_0000_0002;
    pub(crate) const XFAM_FIXED1: u64 = 0x1900_0003_0000_0003;
    pub(crate) const NUM_CPUID_CONFIG: u64 = 0x9900_0001_0000_0004;
    /// + index: leaf in 31:0, sub-leaf in 63:32 (all ones: none).
    pub(crate) const CPUID_CONFIG_LEAVES: u64 = 0x9900_0003_0000_0400;
    /// + 2 * index + {0: EAX, EBX; 1: ECX, EDX}: directly configurable bits.
    pub(crate) const CPUID_CONFIG_VALUES: u64 = 0x9900_0003_0000_0500;
    pub(crate) const NUM_CMRS: u64 = 0x9000_0001_0000_0000;
    pub(crate) const CMR_BASE: u64 = 0x9000_0003_0000_0080;
    pub(crate) const CMR_SIZE: u64 = 0x9000_0003_0000_0100;
}

/// Fields of TDH.MNG.RD.
pub(crate) mod td {
    pub(crate) const MRTD: u64 = 0x1310_0003_0000_0000;
    pub(crate) const TSC_OFFSET: u64 = 0x1110_0003_0000_000A;
    pub(crate) const TSC_MULTIPLIER: u64 = 0x1110_0003_0000_000B;
}

/// Fields of TDH.VP.RD and TDH.VP.WR.
pub(crate) mod vp {
    pub(crate) const POSTED_VECTOR: u64 = 0x0024_0001_0000_0002;
    pub(crate) const POSTED_DESCRIPTOR: u64 = 0x0024_0003_0000_2016;
    pub(crate) const SHARED_EPTP: u64 = 0x0024_0003_0000_203C;
    pub(crate) const PIN_CONTROLS: u64 = 0x0024_0002_0000_4000;
    /// Bit 7 of the pin controls: process posted interrupts.
    pub(crate) const PIN_POSTED_INTERRUPTS: u64 = 1 << 7;
    pub(crate) const PEND_NMI: u64 = 0x2020_0000_0000_000B;
    /// Bit 0: an interrupt could be delivered (VMXIP).
    pub(crate) const VCPU_STATE_DETAILS: u64 = 0x9120_0003_0000_0100;
}
