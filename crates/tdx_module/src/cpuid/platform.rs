//! What SYS.INIT reads and demands of the platform's CPUID (host-platform.md 3.1, checks 10 to 13a).

use super::{EAX, EBX, ECX, EDX, LAST_EXTENDED_LEAF, ROWS, Registers, find, pair};
use crate::{LpId, Machine};
use tdx_abi::Status;

/// Number of fixed performance counters that the module can switch.
const MAX_FIXED_COUNTERS: u32 = 7;
/// Native TSC frequencies below this cannot be scaled to the slowest TD.
const MIN_TSC_HZ: u64 = 0x2540C;
/// XCR0 bits that the module can give to a TD.
pub const XCR0_MASK: u64 = 0x602FF;
/// IA32_XSS bits that the module can give to a TD.
pub const XSS_MASK: u64 = 0x1FD00;

/// One XSAVE state component.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Component {
    pub size: u32,
    pub aligned: bool,
    pub xfd: bool,
}

/// The platform's CPUID as the module sampled it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlatformCpuid {
    /// Native values in row order; leaf 1 EAX is the platform's family, model and stepping.
    pub native: [Registers; 64],
    pub last_base: u32,
    pub last_extended: u32,
    pub xcr0_supported: u64,
    pub xss_supported: u64,
    pub xfd_supported: bool,
    /// Components 2 to 18; 0 and 1 are part of the legacy area.
    pub components: [Component; 19],
    pub native_tsc_hz: u64,
    pub max_lbr_depth: u32,
    pub max_pa: u32,
    /// Bits of an x2APIC id that number processors inside a package.
    pub package_shift: u32,
    pub fixed_counters: u32,
    pub ddpd_supported: bool,
    pub perfmon_ext_leaf: bool,
}

/// Why SYS.INIT or LP.INIT refuses the platform's CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlatformRefusal {
    /// The row's value is not what the module needs: INCORRECT_CPUID_VALUE and the registers of `value_registers`.
    Value(usize),
    /// The row differs from the other processors': INCONSISTENT_CPUID_FIELD and `same_registers`.
    Different(usize),
    Status(Status),
    /// The module cannot go on at all.
    Broken(&'static str),
}

impl PlatformRefusal {
    pub fn status(self) -> Option<Status> {
        match self {
            PlatformRefusal::Value(_) => Some(Status::INCORRECT_CPUID_VALUE),
            PlatformRefusal::Different(_) => Some(Status::INCONSISTENT_CPUID_FIELD),
            PlatformRefusal::Status(status) => Some(status),
            PlatformRefusal::Broken(_) => None,
        }
    }
    /// RCX, RDX, R8, R9, R10 of the refusal; registers that it does not define are 0.
    pub fn registers(self) -> [u64; 5] {
        match self {
            PlatformRefusal::Value(index) => {
                let row = &ROWS[index];
                [
                    row.name_word(),
                    pair(&row.verify_mask, EAX),
                    pair(&row.verify_mask, ECX),
                    pair(&row.verify_value, EAX),
                    pair(&row.verify_value, ECX),
                ]
            }
            PlatformRefusal::Different(index) => {
                let row = &ROWS[index];
                let same = &row.verify_same;
                [row.name_word(), pair(same, EAX), pair(same, ECX), 0, 0]
            }
            PlatformRefusal::Status(_) | PlatformRefusal::Broken(_) => [0; 5],
        }
    }
}

fn native<M: Machine + ?Sized>(machine: &M, lp: LpId, leaf: u32, subleaf: u32) -> Registers {
    let value = machine.cpuid(lp, leaf, subleaf);
    [value.eax, value.ebx, value.ecx, value.edx]
}

/// What [`PlatformCpuid::sample`] meets while it goes down the rows.
#[derive(Default)]
struct Topology {
    last_type: u32,
    last_shift: u32,
    core_seen: bool,
    done: bool,
    lps_sharing_l3: u32,
}

impl PlatformCpuid {
    /// Reads and checks the platform as SYS.INIT does.
    pub fn sample<M: Machine + ?Sized>(machine: &M, lp: LpId) -> Result<Self, PlatformRefusal> {
        let unsupported = |leaf: u32| {
            let status = Status(
                Status::CPUID_LEAF_NOT_SUPPORTED
                    .raw()
                    .wrapping_add(leaf as u64),
            );
            PlatformRefusal::Status(status)
        };
        let last_base = native(machine, lp, 0, 0)[EAX];
        if last_base < 0x1F {
            return Err(unsupported(0x1F));
        }
        let last_extended = native(machine, lp, 0x8000_0000, 0)[EAX];
        if last_extended < LAST_EXTENDED_LEAF {
            return Err(unsupported(LAST_EXTENDED_LEAF));
        }
        let mut platform = PlatformCpuid {
            native: [[0; 4]; 64],
            last_base,
            last_extended,
            xcr0_supported: 0,
            xss_supported: 0,
            xfd_supported: false,
            components: [Component::default(); 19],
            native_tsc_hz: 0,
            max_lbr_depth: 0,
            max_pa: 0,
            package_shift: 0,
            fixed_counters: 0,
            ddpd_supported: false,
            perfmon_ext_leaf: false,
        };
        let mut topology = Topology::default();
        for (index, row) in ROWS.iter().enumerate() {
            let value = platform.read_row(machine, lp, index);
            if (0..4).any(|r| value[r] & row.verify_mask[r] != row.verify_value[r]) {
                return Err(PlatformRefusal::Value(index));
            }
            platform.native[index] = value;
            platform.special(index, value, &mut topology, unsupported)?;
        }
        Ok(platform)
    }

    /// What LP.INIT compares on another processor.
    pub fn check_same<M: Machine + ?Sized>(
        &self,
        machine: &M,
        lp: LpId,
    ) -> Result<(), PlatformRefusal> {
        for (index, row) in ROWS.iter().enumerate() {
            let value = self.read_row(machine, lp, index);
            let known = &self.native[index];
            if (0..4).any(|r| (value[r] ^ known[r]) & row.verify_same[r] != 0) {
                return Err(PlatformRefusal::Different(index));
            }
        }
        Ok(())
    }

    /// The module's own values, before a TD's configuration ("finished" by SYS.CONFIG).
    pub fn finished(&self) -> [Registers; 64] {
        core::array::from_fn(|index| ROWS[index].finish(self.native[index]))
    }

    /// The platform's family, model and stepping word (CPUID(1).EAX).
    pub fn fms(&self) -> u32 {
        self.native[find(1, 0).unwrap_or(0)][EAX]
    }

    fn read_row<M: Machine + ?Sized>(&self, machine: &M, lp: LpId, index: usize) -> Registers {
        let row = &ROWS[index];
        let last = if row.leaf >= 0x8000_0000 {
            self.last_extended
        } else {
            self.last_base
        };
        if row.leaf > last {
            return [0; 4];
        }
        native(machine, lp, row.leaf, row.subleaf.unwrap_or(0))
    }

    fn special(
        &mut self,
        index: usize,
        value: Registers,
        topology: &mut Topology,
        unsupported: impl Fn(u32) -> PlatformRefusal,
    ) -> Result<(), PlatformRefusal> {
        let row = &ROWS[index];
        match (row.leaf, row.subleaf) {
            (4, _) if value[EAX] >> 5 & 7 == 3 => {
                topology.lps_sharing_l3 = value[EAX] >> 14 & 0xFFF
            }
            (7, Some(1)) => self.perfmon_ext_leaf = value[EAX] >> 8 & 1 != 0,
            (7, Some(2)) => self.ddpd_supported = value[EDX] >> 3 & 1 != 0,
            (0xA, _) => {
                let fixed = value[EDX] & 0x1F;
                if value[EAX] & 0xFF < 5 || fixed > MAX_FIXED_COUNTERS {
                    return Err(PlatformRefusal::Value(index));
                }
                self.fixed_counters = ((1 << fixed) - 1) | value[ECX];
            }
            (0xD, Some(0)) => self.xcr0_supported = value[EAX] as u64 & XCR0_MASK,
            (0xD, Some(1)) => {
                self.xfd_supported = value[EAX] >> 4 & 1 != 0;
                self.xss_supported = value[ECX] as u64 & XSS_MASK;
            }
            (0xD, Some(n)) => {
                self.components[n as usize] = Component {
                    size: value[EAX],
                    aligned: value[ECX] >> 1 & 1 != 0,
                    xfd: value[ECX] >> 2 & 1 != 0,
                };
            }
            (0x15, _) => {
                if value[EBX] == 0 {
                    return Err(unsupported(0x15));
                }
                let scaled = value[ECX] as u64 * value[EBX] as u64;
                self.native_tsc_hz = scaled.checked_div(value[EAX] as u64).unwrap_or(0);
                if self.native_tsc_hz < MIN_TSC_HZ {
                    return Err(PlatformRefusal::Broken(
                        "the TSC frequency is too low to scale",
                    ));
                }
            }
            (0x1C, _) => {
                let depths = value[EAX] & 0xFF;
                self.max_lbr_depth = if depths == 0 {
                    0
                } else {
                    8 * (depths.ilog2() + 1)
                };
            }
            (0x1F, Some(n)) if !topology.done => {
                self.topology_level(n, value, topology, unsupported)?
            }
            (0x8000_0008, _) => {
                self.max_pa = value[EAX] & 0xFF;
                let la57 = find(7, 0).is_some_and(|i| self.native[i][ECX] >> 16 & 1 != 0);
                if value[EAX] >> 8 & 0xFF != if la57 { 57 } else { 48 } {
                    return Err(PlatformRefusal::Value(index));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// One level of CPUID 0x1F: the shift below the package level is wanted.
    fn topology_level(
        &mut self,
        level: u32,
        value: Registers,
        topology: &mut Topology,
        unsupported: impl Fn(u32) -> PlatformRefusal,
    ) -> Result<(), PlatformRefusal> {
        const CORE: u32 = 2;
        const MAX_TYPE: u32 = 6;
        let kind = value[ECX] >> 8 & 0xFF;
        if kind == 0 {
            if level == 0 || !topology.core_seen {
                return Err(unsupported(0));
            }
            self.package_shift = topology.last_shift;
            let sharing = topology.lps_sharing_l3;
            if self.package_shift == 0 || sharing >> (self.package_shift - 1) != 1 {
                return Err(PlatformRefusal::Status(Status::INVALID_WBINVD_SCOPE));
            }
            topology.done = true;
            return Ok(());
        }
        if kind <= topology.last_type || kind >= MAX_TYPE {
            return Err(PlatformRefusal::Status(
                Status::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED,
            ));
        }
        topology.last_type = kind;
        topology.last_shift = value[EAX] & 0x1F;
        topology.core_seen |= kind == CORE;
        Ok(())
    }
}
