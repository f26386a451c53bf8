//! What the platform and the module tell the VMM, and what it answers at TDH.SYS.CONFIG:
//! CMR_INFO, TDSYSINFO_STRUCT, TDX_FEATURES0 and TDMR_INFO.

use crate::CpuidConfig;
use crate::layout::{bytes, flags, named_bits_display, word_type};

bytes! {
    /// A convertible memory range; size 0 marks an unused entry.
    CmrInfo: 0x10 {
        /// Host physical address.
        0x000 cmr_base: u64,
        /// Bytes.
        0x008 cmr_size: u64,
    }
}

impl CmrInfo {
    /// Entries of a platform's CMR array.
    pub const MAX: usize = 32;
}

bytes! {
    /// A reserved area of a TDMR; size 0 marks an unused entry.
    ReservedArea: 0x10 {
        /// Bytes from the base of the TDMR.
        0x0 offset: u64,
        /// Bytes.
        0x8 size: u64,
    }
}

bytes! {
    /// One TD memory region as TDH.SYS.CONFIG takes it: where it is, where its PAMT is, and what of it the module must not use.
    TdmrInfo: 0x140 {
        0x000 tdmr_base: u64,
        0x008 tdmr_size: u64,
        0x010 pamt_1g_base: u64,
        0x018 pamt_1g_size: u64,
        0x020 pamt_2m_base: u64,
        0x028 pamt_2m_size: u64,
        0x030 pamt_4k_base: u64,
        0x038 pamt_4k_size: u64,
        0x040 rsvd_areas: [ReservedArea; 16],
    }
}

impl TdmrInfo {
    /// TDMRs of a module 1.5.01.
    pub const MAX: usize = 64;
    /// Required alignment of each entry.
    pub const ALIGN: u64 = 512;
    /// Reserved areas of one TDMR.
    pub const MAX_RESERVED_AREAS: usize = 16;
    /// Base and size of a TDMR are multiples of 1 GiB.
    pub const GRANULE: u64 = 1 << 30;
}

flags! {
    /// Attributes of the module.
    SysInfoAttributes: u32 {
        31 DEBUG_MODULE,
    }
}

flags! {
    /// What the module can do (metadata field TDX_FEATURES0).
    TdxFeatures0: u64 {
        0 TD_MIGRATION,
        1 TD_PRESERVING,
        2 SERVICE_TD,
        3 TDG_VP_RDWR,
        4 RELAXED_MEM_MNG_CONCURRENCY,
        5 CPUID_VIRT_GUEST_CTRL,
        7 TD_PARTITIONING,
        8 LOCAL_ATTESTATION,
        9 TD_ENTRY_ENHANCEMENTS,
        10 HOST_PRIORITY_LOCKS,
        11 CONFIG_IA32_ARCH_CAP,
        16 PENDING_EPT_VIOLATION_V2,
        17 FMS_CONFIG,
        18 NO_RBP_MOD,
        19 L2_TLB_INVD_OPT,
    }
}

bytes! {
    /// What TDH.SYS.INFO returns. Newer hosts read the metadata fields instead.
    TdSysInfo: 0x400 {
        0x000 attributes: SysInfoAttributes,
        0x004 vendor_id: u32,
        0x008 build_date: u32,
        0x00c build_num: u16,
        0x00e minor_version: u16,
        0x010 major_version: u16,
        0x012 sys_rd: u8,
        0x013 reserved_0: [u8; 13],
        0x020 max_tdmrs: u16,
        0x022 max_reserved_per_tdmr: u16,
        0x024 pamt_entry_size: u16,
        0x026 reserved_1: [u8; 10],
        0x030 tdcs_base_size: u16,
        0x032 reserved_2: [u8; 2],
        0x034 tdvps_base_size: u16,
        0x036 tdvps_xfam_dependent_size: u8,
        0x037 reserved_3: [u8; 9],
        0x040 attributes_fixed0: u64,
        0x048 attributes_fixed1: u64,
        0x050 xfam_fixed0: u64,
        0x058 xfam_fixed1: u64,
        0x060 reserved_4: [u8; 32],
        0x080 num_cpuid_config: u32,
        0x084 cpuid_config_list: [CpuidConfig; 12],
        0x1a4 reserved_5: [u8; 604],
    }
}
