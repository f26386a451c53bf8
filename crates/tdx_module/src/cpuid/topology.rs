//! Topology enumeration of a TD, which releases after 1.5.01 have ([`crate::Profile::TOPOLOGY`]): CPUID 0x1F as the host
//! configured it, and CPUID 0xB, which follows from it.
//!
//! Source: Intel TDX Module Base Architecture Specification 1.5, "Platform Topology Virtualization".

use super::{EAX, EBX, ECX, Registers};
use core::ops::Range;

/// Sub-leaves of CPUID 0x1F that the module knows.
pub const LEVELS: usize = 6;
/// Their rows.
pub const ROWS_1F: Range<usize> = 46..46 + LEVELS;
/// What the host chooses of each: the shift, the count and the type of the level.
pub const DIRECT: Registers = [0x1F, 0xFFFF, 0xFF00, 0];

const LOGICAL_PROCESSOR: u32 = 1;
const CORE: u32 = 2;

/// A TD's topology leaves; the vCPU's x2APIC id goes to EDX when the guest asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topology {
    pub leaf_1f: [Registers; LEVELS],
    pub leaf_b: [Registers; 3],
}

fn kind(level: &Registers) -> u32 {
    level[ECX] >> 8 & 0xFF
}

impl Topology {
    /// From the native sub-leaves of CPUID 0x1F and the host's; all zeros ask for the native ones. A refusal names the
    /// row at fault: its type does not ascend, it asks for what is not the host's to choose, or no level is a core.
    pub fn configure(
        native: &[Registers; LEVELS],
        config: &[Registers; LEVELS],
    ) -> Result<Topology, usize> {
        let row = |level: usize| ROWS_1F.start + level;
        let mut levels = *config;
        if config.iter().flatten().all(|word| *word == 0) {
            levels = native.map(|level| core::array::from_fn(|r| level[r] & DIRECT[r]));
        }
        let mut last = 0;
        for (n, level) in levels.iter_mut().enumerate() {
            if (0..4).any(|r| level[r] & !DIRECT[r] != 0) {
                return Err(row(n));
            }
            let ends = kind(level) == 0;
            let after_the_end = n > 0 && last == 0;
            if !ends && (after_the_end || kind(level) <= last) {
                return Err(row(n));
            }
            last = kind(level);
            level[ECX] |= n as u32;
        }
        let highest = levels.iter().rev().find(|level| kind(level) != 0);
        let (Some(highest), true) = (highest, levels.iter().any(|level| kind(level) == CORE))
        else {
            return Err(row(0));
        };
        let logical = levels.iter().find(|l| kind(l) == LOGICAL_PROCESSOR);
        let (shift, count) = logical.map_or((0, 1), |level| (level[EAX], level[EBX]));
        let leaf_b = [
            [shift, count, LOGICAL_PROCESSOR << 8, 0],
            [highest[EAX], highest[EBX], CORE << 8 | 1, 0],
            [0, 0, 2, 0],
        ];
        Ok(Topology {
            leaf_1f: levels,
            leaf_b,
        })
    }

    /// What CPUID of this leaf and sub-leaf shows, if they enumerate topology.
    pub fn answer(&self, leaf: u32, subleaf: u32, x2apic_id: u32) -> Option<Registers> {
        let [eax, ebx, ecx, _] = *match leaf {
            0xB => self.leaf_b.get(subleaf as usize),
            0x1F => self.leaf_1f.get(subleaf as usize),
            _ => None,
        }?;
        Some([eax, ebx, ecx, x2apic_id])
    }
}

#[cfg(test)]
mod tests {
    use super::super::ROWS;
    use super::*;

    const NATIVE: [Registers; LEVELS] = [
        [1, 2, 0x100, 7],
        [2, 4, 0x201, 7],
        [0, 0, 2, 7],
        [0, 0, 3, 7],
        [0, 0, 4, 7],
        [0, 0, 5, 7],
    ];

    #[test]
    fn the_rows_are_those_of_leaf_0x1f() {
        for (n, row) in ROWS[ROWS_1F].iter().enumerate() {
            assert_eq!((row.leaf, row.subleaf), (0x1F, Some(n as u32)));
        }
    }

    #[test]
    fn nothing_configured_is_the_native_topology_with_the_vcpus_id() {
        let topology = Topology::configure(&NATIVE, &[[0; 4]; LEVELS]).unwrap();
        assert_eq!(topology.answer(0x1F, 0, 9), Some([1, 2, 0x100, 9]));
        assert_eq!(topology.answer(0x1F, 1, 9), Some([2, 4, 0x201, 9]));
        assert_eq!(topology.answer(0x1F, 5, 9), Some([0, 0, 5, 9]));
        assert_eq!(topology.answer(0xB, 1, 9), Some([2, 4, 0x201, 9]));
        assert_eq!(topology.answer(0xB, 2, 9), Some([0, 0, 2, 9]));
        assert_eq!(topology.answer(0xB, 3, 9), None);
        assert_eq!(topology.answer(0x1F, 6, 9), None);
    }

    #[test]
    fn leaf_0xb_shows_the_highest_level_as_the_core_level() {
        let mut config = [[0; 4]; LEVELS];
        config[0] = [1, 2, 0x100, 0];
        config[1] = [3, 8, 0x200, 0];
        config[2] = [4, 16, 0x500, 0]; // dies
        let topology = Topology::configure(&NATIVE, &config).unwrap();
        assert_eq!(topology.answer(0x1F, 2, 0), Some([4, 16, 0x502, 0]));
        assert_eq!(topology.answer(0xB, 1, 0), Some([4, 16, 0x201, 0]));
    }

    #[test]
    fn levels_ascend_and_one_is_the_core() {
        let refused = |levels: &[Registers]| {
            let mut config = [[0; 4]; LEVELS];
            config[..levels.len()].copy_from_slice(levels);
            Topology::configure(&NATIVE, &config).unwrap_err() - ROWS_1F.start
        };
        assert_eq!(refused(&[[1, 2, 0x100, 0]]), 0, "no core level");
        assert_eq!(refused(&[[1, 2, 0x200, 0], [2, 4, 0x100, 0]]), 1);
        assert_eq!(refused(&[[1, 2, 0x200, 0], [0; 4], [2, 4, 0x300, 0]]), 2);
        assert_eq!(refused(&[[1, 2, 0x200, 1]]), 0, "EDX is the vCPU's");
        assert_eq!(refused(&[[0, 0, 0, 0], [2, 4, 0x200, 0]]), 1);
    }
}
