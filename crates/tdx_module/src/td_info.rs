//! TDINFO_STRUCT and its hash: what a report says about a TD (spec: host-td.md 4.3).

use crate::td::{Hash384, Rtmrs, Td};
use sha2::{Digest, Sha384};

/// Bytes of TDINFO_STRUCT.
pub const SIZE: usize = 512;

impl Td {
    /// TDINFO_STRUCT; the fields of the ignore bitmap are 0 (bit 0 ATTRIBUTES, 1 XFAM, 2 MRTD, 3 MRCONFIGID, 4 MROWNER,
    /// 5 MROWNERCONFIG, 9:6 RTMR0 to RTMR3, 10 SERVTD_HASH).
    pub fn td_info(&self, rtmrs: &Rtmrs, ignore: u64) -> [u8; SIZE] {
        let config = &self.config;
        let mut info = [0; SIZE];
        let mut put = |bit: u32, at: usize, bytes: &[u8]| {
            if ignore >> bit & 1 == 0 {
                info[at..at + bytes.len()].copy_from_slice(bytes);
            }
        };
        put(0, 0, &config.attributes.to_le_bytes());
        put(1, 8, &config.xfam.0.to_le_bytes());
        put(2, 16, &self.measurement.mrtd().0);
        put(3, 64, &config.mrconfigid.0);
        put(4, 112, &config.mrowner.0);
        put(5, 160, &config.mrownerconfig.0);
        for (i, rtmr) in rtmrs.values.iter().enumerate() {
            put(6 + i as u32, 208 + 48 * i, &rtmr.0);
        }
        put(10, 400, &self.servtd_hash.0);
        info
    }
    /// TEE_INFO_HASH over it. That of the whole structure is cached with the RTMRs by whoever holds them exclusively.
    pub fn tee_info_hash(&self, rtmrs: &Rtmrs, ignore: u64) -> Hash384 {
        match rtmrs.tee_info_hash {
            Some(hash) if ignore == 0 => hash,
            _ => Hash384(Sha384::digest(self.td_info(rtmrs, ignore)).into()),
        }
    }
}
