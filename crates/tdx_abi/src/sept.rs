//! Secure EPT: states of an entry, their encodings, and what the leaves report of an entry
//! (spec: host-memory.md).

use core::fmt;

use crate::layout::{named_bits_display, states, word, word_type};

/// The level of a Secure EPT entry: 0 maps 4 KiB, 1 2 MiB, 2 1 GiB; 3 and 4 map no page.
pub const SEPT_LEVELS: u8 = 5;

states! {
    /// State of an L1 Secure EPT entry. The number is the one that leaves report (RDX bits 15:8; bit 7: not a leaf).
    SeptState: u8 {
        Free = 0x00 "FREE",
        Removed = 0x05 "REMOVED",
        NlMapped = 0x84 "NL_MAPPED",
        NlBlocked = 0x81 "NL_BLOCKED",
        Mapped = 0x04 "MAPPED",
        Blocked = 0x01 "BLOCKED",
        Blockedw = 0x08 "BLOCKEDW",
        ExportedBlockedw = 0x09 "EXPORTED_BLOCKEDW",
        ExportedDirty = 0x0b "EXPORTED_DIRTY",
        ExportedDirtyBlockedw = 0x0c "EXPORTED_DIRTY_BLOCKEDW",
        Pending = 0x02 "PENDING",
        PendingBlocked = 0x03 "PENDING_BLOCKED",
        PendingBlockedw = 0x10 "PENDING_BLOCKEDW",
        PendingExportedBlockedw = 0x11 "PENDING_EXPORTED_BLOCKEDW",
        PendingExportedDirty = 0x13 "PENDING_EXPORTED_DIRTY",
        PendingExportedDirtyBlockedw = 0x14 "PENDING_EXPORTED_DIRTY_BLOCKEDW",
    }
}

impl SeptState {
    /// The state bits of the entry itself (D 9, TDEX 53, TDBW 54, TDB 55, TDP 56, IPAT 6, PS 7).
    pub const fn entry_bits(self) -> u64 {
        match self {
            SeptState::Free => 0x00e0_0000_0000_0000,
            SeptState::Removed => 0x00c0_0000_0000_0000,
            SeptState::NlMapped => 0x0000_0000_0000_0000,
            SeptState::NlBlocked => 0x0080_0000_0000_0000,
            SeptState::Mapped => 0x0000_0000_0000_00c0,
            SeptState::Blocked => 0x0080_0000_0000_00c0,
            SeptState::Blockedw => 0x0040_0000_0000_00c0,
            SeptState::ExportedBlockedw => 0x0060_0000_0000_00c0,
            SeptState::ExportedDirty => 0x0020_0000_0000_02c0,
            SeptState::ExportedDirtyBlockedw => 0x0060_0000_0000_02c0,
            SeptState::Pending => 0x0100_0000_0000_00c0,
            SeptState::PendingBlocked => 0x0180_0000_0000_00c0,
            SeptState::PendingBlockedw => 0x0140_0000_0000_00c0,
            SeptState::PendingExportedBlockedw => 0x0160_0000_0000_00c0,
            SeptState::PendingExportedDirty => 0x0120_0000_0000_02c0,
            SeptState::PendingExportedDirtyBlockedw => 0x0160_0000_0000_02c0,
        }
    }
    /// The bits of an entry that hold its state.
    pub const STATE_MASK: u64 = 0x01E0_0000_0000_02C0;
    /// The state that an entry is in, if its bits are one.
    pub fn of_entry(entry: u64) -> Option<SeptState> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| state.entry_bits() == entry & Self::STATE_MASK)
    }
    /// Blocked for all access.
    pub const fn any_blocked(self) -> bool {
        matches!(
            self,
            SeptState::NlBlocked | SeptState::Blocked | SeptState::PendingBlocked
        )
    }
    /// Blocked for writing.
    pub const fn any_blockedw(self) -> bool {
        matches!(
            self,
            SeptState::Blockedw
                | SeptState::ExportedBlockedw
                | SeptState::ExportedDirtyBlockedw
                | SeptState::PendingBlockedw
                | SeptState::PendingExportedBlockedw
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// Waits for TDG.MEM.PAGE.ACCEPT.
    pub const fn any_pending(self) -> bool {
        matches!(
            self,
            SeptState::Pending
                | SeptState::PendingBlocked
                | SeptState::PendingBlockedw
                | SeptState::PendingExportedBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// Pending, and TDG.MEM.PAGE.ACCEPT would take it.
    pub const fn any_pending_and_guest_acceptable(self) -> bool {
        matches!(self, SeptState::Pending | SeptState::PendingExportedDirty)
    }
    /// Exported in this session.
    pub const fn any_exported(self) -> bool {
        matches!(
            self,
            SeptState::ExportedBlockedw
                | SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
                | SeptState::PendingExportedBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// Exported, and written since.
    pub const fn any_exported_and_dirty(self) -> bool {
        matches!(
            self,
            SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// Exported, and not written since.
    pub const fn any_exported_and_non_dirty(self) -> bool {
        matches!(
            self,
            SeptState::ExportedBlockedw | SeptState::PendingExportedBlockedw
        )
    }
    /// The guest may at least read.
    pub const fn guest_accessible_leaf(self) -> bool {
        matches!(
            self,
            SeptState::Mapped
                | SeptState::Blockedw
                | SeptState::ExportedBlockedw
                | SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
        )
    }
    /// The guest may read, write and execute.
    pub const fn guest_fully_accessible_leaf(self) -> bool {
        matches!(self, SeptState::Mapped | SeptState::ExportedDirty)
    }
    /// Changing the entry needs blocking and TLB tracking.
    pub const fn tlb_tracking_required(self) -> bool {
        matches!(
            self,
            SeptState::NlMapped
                | SeptState::NlBlocked
                | SeptState::Mapped
                | SeptState::Blocked
                | SeptState::Blockedw
                | SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
                | SeptState::Pending
                | SeptState::PendingBlocked
                | SeptState::PendingBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// MAPPED or PENDING.
    pub const fn mapped_or_pending(self) -> bool {
        matches!(self, SeptState::Mapped | SeptState::Pending)
    }
    /// TDH.EXPORT.MEM may export it for the first time.
    pub const fn first_time_export_allowed(self) -> bool {
        matches!(
            self,
            SeptState::Mapped
                | SeptState::Blockedw
                | SeptState::Pending
                | SeptState::PendingBlockedw
        )
    }
    /// TDH.EXPORT.MEM may export it again.
    pub const fn re_export_allowed(self) -> bool {
        matches!(
            self,
            SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// TDH.EXPORT.MEM may cancel its export.
    pub const fn export_cancel_allowed(self) -> bool {
        matches!(
            self,
            SeptState::ExportedBlockedw
                | SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
                | SeptState::PendingExportedBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// May be exported while the TD is paused.
    pub const fn paused_export_allowed(self) -> bool {
        matches!(
            self,
            SeptState::Mapped
                | SeptState::Blockedw
                | SeptState::ExportedBlockedw
                | SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedw
                | SeptState::Pending
                | SeptState::PendingBlockedw
                | SeptState::PendingExportedBlockedw
                | SeptState::PendingExportedDirty
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// May be exported while the TD runs.
    pub const fn live_export_allowed(self) -> bool {
        matches!(
            self,
            SeptState::Blockedw
                | SeptState::ExportedBlockedw
                | SeptState::ExportedDirtyBlockedw
                | SeptState::PendingBlockedw
                | SeptState::PendingExportedBlockedw
                | SeptState::PendingExportedDirtyBlockedw
        )
    }
    /// TDH.IMPORT.MEM may import over it for the first time.
    pub const fn first_time_import_allowed(self) -> bool {
        matches!(self, SeptState::Free | SeptState::Removed)
    }
    /// TDH.IMPORT.MEM may import over it again.
    pub const fn re_import_allowed(self) -> bool {
        matches!(self, SeptState::Mapped | SeptState::Pending)
    }
    /// TDH.IMPORT.MEM may cancel its import.
    pub const fn import_cancel_allowed(self) -> bool {
        matches!(self, SeptState::Mapped | SeptState::Pending)
    }
    /// The entry maps a page.
    pub const fn is_leaf(self) -> bool {
        self.entry_bits() & 0x80 != 0
    }
}

states! {
    /// State of an L2 Secure EPT entry, numbered as leaves report it.
    L2SeptState: u8 {
        Free = 0x40 "L2_FREE",
        NlMapped = 0xc4 "L2_NL_MAPPED",
        NlBlocked = 0xc1 "L2_NL_BLOCKED",
        Mapped = 0x44 "L2_MAPPED",
        Blocked = 0x41 "L2_BLOCKED",
    }
}

word! {
    /// RDX that the Secure EPT leaves return: where the walk ended and the entry's state.
    SeptEntryInfo: u64 {
        2..0 LEVEL level with_level,
        15..8 STATE state with_state,
        /// 0 for L1, else the L2 VM.
        17..16 VM vm with_vm,
    }
}

word! {
    /// An L1 Secure EPT entry. Bits 11 and above 51 are the module's own bookkeeping; the leaves report only
    /// the bits of [`Self::LEAF_MASK`] or [`Self::NON_LEAF_MASK`].
    SeptEntry: u64 {
        0..0 R readable with_readable,
        1..1 W writable with_writable,
        2..2 X executable with_executable,
        5..3 MT memory_type with_memory_type,
        6..6 IPAT ipat with_ipat,
        7..7 LEAF leaf with_leaf,
        8..8 A accessed with_accessed,
        9..9 D dirty with_dirty,
        11..11 TDEL tdel with_tdel,
        /// Bits 51:12 of the host physical address.
        51..12 BASE base with_base,
        52..52 HP host_priority with_host_priority,
        53..53 TDEX tdex with_tdex,
        54..54 TDBW tdbw with_tdbw,
        55..55 TDB tdb with_tdb,
        56..56 TDP tdp with_tdp,
        57..57 VPW vpw with_vpw,
        58..58 PW pw with_pw,
        60..60 SSS_TDSA sss_tdsa with_sss_tdsa,
        61..61 TDUP tdup with_tdup,
        /// EPT violations of this entry exit instead of giving a #VE.
        63..63 SUPP_VE suppress_ve with_suppress_ve,
    }
}

impl SeptEntry {
    /// A FREE entry as it lies in a Secure EPT page.
    pub const FREE: SeptEntry = SeptEntry(0x80E0_0000_0000_0000);
    /// A FREE entry as the leaves report it.
    pub const FREE_REPORTED: SeptEntry = SeptEntry(1 << 63);
    /// Bits of a leaf entry that the leaves report.
    pub const LEAF_MASK: u64 = 0x800F_FFFF_FFFF_F0FF;
    /// Bits of a non-leaf entry that the leaves report.
    pub const NON_LEAF_MASK: u64 = 0x87;
    /// Bits of an L2 leaf entry that the leaves report for a production TD, ...
    pub const L2_LEAF_MASK: u64 = 0x800F_FFFF_FFFF_F0F8;
    /// ... for a DEBUG TD, ...
    pub const L2_LEAF_DEBUG_MASK: u64 = 0x960F_FFFF_FFFF_F4FF;
    /// ... and of an L2 entry that is not a leaf.
    pub const L2_NON_LEAF_MASK: u64 = 0x487;
}

/// The state of an entry at L1 or L2 as the leaves report it in one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportedSeptState {
    L1(SeptState),
    L2(L2SeptState),
}

impl ReportedSeptState {
    /// Reads RDX bits 15:8.
    pub const fn from_raw(raw: u8) -> Option<ReportedSeptState> {
        match (SeptState::from_raw(raw), L2SeptState::from_raw(raw)) {
            (Some(state), _) => Some(ReportedSeptState::L1(state)),
            (None, Some(state)) => Some(ReportedSeptState::L2(state)),
            (None, None) => None,
        }
    }
}

impl fmt::Display for ReportedSeptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReportedSeptState::L1(state) => fmt::Display::fmt(state, f),
            ReportedSeptState::L2(state) => fmt::Display::fmt(state, f),
        }
    }
}
