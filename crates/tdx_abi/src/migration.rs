//! Migration bundle metadata (MBMD).

use crate::layout::{bytes, states};

states! {
    /// What a migration bundle holds.
    MigrationBundleType: u8 {
        ImmutableTdState = 0 "MB_TYPE_IMMUTABLE_TD_STATE",
        MutableTdState = 1 "MB_TYPE_MUTABLE_TD_STATE",
        MutableVcpuState = 2 "MB_TYPE_MUTABLE_VCPU_STATE",
        Mem = 16 "MB_TYPE_MEM",
        EpochToken = 32 "MB_TYPE_EPOCH_TOKEN",
        AbortToken = 33 "MB_TYPE_ABORT_TOKEN",
    }
}

bytes! {
    /// The header of every MBMD.
    MbmdHeader: 0x18 {
        0x000 size: u16,
        0x002 mig_version: u16,
        0x004 migs_index: u16,
        0x006 mb_type: u8,
        0x007 reserved_1: u8,
        0x008 mb_counter: u32,
        0x00c mig_epoch: u32,
        0x010 iv_counter: u64,
    }
}

bytes! {
    /// A whole MBMD; what `specific` holds depends on the bundle's type.
    Mbmd: 0x30 {
        0x00 header: MbmdHeader,
        /// MEM: number of GPAs. IMMUTABLE_TD_STATE: NUM_F_MIGS, NUM_SYS_MD_PAGES. VP_STATE: vCPU index.
        /// EPOCH_TOKEN: total of bundles.
        0x18 specific: u64,
        0x20 mac: [u8; 16],
    }
}

impl Mbmd {
    /// Required alignment.
    pub const ALIGN: u64 = 128;
}
