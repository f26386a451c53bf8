//! PAMT: the module's record of what each physical page is used for.

use crate::layout::{named_bits_display, states, word, word_type};

states! {
    /// What a physical page is, as TDH.PHYMEM.PAGE.RDMD reports it.
    PageType: u8 {
        /// Not given to the module.
        Nda = 0 "PT_NDA",
        /// In a reserved area.
        Rsvd = 1 "PT_RSVD",
        /// A private page of a TD.
        Reg = 3 "PT_REG",
        Tdr = 4 "PT_TDR",
        /// A TDCX page: part of TDCS or TDVPS.
        Tdcx = 5 "PT_TDCX",
        Tdvpr = 6 "PT_TDVPR",
        /// A Secure EPT page.
        Ept = 8 "PT_EPT",
    }
}

/// Bytes of a PAMT entry, at each of the three levels (metadata field PAMT_ENTRY_SIZE).
pub const PAMT_ENTRY_SIZE: u64 = 16;

word! {
    /// The TLB epoch (or migration epoch) at which a page was blocked.
    Bepoch: u64 {
        31..0 MIG_EPOCH mig_epoch with_mig_epoch,
        62..32 EXPORT_COUNT export_count with_export_count,
        63..63 MIG_FLAG mig_flag with_mig_flag,
    }
}
