//! One Secure-EPT entry: its states, their encoding in the entry's bits, and what software is shown of it.

use x86_arch::{EptPermissions, Hpa};

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $index:literal, $encoding:literal, $public:literal;)*) => {
        /// The state of an L1 entry; the number is the index in the tables of the specification.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum SeptState { $($(#[$doc])* $name = $index,)* }

        impl SeptState {
            pub const ALL: [SeptState; 16] = [$(SeptState::$name,)*];

            /// The bits {D, TDEX, TDBW, TDB, TDP, IPAT, PS} of the state.
            pub const fn encoding(self) -> u8 {
                match self { $(SeptState::$name => $encoding,)* }
            }
            /// The number that software sees in RDX bits 15:8.
            pub const fn public(self) -> u8 {
                match self { $(SeptState::$name => $public,)* }
            }
            const fn of_encoding(encoding: u8) -> Option<SeptState> {
                match encoding { $($encoding => Some(SeptState::$name),)* _ => None }
            }
        }
    };
}

states! {
    Free = 0, 0x0E, 0;
    Removed = 1, 0x0C, 5;
    NlMapped = 2, 0x00, 132;
    NlBlocked = 3, 0x08, 129;
    Mapped = 4, 0x60, 4;
    Blocked = 5, 0x68, 1;
    BlockedW = 6, 0x64, 8;
    ExportedBlockedW = 7, 0x66, 9;
    ExportedDirty = 8, 0x63, 11;
    ExportedDirtyBlockedW = 9, 0x67, 12;
    Pending = 10, 0x70, 2;
    PendingBlocked = 11, 0x78, 3;
    PendingBlockedW = 12, 0x74, 16;
    PendingExportedBlockedW = 13, 0x76, 17;
    PendingExportedDirty = 14, 0x73, 19;
    PendingExportedDirtyBlockedW = 15, 0x77, 20;
}

/// A set of entry states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeptStates(u16);

impl SeptStates {
    pub const ALL: SeptStates = SeptStates(0xFFFF);
    pub const NONE: SeptStates = SeptStates(0);

    pub const fn of(states: &[SeptState]) -> SeptStates {
        let mut set = 0;
        let mut i = 0;
        while i < states.len() {
            set |= 1 << states[i] as u16;
            i += 1;
        }
        SeptStates(set)
    }
    pub const fn without(self, states: &[SeptState]) -> SeptStates {
        SeptStates(self.0 & !Self::of(states).0)
    }
    pub const fn contains(self, state: SeptState) -> bool {
        self.0 & 1 << state as u16 != 0
    }
}

const TLB_TRACKING: SeptStates = SeptStates::ALL.without(&[
    SeptState::Free,
    SeptState::Removed,
    SeptState::ExportedBlockedW,
    SeptState::PendingExportedBlockedW,
]);
const ANY_BLOCKED: SeptStates = SeptStates(1 << 3 | 1 << 5 | 1 << 11);
const ANY_BLOCKED_W: SeptStates =
    SeptStates(1 << 6 | 1 << 7 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15);

impl SeptState {
    pub const fn needs_tlb_tracking(self) -> bool {
        TLB_TRACKING.contains(self)
    }
    pub const fn is_blocked(self) -> bool {
        ANY_BLOCKED.contains(self)
    }
    pub const fn is_blocked_for_writing(self) -> bool {
        ANY_BLOCKED_W.contains(self)
    }
    pub const fn is_pending(self) -> bool {
        self as u8 >= 10
    }
    /// A pending page that the guest may accept.
    pub const fn is_acceptable(self) -> bool {
        matches!(self, SeptState::Pending | SeptState::PendingExportedDirty)
    }
    pub const fn is_leaf(self) -> bool {
        self as u8 >= 4
    }
    pub const fn is_guest_accessible(self) -> bool {
        matches!(
            self,
            SeptState::Mapped
                | SeptState::BlockedW
                | SeptState::ExportedBlockedW
                | SeptState::ExportedDirty
                | SeptState::ExportedDirtyBlockedW
        )
    }
}

/// A raw L1 Secure-EPT entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SeptEntry(pub u64);

const RWX: u64 = 0b111;
const MEMORY_TYPE: u64 = 0b111 << 3;
const WRITE_BACK: u64 = 6 << 3;
const IPAT: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const LOCK: u64 = 1 << 11;
const HPA: u64 = 0x000F_FFFF_FFFF_F000;
/// Of a 2 MiB pending leaf: how many 4 KiB chunks the guest has accepted.
const ACCEPT_COUNTER: u64 = 0x1F_F000;
const HOST_PRIORITY: u64 = 1 << 52;
const ALIASES: u64 = 0b111 << 58;
const SUPPRESS_VE: u64 = 1 << 63;

impl SeptEntry {
    /// A free entry.
    pub const FREE: SeptEntry = SeptEntry(0x80E0_0000_0000_0000);
    pub const LOCK: u64 = LOCK;
    pub const HOST_PRIORITY: u64 = HOST_PRIORITY;

    const fn state_bits(state: SeptState) -> u64 {
        let e = state.encoding() as u64;
        (e & 1) << 9
            | (e >> 1 & 1) << 53
            | (e >> 2 & 1) << 54
            | (e >> 3 & 1) << 55
            | (e >> 4 & 1) << 56
            | (e >> 5 & 1) << 6
            | (e >> 6 & 1) << 7
    }
    /// An entry of a leaf page in this state: RWX where the guest may use it.
    pub const fn leaf(state: SeptState, page: Hpa) -> SeptEntry {
        let rwx = match state {
            SeptState::Mapped => RWX,
            _ => 0,
        };
        SeptEntry(rwx | Self::state_bits(state) | WRITE_BACK | page.raw() & HPA | SUPPRESS_VE)
    }
    /// An entry that leads to a further Secure-EPT page.
    pub const fn table(page: Hpa) -> SeptEntry {
        SeptEntry(RWX | page.raw() & HPA | SUPPRESS_VE)
    }
    /// REMOVED: remembers the migration epoch in which it was removed.
    pub const fn removed(epoch: u32) -> SeptEntry {
        SeptEntry(
            Self::state_bits(SeptState::Removed) | SUPPRESS_VE | (epoch as u64) << 12 | 1 << 44,
        )
    }
    pub const fn state(self) -> Option<SeptState> {
        let r = self.0;
        let encoding = (r >> 9 & 1)
            | (r >> 53 & 1) << 1
            | (r >> 54 & 1) << 2
            | (r >> 55 & 1) << 3
            | (r >> 56 & 1) << 4
            | (r >> 6 & 1) << 5
            | (r >> 7 & 1) << 6;
        SeptState::of_encoding(encoding as u8)
    }
    pub const fn hpa(self) -> Hpa {
        Hpa::new(self.0 & HPA)
    }
    /// The page it names: of a leaf at `level` without what its low bits hold besides (the accept counter).
    pub const fn page(self, level: u8) -> Hpa {
        match self.is_leaf() {
            true => Hpa::new(self.0 & HPA & !((4096 << (9 * level as u32)) - 1)),
            false => self.hpa(),
        }
    }
    /// L2 VM `vm` (from 1) has an alias.
    pub const fn with_alias(self, vm: usize) -> SeptEntry {
        SeptEntry(self.0 | 1 << (57 + vm))
    }
    pub const fn is_leaf(self) -> bool {
        self.0 & PS != 0
    }
    pub const fn permissions(self) -> EptPermissions {
        EptPermissions {
            read: self.0 & 1 != 0,
            write: self.0 & 2 != 0,
            execute: self.0 & 4 != 0,
        }
    }
    /// Any of R, W, X.
    pub const fn is_accessible(self) -> bool {
        self.0 & RWX != 0
    }
    pub const fn is_locked(self) -> bool {
        self.0 & LOCK != 0
    }
    /// Without the lock and host-priority bits: what the entry means.
    pub const fn unlocked(self) -> SeptEntry {
        SeptEntry(self.0 & !(LOCK | HOST_PRIORITY))
    }
    /// L2 VMs that alias the entry: bit n-1 for VM n.
    pub const fn aliases(self) -> u8 {
        (self.0 >> 58 & 7) as u8
    }
    pub const fn without_alias(self, vm: usize) -> SeptEntry {
        SeptEntry(self.0 & !(1 << (57 + vm)))
    }
    pub const fn without_aliases(self) -> SeptEntry {
        SeptEntry(self.0 & !ALIASES)
    }
    /// How many chunks of a 2 MiB pending leaf are accepted.
    pub const fn accept_counter(self) -> u16 {
        (self.0 >> 12 & 0x1FF) as u16
    }
    pub const fn with_accept_counter(self, chunks: u16) -> SeptEntry {
        SeptEntry(self.0 & !ACCEPT_COUNTER | (chunks as u64) << 12 & ACCEPT_COUNTER)
    }
    /// The same entry for another page.
    pub const fn with_hpa(self, page: Hpa) -> SeptEntry {
        SeptEntry(self.0 & !HPA | page.raw() & HPA)
    }
    /// The same page in another state; permissions are not touched.
    pub const fn with_state(self, state: SeptState) -> SeptEntry {
        const STATE: u64 = 1 << 9 | IPAT | PS | 0xF << 53;
        SeptEntry(self.0 & !STATE | Self::state_bits(state) | SUPPRESS_VE)
    }
    /// With R, W and X all set or all clear.
    pub const fn with_access(self, on: bool) -> SeptEntry {
        SeptEntry(self.0 & !RWX | if on { RWX } else { 0 })
    }
    pub const fn with_memory_type(self, write_back: bool) -> SeptEntry {
        SeptEntry(self.0 & !MEMORY_TYPE | if write_back { WRITE_BACK } else { 0 })
    }

    /// RANGE.BLOCK (spec: host-memory.md 1.3).
    pub const fn blocked(self, level: u8) -> SeptEntry {
        let Some(state) = self.state() else {
            return self;
        };
        match state {
            SeptState::NlMapped => self.with_state(SeptState::NlBlocked).with_access(false),
            SeptState::Mapped | SeptState::BlockedW => {
                self.with_state(SeptState::Blocked).with_access(false)
            }
            SeptState::Pending | SeptState::PendingBlockedW => {
                let entry = self.with_state(SeptState::PendingBlocked);
                if level == 1 {
                    entry.with_accept_counter(0)
                } else {
                    entry
                }
            }
            _ => self,
        }
    }
    /// RANGE.UNBLOCK; other states keep their state.
    pub const fn unblocked(self) -> SeptEntry {
        let Some(state) = self.state() else {
            return self;
        };
        match state {
            SeptState::NlBlocked => self
                .with_state(SeptState::NlMapped)
                .with_access(true)
                .with_memory_type(false),
            SeptState::Blocked => self
                .with_state(SeptState::Mapped)
                .with_access(true)
                .with_memory_type(true),
            SeptState::PendingBlocked => self.with_state(SeptState::Pending),
            _ => self,
        }
    }

    /// What software is shown of the entry (spec: host-memory.md 2).
    pub const fn architectural(self) -> u64 {
        match self.state() {
            Some(SeptState::Free) => SUPPRESS_VE,
            _ if self.is_leaf() => self.0 & (RWX | MEMORY_TYPE | IPAT | PS | HPA | SUPPRESS_VE),
            _ => self.0 & (RWX | PS),
        }
    }
    /// RCX and RDX of a failed walk or of SEPT.RD, for an L1 entry at `level`.
    pub const fn details(self, level: u8) -> Details {
        let state = match self.state() {
            Some(state) => state.public(),
            None => 0,
        };
        Details {
            entry: self.architectural(),
            level_and_state: level as u64 | (state as u64) << 8,
        }
    }
}

impl core::fmt::Debug for SeptEntry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.state() {
            Some(state) => write!(f, "{state:?}[{:#x}]", self.0),
            None => write!(f, "?[{:#x}]", self.0),
        }
    }
}

/// The two words that describe an entry to software: RCX and RDX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Details {
    pub entry: u64,
    /// Level in 2:0, public state in 15:8, VM in 17:16.
    pub level_and_state: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back_from_its_own_bits() {
        for state in SeptState::ALL {
            let entry = SeptEntry::FREE.with_state(state);
            assert_eq!(entry.state(), Some(state));
        }
        assert_eq!(SeptEntry::FREE.state(), Some(SeptState::Free));
        assert_eq!(SeptEntry::table(Hpa::new(0)).0, 0x8000_0000_0000_0007);
        assert_eq!(
            SeptEntry::leaf(SeptState::Mapped, Hpa::new(0)).0,
            0x8000_0000_0000_00F7
        );
        assert_eq!(
            SeptEntry::leaf(SeptState::Pending, Hpa::new(0)).0,
            0x8100_0000_0000_00F0
        );
    }

    #[test]
    fn blocking_and_unblocking_gives_the_entry_back() {
        let page = Hpa::new(0x1_2340_0000);
        for entry in [
            SeptEntry::table(page),
            SeptEntry::leaf(SeptState::Mapped, page),
            SeptEntry::leaf(SeptState::Pending, page),
        ] {
            assert!(entry.blocked(0).state().is_some_and(SeptState::is_blocked));
            assert_eq!(entry.blocked(0).unblocked(), entry);
        }
    }
}
