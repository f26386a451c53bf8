//! The VMX capability MSRs: the platform's, and the virtual ones that an L1 VMM inside a TD reads
//! (guest-virtualization.md 2 and 6.4).

use super::MsrFeatures;
use crate::xstate::Xfam;
use crate::{LpId, Machine};

/// The platform's VMX capability MSRs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VmxCapabilities {
    pub basic: u64,
    pub misc: u64,
    pub cr0_fixed0: u64,
    pub cr0_fixed1: u64,
    pub cr4_fixed0: u64,
    pub cr4_fixed1: u64,
    pub pin: u64,
    pub primary: u64,
    pub secondary: u64,
    pub tertiary: u64,
    pub exit: u64,
    pub entry: u64,
    pub ept_vpid: u64,
}

impl VmxCapabilities {
    pub fn read<M: Machine + ?Sized>(machine: &M, lp: LpId) -> Self {
        let msr = |index| machine.read_msr(lp, index);
        Self {
            basic: msr(0x480),
            misc: msr(0x485),
            cr0_fixed0: msr(0x486),
            cr0_fixed1: msr(0x487),
            cr4_fixed0: msr(0x488),
            cr4_fixed1: msr(0x489),
            secondary: msr(0x48B),
            ept_vpid: msr(0x48C),
            pin: msr(0x48D),
            primary: msr(0x48E),
            exit: msr(0x48F),
            entry: msr(0x490),
            tertiary: msr(0x492),
        }
    }
    /// CR4 bits that a TD's L1 may give to an L2: the constant ones that the CPU and the TD have.
    fn l2_cr4_writable(&self, features: &MsrFeatures) -> u64 {
        let mut mask = 0x03FF_1FBF & !self.cr4_fixed0 & self.cr4_fixed1;
        mask &= !(1 << 19);
        for (bit, present) in [
            (22, features.xfam.has(Xfam::PKRU)),
            (23, features.xfam.has_all(Xfam::CET)),
            (24, features.pks),
            (25, features.xfam.has(Xfam::UINTR)),
        ] {
            if !present {
                mask &= !(1 << bit);
            }
        }
        mask
    }
}

/// A control field's initial value: the module's constant and, for bits it does not care about, what the CPU demands.
pub const fn initial_control(constant: u32, unknown: u32, capability: u64) -> u32 {
    constant | (unknown & capability as u32)
}

/// Controls that L1 may choose for its L2 VMs.
pub const L2_PRIMARY_WRITABLE: u32 = 0x48D9_9A04;
pub const L2_SECONDARY_WRITABLE: u32 = 0x0C51_3E0C;
const RDPMC: u32 = 1 << 11;
const WAITPKG: u32 = 1 << 26;
const PCONFIG: u32 = 1 << 27;

/// VM-execution controls of an L2 VM after VP.INIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L2Controls {
    pub pin: u32,
    pub primary: u32,
    pub secondary: u32,
    pub exit: u32,
    pub entry: u32,
}

impl L2Controls {
    pub fn new(cpu: &VmxCapabilities, features: &MsrFeatures, debug: bool, monitor: bool) -> Self {
        const MONITOR_MWAIT: u32 = 1 << 29 | 1 << 10;
        let perf = features.perfmon || debug;
        Self {
            pin: initial_control(0x29, 0xFFFF_FF16, cpu.pin),
            primary: initial_control(0x9122_0088, 0x0404_6173, cpu.primary)
                | bits(!monitor, MONITOR_MWAIT)
                | bits(!features.perfmon, RDPMC),
            secondary: 0x1338_B3FA
                | bits(features.waitpkg, WAITPKG)
                | bits(features.mktme, PCONFIG),
            exit: initial_control(0x1F3C_8204, 0x0003_6DFB, cpu.exit)
                | bits(perf, 1 << 12 | 1 << 30),
            entry: initial_control(0x003E_C004, 0xFF80_11FB, cpu.entry)
                | bits(perf, 1 << 13)
                | bits(features.pks || debug, 1 << 22),
        }
    }
}

const fn bits(on: bool, mask: u32) -> u32 {
    if on { mask } else { 0 }
}

/// What RDMSR of the VMX capabilities gives in L1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VirtualVmxMsrs {
    pub basic: u64,
    pub misc: u64,
    pub cr0_fixed0: u64,
    pub cr0_fixed1: u64,
    pub cr4_fixed0: u64,
    pub cr4_fixed1: u64,
    pub secondary: u64,
    pub ept_vpid: u64,
    pub pin: u64,
    pub primary: u64,
    pub exit: u64,
    pub entry: u64,
    pub vmfunc: u64,
    pub tertiary: u64,
}

impl VirtualVmxMsrs {
    pub fn new(cpu: &VmxCapabilities, features: &MsrFeatures, debug: bool, monitor: bool) -> Self {
        let initial = L2Controls::new(cpu, features, debug, monitor);
        let primary_writable = L2_PRIMARY_WRITABLE & !bits(!features.perfmon, RDPMC);
        let optional = bits(features.waitpkg, WAITPKG) | bits(features.mktme, PCONFIG);
        let secondary_writable = L2_SECONDARY_WRITABLE & !(WAITPKG | PCONFIG) | optional;
        let cr4_writable = cpu.l2_cr4_writable(features);
        Self {
            basic: 0x01C0_0000_0000_0000,
            misc: 0x6004_40E0,
            cr0_fixed0: 0x21 & !0x8005_001F,
            cr0_fixed1: 0x21 | 0x8005_001F,
            cr4_fixed0: 0x2040 & !cr4_writable,
            cr4_fixed1: 0x2040 | cr4_writable,
            secondary: allowed(initial.secondary, secondary_writable),
            ept_vpid: 0x43_0001
                | (features.xfam.has(1 << 12) as u64) << 23
                | cpu.ept_vpid & 0x3F << 48,
            pin: allowed(initial.pin, 0),
            primary: allowed(initial.primary, primary_writable),
            exit: allowed(initial.exit, 0),
            entry: allowed(initial.entry, 0x200),
            vmfunc: 0,
            tertiary: 0x8E,
        }
    }

    /// The value of an emulated VMX MSR; `None` for those that are #VE in L1.
    pub const fn read(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            0x480 => self.basic,
            0x485 => self.misc,
            0x486 => self.cr0_fixed0,
            0x487 => self.cr0_fixed1,
            0x488 => self.cr4_fixed0,
            0x489 => self.cr4_fixed1,
            0x48B => self.secondary,
            0x48C => self.ept_vpid,
            0x48D => self.pin,
            0x48E => self.primary,
            0x48F => self.exit,
            0x490 => self.entry,
            0x491 => self.vmfunc,
            0x492 => self.tertiary,
            _ => return None,
        })
    }
}

/// Low half: bits that must be 1; high half: bits that may be 1.
const fn allowed(initial: u32, writable: u32) -> u64 {
    (initial & !writable) as u64 | ((initial | writable) as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::TdCpuid;

    /// A Sapphire Rapids server's capabilities.
    const CPU: VmxCapabilities = VmxCapabilities {
        basic: 0x00D8_0400_0000_0011,
        misc: 0x7004_C1E7,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xFFFF_FFFF,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x03FF_7FFF,
        pin: 0xFF_0000_0016,
        primary: 0xFFFB_FFFE_0400_6172,
        secondary: 0xFFFF_FFFF_0000_0000,
        tertiary: 0xEF,
        exit: 0xFFFF_FFFF_0003_6DFB,
        entry: 0x00FF_FFFF_0000_11FB,
        ept_vpid: 0xF01_06F3_41C1,
    };

    /// Values that the 1.5.01 module gave on this platform.
    #[test]
    fn a_plain_td_sees_the_recorded_values() {
        let features = MsrFeatures::new(0, Xfam(7), &TdCpuid::default(), 0);
        let msrs = VirtualVmxMsrs::new(&CPU, &features, false, false);
        assert_eq!(msrs.cr4_fixed1, 0x37_3FFF);
        assert_eq!(msrs.secondary, 0x1379_BFFE_1328_81F2);
        assert_eq!(msrs.pin, 0x3F_0000_003F);
        assert_eq!(msrs.primary, 0xFDFB_FFFE_B522_6DFA);
        assert_eq!(msrs.exit, 0x1F3F_EFFF_1F3F_EFFF);
        assert_eq!(msrs.entry, 0x003E_D3FF_003E_D1FF);
        assert_eq!(msrs.ept_vpid, 0x43_0001);
    }

    #[test]
    fn perfmon_and_debug_open_their_controls() {
        let features = MsrFeatures::new(1 << 63, Xfam(7), &TdCpuid::default(), 0);
        let msrs = VirtualVmxMsrs::new(&CPU, &features, true, false);
        assert_eq!(msrs.primary, 0xFDFB_FFFE_B522_65FA);
        assert_eq!(msrs.exit, 0x5F3F_FFFF_5F3F_FFFF);
        assert_eq!(msrs.entry, 0x007E_F3FF_007E_F1FF);
    }
}
