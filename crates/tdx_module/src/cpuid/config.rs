//! How MNG.INIT makes a TD's CPUID values from TD_PARAMS (host-td.md 3.4, "CPUID configuration").

use super::{
    EAX, EBX, ECX, EDX, PlatformCpuid, ROWS, ROWS_1F, Registers, TOPOLOGY_LEVELS, Topology,
};
use crate::xstate::Xfam;

/// ATTRIBUTES bits that CPUID depends on.
const ATTRIBUTE_MIGRATABLE: u64 = 1 << 29;
const ATTRIBUTE_PKS: u64 = 1 << 30;
const ATTRIBUTE_PERFMON: u64 = 1 << 63;

/// What a TD's CPUID depends on.
pub struct TdCpuidInput<'a> {
    pub platform: &'a PlatformCpuid,
    pub attributes: u64,
    pub xfam: Xfam,
    /// TD_PARAMS.TSC_FREQUENCY, in units of 25 MHz.
    pub tsc_frequency: u16,
    /// Native IA32_ARCH_CAPABILITIES.TSX_CTRL.
    pub native_tsx_ctrl: bool,
    /// CPUID(0xD, 0).EBX under the TD's user XFAM bits.
    pub user_xsave_size: u32,
    /// TD_PARAMS.CPUID_CONFIG.
    pub config: &'a [Registers; 12],
    /// The same for CPUID 0x1F, if the release enumerates topology.
    pub topology: Option<&'a [Registers; TOPOLOGY_LEVELS]>,
}

/// Why a TD's CPUID configuration is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigRefusal {
    /// OPERAND_INVALID + CPUID_CONFIG with this word (leaf and sub-leaf, or 0) in RCX.
    Config(u64),
    /// INCORRECT_MSR_VALUE + IA32_ARCH_CAPABILITIES: TSX without TSX_CTRL.
    ArchCapabilities,
}

/// A TD's CPUID values and the features other flows look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TdCpuid {
    pub values: [Registers; 64],
    pub monitor: bool,
    pub dca: bool,
    pub tsc_deadline: bool,
    pub tsx: bool,
    pub waitpkg: bool,
    pub tme: bool,
    pub mktme: bool,
    pub la57: bool,
    pub ddpd: bool,
    pub xfd: bool,
    /// What the guest may ask to be shown, if the release can.
    pub topology: Option<Topology>,
}

impl Default for TdCpuid {
    fn default() -> Self {
        Self {
            values: [[0; 4]; 64],
            monitor: false,
            dca: false,
            tsc_deadline: false,
            tsx: false,
            waitpkg: false,
            tme: false,
            mktme: false,
            la57: false,
            ddpd: false,
            xfd: false,
            topology: None,
        }
    }
}

impl TdCpuid {
    /// Goes down the rows in their order; the first refusal counts.
    pub fn configure(input: &TdCpuidInput<'_>) -> Result<TdCpuid, ConfigRefusal> {
        let mut td = TdCpuid::default();
        let finished = input.platform.finished();
        for (index, row) in ROWS.iter().enumerate() {
            let mut value = finished[index];
            if let Some(place) = row.config {
                let config = &input.config[place as usize];
                for r in 0..4 {
                    if config[r] & !(row.direct[r] | row.allow[r]) != 0 {
                        return Err(ConfigRefusal::Config(row.name_word()));
                    }
                    value[r] = value[r] & !row.direct[r] | config[r] & row.direct[r];
                    value[r] &= !row.allow[r] | config[r];
                }
            }
            td.values[index] = td.adjust(index, value, input)?;
        }
        if let Some(config) = input.topology {
            let native = core::array::from_fn(|n| finished[ROWS_1F.start + n]);
            let topology = Topology::configure(&native, config)
                .map_err(|row| ConfigRefusal::Config(ROWS[row].name_word()))?;
            td.values[ROWS_1F].copy_from_slice(&topology.leaf_1f);
            td.topology = Some(topology);
        }
        Ok(td)
    }

    /// The rules that tie a row to XFAM, ATTRIBUTES and other rows.
    fn adjust(
        &mut self,
        index: usize,
        mut v: Registers,
        input: &TdCpuidInput<'_>,
    ) -> Result<Registers, ConfigRefusal> {
        let row = &ROWS[index];
        let xfam = input.xfam;
        let zero_unless = |keep: bool, v: Registers| if keep { v } else { [0; 4] };
        match (row.leaf, row.subleaf) {
            (1, _) => {
                let platform = input.platform.fms() & !row.fixed0[EAX];
                if v[EAX] == 0 {
                    v[EAX] = platform;
                }
                let migratable = input.attributes & ATTRIBUTE_MIGRATABLE != 0;
                let good = if migratable {
                    fms_allowed(v[EAX], platform)
                } else {
                    v[EAX] == platform
                };
                if !good {
                    return Err(ConfigRefusal::Config(row.name_word()));
                }
                if !xfam.has(Xfam::AVX) {
                    v[ECX] &= !0x3000_1000;
                }
                self.monitor = v[ECX] >> 3 & 1 != 0;
                self.dca = v[ECX] >> 18 & 1 != 0;
                self.tsc_deadline = v[ECX] >> 24 & 1 != 0;
            }
            (5, _) => v = zero_unless(self.monitor, v),
            (7, Some(0)) => {
                apply_xfam_to_leaf_7(xfam, &mut v);
                let (hle, rtm) = (v[EBX] >> 4 & 1, v[EBX] >> 11 & 1);
                if hle != rtm {
                    return Err(ConfigRefusal::Config(0));
                }
                if hle != 0 && !input.native_tsx_ctrl {
                    return Err(ConfigRefusal::ArchCapabilities);
                }
                let pks = (input.attributes & ATTRIBUTE_PKS != 0) as u32;
                v[ECX] = v[ECX] & !(1 << 31) & !(1 << 23) | pks << 31;
                self.tsx = hle != 0;
                self.waitpkg = v[ECX] >> 5 & 1 != 0;
                self.tme = v[ECX] >> 13 & 1 != 0;
                self.la57 = v[ECX] >> 16 & 1 != 0;
                self.mktme = v[EDX] >> 18 & 1 != 0;
            }
            (7, Some(1)) if !xfam.has_all(Xfam::AVX512) => v[EAX] &= !0x30,
            (7, Some(2)) => self.ddpd = v[EDX] >> 3 & 1 != 0,
            (0xA, _) => v = zero_unless(input.attributes & ATTRIBUTE_PERFMON != 0, v),
            (0xD, Some(0)) => {
                v[EAX] &= !(0x602E4 & !xfam.0 as u32);
                v[ECX] = input.user_xsave_size;
            }
            (0xD, Some(1)) => {
                v[ECX] &= !(0xD900 & !xfam.0 as u32);
                let faulting =
                    (2..19).any(|n| xfam.has(1 << n) && input.platform.components[n].xfd);
                if !faulting {
                    v[EAX] &= !(1 << 4);
                }
                self.xfd = v[EAX] >> 4 & 1 != 0;
            }
            (0xD, Some(n)) => v = zero_unless(xfam.has(1 << n), v),
            (0x14, _) => v = zero_unless(xfam.has(Xfam::PT), v),
            (0x15, _) => v[EBX] = input.tsc_frequency as u32,
            (0x19, _) => v = [0; 4],
            (0x1C, _) => v = zero_unless(xfam.has(Xfam::LBR), v),
            (0x1D, _) => v = zero_unless(xfam.has_all(Xfam::AMX), v),
            (0x8000_0008, _) => {
                let bits = if self.la57 { 57 } else { 48 };
                v[EAX] = v[EAX] & !0xFF00 | bits << 8;
            }
            _ => {}
        }
        Ok(v)
    }
}

/// Clears what a component missing from XFAM takes with it.
fn apply_xfam_to_leaf_7(xfam: Xfam, v: &mut Registers) {
    /// XFAM bits of which one missing is enough, and the EBX, ECX, EDX bits that go.
    const MASKS: [(u64, [u32; 3]); 8] = [
        (Xfam::AVX, [0x20, 0x600, 0]),
        (Xfam::AVX512, [0xDC23_0000, 0x5842, 0x0080_010C]),
        (Xfam::PT, [0x0200_0000, 0, 0]),
        (Xfam::PKRU, [0, 0x8, 0]),
        (Xfam::CET, [0, 0x80, 0x0010_0000]),
        (Xfam::UINTR, [0, 0, 0x20]),
        (Xfam::LBR, [0, 0, 0x0008_0000]),
        (Xfam::AMX, [0, 0, 0x0340_0000]),
    ];
    for (bits, cleared) in MASKS {
        if !xfam.has_all(bits) {
            for (register, mask) in v[EBX..].iter_mut().zip(cleared) {
                *register &= !mask;
            }
        }
    }
}

/// Newest first: family and model with stepping 0, and the highest stepping.
pub const KNOWN_FMS: [(u32, u32); 6] = [
    (0xD06D0, 0),
    (0xA06E0, 0),
    (0xA06D0, 0),
    (0xA06F0, 0),
    (0xC06F0, 2),
    (0x806F0, 8),
];

/// Which family, model and stepping a migratable TD may show (host-td.md 3.4, "FMS rule").
fn fms_allowed(wanted: u32, platform: u32) -> bool {
    let model = |fms: u32| fms & !0xF;
    let stepping = |fms: u32| fms & 0xF;
    if model(wanted) == model(platform) && stepping(wanted) > stepping(platform) {
        return false;
    }
    let Some(from) = KNOWN_FMS
        .iter()
        .position(|known| known.0 == model(platform))
    else {
        return false;
    };
    KNOWN_FMS[from..]
        .iter()
        .any(|known| known.0 == model(wanted) && stepping(wanted) <= known.1)
}

#[cfg(test)]
mod tests {
    use super::fms_allowed;

    #[test]
    fn a_migratable_td_may_show_older_models_only() {
        assert!(fms_allowed(0x806F8, 0x806F8));
        assert!(fms_allowed(0x806F5, 0x806F8));
        assert!(!fms_allowed(0x806F8, 0x806F5)); // a later stepping than the platform's
        assert!(!fms_allowed(0xC06F2, 0x806F8)); // newer than the platform
        assert!(fms_allowed(0x806F8, 0xC06F2));
        assert!(!fms_allowed(0x806F9, 0xC06F2));
        assert!(!fms_allowed(0x12345, 0x806F8));
    }
}
