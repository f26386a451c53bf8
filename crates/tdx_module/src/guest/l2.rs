//! The VMCSs of a vCPU's L2 VMs, as far as metadata shows them: no L2 VM runs, so their fields are values by encoding.
//!
//! Spec: host-metadata.md 4.2, tdx-abi/vcpu-initial-state.json.

use super::cr::CrOwnership;
use crate::msr::{L2Controls, VmxCapabilities};
use crate::sys::SysInfo;
use crate::td::{Td, ZERO_PAGE, attributes};
use alloc::collections::BTreeMap;
use x86_arch::Hpa;

/// Fields of one L2 VMCS; a field that is not there is 0.
#[derive(Clone, Default, Debug)]
pub struct L2Vmcs(pub BTreeMap<u32, u64>);

const ALL_ONES: [u32; 20] = [
    0x2000, 0x2002, 0x2006, 0x2008, 0x200A, 0x200C, 0x200E, 0x2014, 0x2016, 0x2024, 0x2026, 0x2028,
    0x202E, 0x2036, 0x203E, 0x2800, 0x280A, 0x280C, 0x280E, 0x2810,
];

/// Initial values that need nothing of the TD.
const CONSTANT: [(u32, u64); 25] = [
    (0x0002, 0xFFFF),
    (0x681A, 0x400),
    (0x681E, 0xFFFF_FFF0),
    (0x6820, 2),
    (0x4802, 0xFFFF_FFFF),
    (0x4816, 0xC09B),
    (0x4806, 0xFFFF_FFFF),
    (0x481A, 0xC093),
    (0x4800, 0xFFFF_FFFF),
    (0x4814, 0xC093),
    (0x4808, 0xFFFF_FFFF),
    (0x481C, 0xC093),
    (0x480A, 0xFFFF_FFFF),
    (0x481E, 0xC093),
    (0x4804, 0xFFFF_FFFF),
    (0x4818, 0xC093),
    (0x480C, 0xFFFF),
    (0x4820, 0x1_0082),
    (0x480E, 0xFFFF),
    (0x4822, 0x8B),
    (0x4810, 0xFFFF),
    (0x2808, 0xFF),
    (0x2804, 0x0007_0406_0007_0406),
    (0x2806, 0x901),
    (0x4004, 0x4_0000),
];

impl L2Vmcs {
    /// VM `vm` (1 to 3) after TDH.VP.INIT. `pages` are the vCPU's TDVPS pages.
    pub fn new(sys: &SysInfo, cpu: &VmxCapabilities, td: &Td, pages: &[Hpa], vm: u16) -> L2Vmcs {
        let config = &td.config;
        let pks = config.attributes & attributes::PKS != 0;
        let owned = CrOwnership::new(cpu, config.xfam, pks);
        let controls = L2Controls::new(
            cpu,
            &config.features,
            config.is_debug(),
            config.cpuid.monitor,
        );
        let page = |n: usize| pages.get(n).map_or(0, |hpa| sys.join(td.keyed(*hpa)));
        let keyed_tdcs = |n: usize| td.tdcx.get(n).map_or(0, |hpa| sys.join(td.keyed(*hpa)));
        let first = 6 + 3 * (usize::from(vm) - 1);
        let mut fields: BTreeMap<u32, u64> = ALL_ONES.map(|field| (field, u64::MAX)).into();
        fields.extend(CONSTANT);
        fields.extend([
            (0x0000, td.vpid(vm) as u64),
            (0x2004, page(first + 1)),
            (0x2010, config.tsc_offset),
            (0x2012, u64::MAX),
            (
                0x201A,
                config.eptp & 0xFFF | td.tdcx.get(5 + usize::from(vm)).map_or(0, |hpa| hpa.raw()),
            ),
            (0x202A, u64::MAX),
            (0x2032, config.tsc_multiplier),
            (0x2034, 0x80 | (config.gpaw() as u64) << 5),
            (0x2038, keyed_tdcs(ZERO_PAGE)),
            (0x203A, keyed_tdcs(ZERO_PAGE)),
            (0x203C, keyed_tdcs(ZERO_PAGE)),
            (
                0x204A,
                if super::initial::hides_ddpd(sys, td) {
                    super::initial::DDPD_U
                } else {
                    0
                },
            ),
            (0x4000, controls.pin as u64),
            (0x4002, controls.primary as u64),
            (0x400C, controls.exit as u64),
            (0x4012, controls.entry as u64),
            (0x401E, controls.secondary as u64),
            (0x4026, td.hkid.0 as u64),
            (0x6000, owned.cr0_mask & !1),
            (0x6002, owned.cr4_mask),
            (0x6004, 0x20),
            (0x6006, 0x2040),
            (0x6800, 0x21),
            (0x6804, 0x2040),
        ]);
        L2Vmcs(fields)
    }
    pub fn read(&self, field: u32) -> u64 {
        self.0.get(&field).copied().unwrap_or(0)
    }
}
