//! Fields of the platform and the module: TDH.SYS.RD, TDG.SYS.RD and their list forms (host-metadata.md 2).

use super::list::{self, List};
use super::{Accessor, Field, Scope};
use crate::cpuid::{ROWS, choices, configurable, pair};
use crate::machine::Machine;
use crate::module::Module;
use crate::msr::ARCH_CAPABILITIES_CONFIGURABLE;
use crate::profile::Profile;
use crate::refusal::Broken;
use crate::xstate::Xfam;
use tdx_abi::{FieldId, Status};

/// The most CMRs that the platform may report.
pub const NUM_CMRS: usize = 32;
/// ATTRIBUTES bits that a TD may have: DEBUG, SEPT_VE_DISABLE, MIGRATABLE, PKS, PERFMON.
pub const ATTRIBUTES_FIXED0: u64 = 0x8000_0000_7000_0001;
/// CONFIG_FLAGS bits that a TD may have.
pub const CONFIG_FLAGS_FIXED0: u64 = 7;
/// SERVTD_ATTR bits that a binding may have.
pub const SERVTD_ATTR_FIXED0: u64 = 0x7FF_0000_0001;

impl<M: Machine> Module<M> {
    /// The platform's fields in this release.
    pub(crate) fn sys_scope(&self) -> Scope {
        Scope::sys(self.profile.max_vcpus_per_td.is_some())
    }

    /// Reads an element; also the id of the next one.
    pub(crate) fn sys_read(
        &self,
        accessor: Accessor,
        id: FieldId,
    ) -> Result<(u64, FieldId), crate::Stop> {
        let scope = self.sys_scope();
        let field = scope.find(id)?;
        let mask = accessor.masks(field.row).read;
        if mask == 0 {
            return Err(Status::METADATA_FIELD_NOT_READABLE.into());
        }
        let value = self.sys_element(&field)? & field.row.value_mask() & mask;
        Ok((value, scope.next_readable(accessor, &field)))
    }

    /// All fields from the operand `start` on, as a list of one page.
    pub(crate) fn sys_list(&self, accessor: Accessor, start: u64) -> Result<List, crate::Stop> {
        let start = FieldId(start);
        let start = (!start.is_null()).then_some(start.with_context_code(0));
        list::dump(&self.sys_scope(), accessor, start, 4096, |field| {
            let mask = accessor.masks(field.row).read;
            Ok(self.sys_element(field)? & field.row.value_mask() & mask)
        })
    }

    /// The whole element, before masks.
    pub(crate) fn sys_element(&self, field: &Field) -> Result<u64, Broken> {
        let sys = self.sys()?;
        let profile = &self.profile;
        let code = field.code();
        let configurable = configurable(profile.has_topology());
        let cmr = |n: u32| self.platform.cmrs.get(n as usize);
        Ok(match (field.class(), code) {
            (0, 0) => self.platform.packages as u64,
            (0, n @ 1..=8) if n <= self.platform.packages => sys.cpuid.fms() as u64,
            (8, 0) => 0x8086,
            (8, 1) => profile.build_date as u64,
            (8, 2) => profile.build_num as u64,
            (8, 3) => profile.minor as u64,
            (8, 4) => profile.major as u64,
            (8, 5) => 1,
            (9, 3) => 0x3F,
            (10, 1) => 1,
            (10, 8) => {
                profile.features0
                    | if sys.has_verify_report {
                        Profile::LOCAL_ATTESTATION
                    } else {
                        0
                    }
            }
            (16, 0) => NUM_CMRS as u64,
            (16, n @ 0x80..=0x9F) => cmr(n - 0x80).map_or(0, |cmr| cmr.start),
            (16, n @ 0x100..=0x11F) => cmr(n - 0x100).map_or(0, |cmr| cmr.end - cmr.start),
            (17, 8) => 64,
            (17, 9 | 0x10..=0x12) => 16,
            (24, 0) => 0x1000,
            (24, 0x100) => 0x6000,
            (24, 0x101) => 0x1000,
            (24, 0x200) => 0x6000,
            (24, 0x201) => 0x3000,
            (25, 0) => ATTRIBUTES_FIXED0,
            (25, 2) => Xfam::KNOWN & (sys.cpuid.xcr0_supported | sys.cpuid.xss_supported),
            (25, 3) => 3,
            (25, 4) => configurable.len() as u64,
            (25, 6) => CONFIG_FLAGS_FIXED0,
            (25, 8) => profile.max_vcpus_per_td.unwrap_or(0) as u64,
            (25, n @ 0x400..=0x41F) => match configurable.get((n - 0x400) as usize) {
                Some(row) => ROWS[*row].name_word(),
                None => u64::MAX,
            },
            (25, n @ 0x500..=0x53F) => match configurable.get((n - 0x500) as usize / 2) {
                Some(row) => pair(&choices(*row).0, 2 * ((n - 0x500) % 2) as usize),
                None => 0,
            },
            (25, 0x600) => ARCH_CAPABILITIES_CONFIGURABLE,
            (25, 0x800) => allowed_fms(sys.cpuid.fms()).count() as u64,
            (25, n @ 0x810..=0x84F) => {
                let mut allowed = allowed_fms(sys.cpuid.fms());
                allowed.nth((n - 0x810) as usize).unwrap_or(0) as u64
            }
            (32, 0x10) => 0x200,
            (32, 0x20) => 3,
            (32, 0x21) => 2,
            (32, 0x22) => 5,
            (33, 0) => 1,
            (33, 1) => SERVTD_ATTR_FIXED0,
            (34, 0) => 0x807F,
            (34, 1) => 1,
            (34, 3) => 3,
            (34, 5) => 7,
            _ => 0,
        })
    }
}

/// Families, models and steppings that a migratable TD may show on this platform.
fn allowed_fms(platform: u32) -> impl Iterator<Item = u32> {
    crate::cpuid::KNOWN_FMS
        .iter()
        .map(|known| known.0 | known.1)
        .skip_while(move |known| known & !0xF != platform & !0xF)
}
