//! The state of a vCPU after TDH.VP.INIT (guest-virtualization.md 1 and 2).

use super::cr::CrOwnership;
use super::l2::L2Vmcs;
use super::tdvps::class;
use crate::msr::{VmxCapabilities, initial_control};
use crate::sys::SysInfo;
use crate::td::{Td, ZERO_PAGE, attributes};
use crate::vp::VpData;
use crate::xstate::Xfam;
use x86_arch::vmx::{Seg, Segment};
use x86_arch::{Gpr, Hpa};

/// IA32_SPEC_CTRL.DDPD_U.
pub const DDPD_U: u64 = 1 << 8;
/// TDCS page of the MSR bitmaps.
const MSR_BITMAP_PAGE: usize = 2;
const NO_ADDRESS: u64 = u64::MAX;

/// Fields of L2 VMs that start as "no address" or "no deadline"; index 0 belongs to L1.
const ALL_ONES_FIELDS: [u32; 7] = [0x58, 0x98, 0xB4, 0x100, 0x104, 0x110, 0x114];

/// Classes of the MSR bitmaps of VM 1, 2 and 3, each followed by its shadow's.
pub const L2_BITMAPS: [u8; 6] = [37, 38, 45, 46, 53, 54];

/// VMCS fields that are constants of the module and that nothing here acts on.
const VMCS_ALL_ONES: [u32; 16] = [
    0x2000, 0x2002, 0x2006, 0x2008, 0x200A, 0x200C, 0x200E, 0x2014, 0x2024, 0x2026, 0x2028, 0x202E,
    0x2036, 0x203E, 0x2800, 0x2016,
];

/// What VP.INIT gives a vCPU besides its bookkeeping.
pub struct Initial<'a> {
    pub sys: &'a SysInfo,
    pub vmx: &'a VmxCapabilities,
    pub td: &'a Td,
    /// TDVPS pages, TDVPR first.
    pub pages: &'a [Hpa],
    /// VCPU_INDEX.
    pub index: u32,
    /// RDX of TDH.VP.INIT.
    pub argument: u64,
    /// The module's CPUID(1).EAX.
    pub fms: u32,
    pub tsc: u64,
}

impl Initial<'_> {
    /// Fills registers, controls and TDVPS fields.
    pub fn apply(&self, data: &mut VpData) {
        let config = &self.td.config;
        data.index = self.index;
        data.xfam = config.xfam;
        data.last_exit_tsc = self.tsc;
        self.registers(data);
        self.segments(data);
        self.controls(data);
        self.fields(data);
        data.vcpu.msr_bitmap = (*config.msr_bitmap).clone();
    }

    fn registers(&self, data: &mut VpData) {
        let regs = &mut data.vcpu.regs;
        for (reg, value) in [
            (Gpr::Rbx, self.td.config.gpa_width() as u64),
            (Gpr::Rcx, self.argument),
            (Gpr::R8, self.argument),
            (Gpr::Rdx, self.fms as u64),
            (Gpr::Rsi, self.index as u64),
        ] {
            regs.gpr[reg.index()] = value;
        }
        regs.rip = 0xFFFF_FFF0;
        regs.rflags = 2;
        regs.cr0 = 0x21;
        regs.cr4 = 0x2040;
        regs.dr6 = 0xFFFF_0FF0;
        regs.dr7 = 0x400;
        regs.xcr0 = 1;
        regs.pdpte = [NO_ADDRESS; 4];
        regs.msr.efer = 0x901;
        regs.msr.pat = 0x0007_0406_0007_0406;
        regs.msr.perf_global_ctrl = 0xFF;
        regs.msr.fmask = 0x2_0200;
        regs.msr.spec_ctrl = self.real_spec_ctrl(0);
    }

    fn segments(&self, data: &mut VpData) {
        let regs = &mut data.vcpu.regs;
        let flat = |access| Segment {
            selector: 0,
            limit: u32::MAX,
            access,
            base: 0,
        };
        regs.segments = [flat(0xC093); 6];
        regs.segments[Seg::Cs as usize] = flat(0xC09B);
        regs.ldtr = Segment {
            limit: 0xFFFF,
            access: 0x1_0082,
            ..Segment::default()
        };
        regs.tr = Segment {
            limit: 0xFFFF,
            access: 0x8B,
            ..Segment::default()
        };
        regs.gdtr.limit = 0xFFFF;
    }

    fn controls(&self, data: &mut VpData) {
        let (config, cpu) = (&self.td.config, self.vmx);
        let cpuid = &config.cpuid;
        let bit = |on: bool, mask: u32| if on { mask } else { 0 };
        let debug = config.is_debug();
        let perfmon = config.attributes & attributes::PERFMON != 0;
        let pks = config.attributes & attributes::PKS != 0;
        let perf = perfmon || debug;
        let c = &mut data.vcpu.controls;
        c.pin = initial_control(0x29, 0xFFFF_FF16, cpu.pin);
        c.primary = initial_control(0x9122_0088, 0x0404_6173, cpu.primary)
            | bit(!cpuid.monitor, 1 << 29 | 1 << 10)
            | bit(!perfmon, 1 << 11);
        c.secondary = 0x133C_B3FA | bit(cpuid.waitpkg, 1 << 26) | bit(cpuid.mktme, 1 << 27);
        c.tertiary = 0x80 | (config.gpaw() as u64) << 5;
        c.exit = initial_control(0x1F3C_8204, 0x0003_6DFB, cpu.exit) | bit(perf, 1 << 12 | 1 << 30);
        c.entry = initial_control(0x003E_C004, 0xFF80_11FB, cpu.entry)
            | bit(perf, 1 << 13)
            | bit(pks || debug, 1 << 22);
        c.exception_bitmap = 1 << 18;
        let owned = CrOwnership::new(cpu, config.xfam, pks);
        c.cr0_mask = owned.cr0_mask;
        c.cr0_shadow = owned.cr0_shadow;
        c.cr4_mask = owned.cr4_mask;
        c.cr4_shadow = owned.cr4_shadow;
        c.tsc_offset = config.tsc_offset;
        c.tsc_multiplier = config.tsc_multiplier;
        c.posted_vector = 0xFFFF;
        c.posted_descriptor = NO_ADDRESS;
        c.vpid = self.td.vpid(0);
        c.spec_ctrl_mask = if self.hides_ddpd() { DDPD_U } else { 0 };
    }

    fn fields(&self, data: &mut VpData) {
        let (td, sys, config) = (self.td, self.sys, &self.td.config);
        let keyed_page = |page: usize| td.tdcx.get(page).map_or(0, |hpa| sys.join(td.keyed(*hpa)));
        let zero_page = keyed_page(ZERO_PAGE);
        let owned = CrOwnership::new(
            self.vmx,
            config.xfam,
            config.attributes & attributes::PKS != 0,
        );
        let vmcs = &mut data.extra.vmcs.0;
        vmcs.extend(VMCS_ALL_ONES.map(|field| (field, NO_ADDRESS)));
        vmcs.extend([
            (0x2004, keyed_page(MSR_BITMAP_PAGE)),
            (0x201A, config.eptp),
            (
                0x202A,
                self.pages
                    .first()
                    .map_or(0, |tdvpr| sys.join(td.keyed(*tdvpr))),
            ),
            (0x2038, zero_page),
            (0x203A, zero_page),
            (0x203C, zero_page),
            (0x4026, td.hkid.0 as u64),
        ]);
        let l2 = (1..=config.num_l2_vms).map(|vm| L2Vmcs::new(sys, self.vmx, td, self.pages, vm));
        data.extra.l2 = l2.collect();
        let vms = u32::from(config.num_l2_vms);
        let fields = &mut data.extra.fields;
        // The MSR bitmaps of L2 VMs, effective and shadow, start with every access exiting.
        for class in L2_BITMAPS
            .into_iter()
            .take(2 * usize::from(config.num_l2_vms))
        {
            fields.extend((0..512).map(|n| ((class, n), NO_ADDRESS)));
        }
        for first in ALL_ONES_FIELDS {
            fields.extend((0..=vms).map(|vm| ((class::MANAGEMENT, first + vm), NO_ADDRESS)));
        }
        fields.extend((0..=vms).map(|vm| ((class::MANAGEMENT, 0xAC + vm), 0xFFFF)));
        let management = [
            (0x80, owned.cr0_mask & !1),
            (0x81, 0x20),
            (0x82, owned.cr4_mask),
            (0x83, 0x2040),
            (0x84, owned.cr0_mask),
            (0x88, owned.cr0_shadow),
            (0x8C, owned.cr4_mask),
            (0x90, owned.cr4_shadow),
            (
                0x9C,
                initial_control(0x29, 0xFFFF_FF16, self.vmx.pin) as u64,
            ),
            (0xB0, 0x173C_B3FA),
        ];
        fields.extend(management.map(|(code, value)| ((class::MANAGEMENT, code), value)));
        if config.xfam.has(Xfam::LBR) {
            fields.insert((class::MSR, 0x14CF), sys.cpuid.max_lbr_depth as u64);
        }
    }

    fn hides_ddpd(&self) -> bool {
        hides_ddpd(self.sys, self.td)
    }
    fn real_spec_ctrl(&self, seen: u64) -> u64 {
        real_spec_ctrl(self.sys, self.td, seen)
    }
}

/// Whether the CPU has DDPD_U and the TD's CPUID does not show it: then it is forced to 1 and hidden.
pub fn hides_ddpd(sys: &SysInfo, td: &Td) -> bool {
    sys.cpuid.ddpd_supported && !td.config.cpuid.ddpd
}

/// IA32_SPEC_CTRL as the processor holds it, for a value that the guest sees.
pub fn real_spec_ctrl(sys: &SysInfo, td: &Td, seen: u64) -> u64 {
    if hides_ddpd(sys, td) {
        seen | DDPD_U
    } else {
        seen
    }
}

/// IA32_SPEC_CTRL as the guest sees it.
pub fn seen_spec_ctrl(sys: &SysInfo, td: &Td, real: u64) -> u64 {
    if hides_ddpd(sys, td) {
        real & !DDPD_U
    } else {
        real
    }
}
