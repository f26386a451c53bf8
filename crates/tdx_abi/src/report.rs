//! TDREPORT_STRUCT and its parts: what TDG.MR.REPORT returns and a quote carries.

use crate::layout::{bytes, named_bits_display, word, word_type};
use crate::{Attributes, Sha384, Xfam};

word! {
    /// The first word of a REPORTMACSTRUCT.
    ReportType: u32 {
        /// 0x81 for a TD, 0 for an SGX enclave.
        7..0 TYPE kind with_kind,
        15..8 SUBTYPE subtype with_subtype,
        /// 1 when service TDs were bound, else 0.
        23..16 VERSION version with_version,
    }
}

impl ReportType {
    /// TYPE of a TD report.
    pub const TDX: u32 = 0x81;
}

bytes! {
    /// The part of a report that its MAC covers (all but MAC itself).
    ReportMacStruct: 0x100 {
        0x000 report_type: ReportType,
        0x004 reserved_0: [u8; 12],
        0x010 cpusvn: [u8; 16],
        /// SHA-384 of TEE_TCB_INFO.
        0x020 tee_tcb_info_hash: Sha384,
        /// SHA-384 of TDINFO_STRUCT.
        0x050 tee_info_hash: Sha384,
        /// What the guest gave.
        0x080 report_data: [u8; 64],
        0x0c0 reserved_1: [u8; 32],
        0x0e0 mac: [u8; 32],
    }
}

bytes! {
    /// The trusted computing base: the module that made the report.
    TeeTcbInfo: 0x100 {
        0x000 valid: u64,
        0x008 tee_tcb_svn: [u8; 16],
        0x018 mr_seam: Sha384,
        0x048 mr_signer_seam: Sha384,
        0x078 attributes: u64,
        0x080 reserved: [u8; 128],
    }
}

impl TeeTcbInfo {
    /// Where modules after 1.5.01 keep TEE_TCB_SVN2 (16 bytes) inside the reserved bytes.
    pub const TEE_TCB_SVN2_OFFSET: usize = 0x80;
}

bytes! {
    /// The TD: attributes and measurements.
    TdInfo: 0x200 {
        0x000 attributes: Attributes,
        0x008 xfam: Xfam,
        0x010 mr_td: Sha384,
        0x040 mr_config_id: Sha384,
        0x070 mr_owner: Sha384,
        0x0a0 mr_owner_config: Sha384,
        0x0d0 rtmr: [Sha384; 4],
        0x190 servtd_hash: Sha384,
        0x1c0 reserved: [u8; 64],
    }
}

bytes! {
    /// What TDG.MR.REPORT writes: 1024 bytes, 1024-aligned.
    TdReport: 0x400 {
        0x000 report_mac_struct: ReportMacStruct,
        0x100 tee_tcb_info: TeeTcbInfo,
        0x200 td_info: TdInfo,
    }
}
