//! CPUID virtualization: the rows, what the platform must offer, what a TD gets, and what a guest's CPUID does.
//!
//! Spec: guest-virtualization.md 5, host-platform.md 3.1, host-td.md 3.4.

mod config;
mod platform;
mod table;
mod topology;

pub use config::{ConfigRefusal, KNOWN_FMS, TdCpuid, TdCpuidInput};
pub use platform::{Component, PlatformCpuid, PlatformRefusal};
pub use table::ROWS;
pub use topology::{DIRECT as TOPOLOGY_DIRECT, LEVELS as TOPOLOGY_LEVELS, ROWS_1F, Topology};

/// Configurable rows of TD_PARAMS, in its order: indices into [`ROWS`].
pub const CONFIGURABLE: [usize; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 59];

/// The same where the release enumerates topology: CPUID 0x1F is the host's to configure as well.
pub const CONFIGURABLE_WITH_TOPOLOGY: [usize; 18] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 59, 46, 47, 48, 49, 50, 51];

/// The configurable rows of a release.
pub const fn configurable(topology: bool) -> &'static [usize] {
    match topology {
        true => &CONFIGURABLE_WITH_TOPOLOGY,
        false => &CONFIGURABLE,
    }
}

/// What the host chooses of a configurable row: directly, and if the platform has it.
pub fn choices(row: usize) -> (Registers, Registers) {
    match ROWS_1F.contains(&row) {
        true => (TOPOLOGY_DIRECT, [0; 4]),
        false => (ROWS[row].direct, ROWS[row].allow),
    }
}

/// The last base leaf that the module virtualises; leaves above it are answered as this one.
pub const LAST_BASE_LEAF: u32 = 0x23;
/// The last extended leaf that the platform must have.
pub const LAST_EXTENDED_LEAF: u32 = 0x8000_0008;

/// Names of the four registers of an answer, as indices.
pub const EAX: usize = 0;
pub const EBX: usize = 1;
pub const ECX: usize = 2;
pub const EDX: usize = 3;

/// EAX, EBX, ECX, EDX.
pub type Registers = [u32; 4];

/// One leaf or sub-leaf: how its value is made and what the platform must show.
pub struct Row {
    pub leaf: u32,
    /// `None` when the row answers any sub-leaf.
    pub subleaf: Option<u32>,
    /// CPUID of it is always a #VE.
    pub faulting: bool,
    /// Its place in TD_PARAMS.CPUID_CONFIG.
    pub config: Option<u8>,
    pub fixed1: Registers,
    /// Cleared; some of these bits the module computes when the guest asks.
    pub fixed0: Registers,
    /// Taken from TD_PARAMS as they are.
    pub direct: Registers,
    /// Native AND TD_PARAMS.
    pub allow: Registers,
    /// SYS.INIT: `native & verify_mask == verify_value`.
    pub verify_mask: Registers,
    pub verify_value: Registers,
    /// LP.INIT: bits that must be equal on all processors.
    pub verify_same: Registers,
}

impl Row {
    /// Leaf in 31:0 and sub-leaf (all ones if none) in 63:32, as the module reports a row in a register.
    pub const fn name_word(&self) -> u64 {
        let subleaf = match self.subleaf {
            Some(subleaf) => subleaf,
            None => u32::MAX,
        };
        self.leaf as u64 | (subleaf as u64) << 32
    }
    /// The module's value for a native one, before any TD's configuration.
    pub fn finish(&self, native: Registers) -> Registers {
        core::array::from_fn(|r| native[r] & !self.fixed0[r] | self.fixed1[r])
    }
}

/// Two registers of a row in one, as SYS.INIT reports masks: the first in the low half.
pub const fn pair(registers: &Registers, first: usize) -> u64 {
    registers[first] as u64 | (registers[first + 1] as u64) << 32
}

/// The row that answers (leaf, sub-leaf), if the module knows it.
pub fn find(leaf: u32, subleaf: u32) -> Option<usize> {
    ROWS.iter()
        .position(|row| row.leaf == leaf && row.subleaf.is_none_or(|known| known == subleaf))
}

/// The leaf that really answers `leaf`: those above the last of their range are answered as the last base leaf.
pub fn effective_leaf(leaf: u32, last_extended: u32) -> u32 {
    let hypervisor = (0x4000_0000..=0x4FFF_FFFF).contains(&leaf);
    let above = leaf > last_extended || (leaf > LAST_BASE_LEAF && leaf < 0x8000_0000);
    if above && !hypervisor {
        LAST_BASE_LEAF
    } else {
        leaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leaf_and_subleaf_finds_its_own_row() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(find(row.leaf, row.subleaf.unwrap_or(77)), Some(index));
        }
        assert_eq!(find(7, 3), None);
        assert_eq!(find(2, 0), None);
    }

    /// guest-virtualization.md 5, rule 2.
    #[test]
    fn leaves_above_their_range_are_answered_as_the_last_base_leaf() {
        assert_eq!(effective_leaf(0x24, 0x8000_0008), 0x23);
        assert_eq!(effective_leaf(0x7FFF_FFFF, 0x8000_0008), 0x23);
        assert_eq!(effective_leaf(0x8000_0009, 0x8000_0008), 0x23);
        assert_eq!(effective_leaf(0x4000_0000, 0x8000_0008), 0x4000_0000);
        assert_eq!(effective_leaf(0x8000_0008, 0x8000_0008), 0x8000_0008);
        assert_eq!(effective_leaf(0x23, 0x8000_0008), 0x23);
    }

    #[test]
    fn the_configurable_rows_know_their_place() {
        for (place, index) in CONFIGURABLE.iter().enumerate() {
            assert_eq!(ROWS[*index].config, Some(place as u8));
        }
        assert_eq!(ROWS.iter().filter(|row| row.config.is_some()).count(), 12);
    }
}
