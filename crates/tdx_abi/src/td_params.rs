//! What the VMM chooses for a TD: TD_PARAMS, the operand of TDH.MNG.INIT, and the words in it.

use crate::Sha384;
use crate::layout::{bytes, flags, named_bits_display, word, word_type};

flags! {
    /// TD attributes: TD_PARAMS, TDCS and TDINFO_STRUCT. The bits that a module allows are in its ATTRIBUTES_FIXED0.
    Attributes: u64 {
        /// The TD is debuggable: the VMM may read and write its memory and registers. In the TUD byte: untrusted.
        0 DEBUG,
        /// EPT violations of private GPAs never become #VE.
        28 SEPT_VE_DISABLE,
        /// The TD may be migrated.
        29 MIGRATABLE,
        /// Supervisor protection keys.
        30 PKS,
        /// Key Locker.
        31 KL,
        /// Performance monitoring.
        63 PERFMON,
    }
}

impl Attributes {
    /// Bits that module 1.5.01 allows to be 1.
    pub const FIXED0: Attributes = Attributes(0x8000_0000_7000_0001);
    /// Bits that make a TD untrusted (the TUD byte).
    pub const TUD: u64 = 0xFF;
}

flags! {
    /// Extended features of a TD, as XCR0 and IA32_XSS bits.
    Xfam: u64 {
        0 X87_FPU_MMX,
        1 SSE,
        2 AVX,
        3 MPX_BNDREG,
        4 MPX_BNDCSR,
        5 AVX3_KMASK,
        6 AVX3_ZMM_HI,
        7 AVX3_ZMM,
        8 PT,
        9 PK,
        10 ENQCMD,
        11 CET_U,
        12 CET_S,
        13 HDC,
        14 ULI,
        15 LBR,
        16 HWP,
        17 AMX_XTILECFG,
        18 AMX_XTILEDATA,
    }
}

impl Xfam {
    /// Bits that module 1.5.01 allows to be 1 (the platform may allow fewer).
    pub const FIXED0: Xfam = Xfam(0x0006_DBE7);
    /// Bits that must be 1: x87 and SSE.
    pub const FIXED1: Xfam = Xfam(3);
}

flags! {
    /// CONFIG_FLAGS of TD_PARAMS and TDCS.
    ConfigFlags: u64 {
        /// The guest physical address is 52 bits wide with the SHARED bit at 51; else 48 and 47.
        0 GPAW,
        /// The guest may choose, by TD_CTLS, whether a pending page gives it a #VE.
        1 FLEXIBLE_PENDING_VE,
        /// TDG.VP.VMCALL must not name RBP.
        2 NO_RBP_MOD,
    }
}

impl ConfigFlags {
    /// Bits that module 1.5.01 allows to be 1.
    pub const FIXED0: ConfigFlags = ConfigFlags(7);
}

word! {
    /// EPTP_CONTROLS of TD_PARAMS: the low bits of an EPT pointer.
    EptpControls: u64 {
        /// Memory type of the paging structures; 6 is write-back.
        2..0 EPT_PS_MT ept_ps_mt with_ept_ps_mt,
        /// Page-walk length minus 1: 3 or 4.
        5..3 EPT_PWL ept_pwl with_ept_pwl,
        6..6 ENABLE_AD_BITS enable_ad_bits with_enable_ad_bits,
        7..7 ENABLE_SSS_CONTROL enable_sss_control with_enable_sss_control,
        51..12 BASE_PA base_pa with_base_pa,
    }
}

word! {
    /// A CPUID leaf and sub-leaf; sub-leaf 0xffffffff: the leaf has none.
    CpuidLeafSubleaf: u64 {
        31..0 LEAF leaf with_leaf,
        63..32 SUBLEAF subleaf with_subleaf,
    }
}

bytes! {
    /// What CPUID returns, in its register order.
    CpuidValues: 0x10 {
        0x0 eax: u32,
        0x4 ebx: u32,
        0x8 ecx: u32,
        0xc edx: u32,
    }
}

bytes! {
    /// A CPUID leaf and sub-leaf with the bits that the VMM may configure.
    CpuidConfig: 0x18 {
        0x0 leaf_subleaf: CpuidLeafSubleaf,
        0x8 values: CpuidValues,
    }
}

flags! {
    /// Which MSRs TD_PARAMS configures.
    MsrConfigCtls: u8 {
        /// IA32_ARCH_CAPABILITIES_CONFIG is valid.
        0 IA32_ARCH_CAP,
    }
}

bytes! {
    /// The operand of TDH.MNG.INIT: 1024 bytes, 1024-aligned, in shared memory. Reserved bytes must be zero.
    TdParams: 0x400 {
        0x000 attributes: Attributes,
        0x008 xfam: Xfam,
        0x010 max_vcpus: u16,
        0x012 num_l2_vms: u8,
        0x013 msr_config_ctls: MsrConfigCtls,
        0x014 reserved_0: [u8; 4],
        0x018 eptp_controls: EptpControls,
        0x020 config_flags: ConfigFlags,
        /// Virtual TSC frequency in units of 25 MHz.
        0x028 tsc_frequency: u16,
        0x02a reserved_1: [u8; 38],
        0x050 mr_config_id: Sha384,
        0x080 mr_owner: Sha384,
        0x0b0 mr_owner_config: Sha384,
        0x0e0 ia32_arch_capabilities_config: u64,
        0x0e8 reserved_2: [u8; 24],
        /// In the order of the module's list of configurable leaves.
        0x100 cpuid_config_vals: [CpuidValues; 12],
        0x1c0 reserved_3: [u8; 576],
    }
}

impl TdParams {
    /// Required alignment of the structure.
    pub const ALIGN: u64 = 1024;
    /// Least and greatest TSC_FREQUENCY, in units of [`Self::TSC_UNIT_HZ`].
    pub const TSC_FREQUENCY_RANGE: core::ops::RangeInclusive<u16> = 4..=400;
    /// The unit of TSC_FREQUENCY: 25 MHz.
    pub const TSC_UNIT_HZ: u64 = 25_000_000;
}
