//! Fields of a vCPU: its VMCS and the rest of TDVPS (host-metadata.md 4).

use super::{Accessor, Field, Scope, combine};
use crate::guest::initial::{real_spec_ctrl, seen_spec_ctrl};
use crate::guest::tdvps::{self, class};
use crate::guest::vmcs::{self, encoding};
use crate::machine::Machine;
use crate::module::Module;
use crate::refusal::{NOT_MODELLED, Stop};
use crate::sys::SysInfo;
use crate::td::Td;
use crate::vp::{Vp, VpData};
use crate::xstate::Xfam;
use tdx_abi::{FieldId, Status};
use x86_arch::Gpa;

/// SHADOW_PID_HPA, SHADOW_PINBASED_EXEC_CTLS, SHADOW_POSTED_INT_NOTIFICATION_VECTOR and SHADOW_SHARED_EPTP of L1.
const SHADOW_PID: (u8, u32) = (class::MANAGEMENT, 0x98);
const SHADOW_PIN: (u8, u32) = (class::MANAGEMENT, 0x9C);
const SHADOW_VECTOR: (u8, u32) = (class::MANAGEMENT, 0xAC);
const SHADOW_EPTP: (u8, u32) = (class::MANAGEMENT, 0xB4);
const TSC_DEADLINE: u32 = 0x58;
const SHADOW_TSC_DEADLINE: u32 = 0x5C;
const XFAM: u32 = 0xC;
const SPEC_CTRL: u32 = 0x48;
/// Pin control 7: process posted interrupts.
const POSTED_INTERRUPTS: u64 = 1 << 7;
const NO_VECTOR: u16 = 0xFFFF;
const PML: u64 = 1 << 17;
/// IA32_DEBUGCTL.EN_UNCORE_PMI, TR and BTS.
const UNCORE_PMI: u64 = 1 << 13;
const TR: u64 = 1 << 6;
const BTS: u64 = 1 << 7;

/// What an address field must hold.
enum AddressKind {
    /// Host memory that is not the module's: this many bytes.
    SharedHpa(u64),
    /// A private guest address.
    PrivateGpa,
}

/// A vCPU whose fields are read or written.
pub struct VpFields<'a, M: Machine> {
    pub module: &'a Module<M>,
    pub sys: &'a SysInfo,
    pub td: &'a Td,
    pub vp: &'a Vp,
    pub data: &'a mut VpData,
    pub accessor: Accessor,
    /// IA32_DEBUGCTL of the calling VMM.
    pub host_debugctl: u64,
    /// TSC of the calling processor.
    pub tsc: u64,
}

impl<M: Machine> VpFields<'_, M> {
    pub fn scope(&self) -> Scope {
        Scope::vp(self.td.config.num_l2_vms)
    }

    fn find(&self, id: FieldId) -> Result<Field, Stop> {
        let field = self.scope().find(id)?;
        let vmcs = field.l2_vm.is_some() || field.class() == class::VMCS;
        if vmcs && field.code() & 1 != 0 {
            return Err(Status::METADATA_FIELD_ID_INCORRECT.into());
        }
        Ok(field)
    }

    /// Reads an element; also the id of the next one.
    pub fn read(&self, id: FieldId) -> Result<(u64, FieldId), Stop> {
        let field = self.find(id)?;
        let mask = self.accessor.masks(field.row).read;
        if mask == 0 {
            return Err(Status::METADATA_FIELD_NOT_READABLE.into());
        }
        let value = self.shown(&field)? & field.row.value_mask() & mask;
        Ok((value, self.scope().next_readable(self.accessor, &field)))
    }

    /// Writes an element; gives the previous value.
    pub fn write(&mut self, id: FieldId, value: u64, request: u64) -> Result<u64, Stop> {
        let field = self.find(id)?;
        let masks = self.accessor.masks(field.row);
        if masks.write & request == 0 {
            return Err(Status::METADATA_FIELD_NOT_WRITABLE.into());
        }
        let current = self.shown(&field)? & field.row.value_mask();
        let address = self.address_kind(&field);
        let mut base = current;
        if masks.write & request == field.row.value_mask() {
            base = 0;
        } else if address.is_some() && base >> 63 != 0 {
            base &= masks.write;
        }
        let new = combine(base, value, request, masks.write)?;
        if let Some(kind) = address
            && !self.address_is_good(kind, new)?
        {
            return Err(Status::METADATA_FIELD_VALUE_NOT_VALID.into());
        }
        self.store(&field, new, masks.write)?;
        Ok(current & masks.read)
    }

    /// The whole element as the accessor sees it, before masks.
    fn shown(&self, field: &Field) -> Result<u64, Stop> {
        if field.l2_vm.is_some() {
            return Err(NOT_MODELLED.into());
        }
        let (class, code) = (field.class(), field.code());
        if class == class::VMCS {
            return Ok(vmcs::read(&self.data.vcpu, &self.data.extra.vmcs, code));
        }
        let value = tdvps::read(self.vp, self.data, self.td, self.sys, class, code);
        Ok(match (class, code) {
            (class::MSR, SPEC_CTRL) => seen_spec_ctrl(self.sys, self.td, value),
            _ => value,
        })
    }

    fn address_kind(&self, field: &Field) -> Option<AddressKind> {
        match (field.class(), field.code()) {
            (class::VMCS, encoding::POSTED_DESCRIPTOR) => Some(AddressKind::SharedHpa(64)),
            (class::VMCS, encoding::SHARED_EPTP | encoding::PML_ADDRESS) => {
                Some(AddressKind::SharedHpa(4096))
            }
            (class::VMCS, encoding::GUEST_CR3) => Some(AddressKind::PrivateGpa),
            _ => None,
        }
    }

    fn address_is_good(&self, kind: AddressKind, value: u64) -> Result<bool, Stop> {
        Ok(match kind {
            AddressKind::SharedHpa(size) => self.module.shared_memory(value, size)?.is_some(),
            AddressKind::PrivateGpa => self.td.config.is_private(Gpa::new(value)),
        })
    }

    fn store(&mut self, field: &Field, new: u64, write_mask: u64) -> Result<(), Stop> {
        let (class, code) = (field.class(), field.code());
        match class {
            class::VMCS => self.store_vmcs(code, new, write_mask),
            class::XBUFF if self.xbuff_is_fixed(code) => {
                Err(Status::METADATA_FIELD_NOT_WRITABLE.into())
            }
            class::MANAGEMENT if code == XFAM => Err(Status::METADATA_FIELD_NOT_WRITABLE.into()),
            class::MANAGEMENT if (TSC_DEADLINE..TSC_DEADLINE + 4).contains(&code) => {
                self.store_deadline(code, new)
            }
            class::MSR if code == SPEC_CTRL => {
                let real = real_spec_ctrl(self.sys, self.td, new);
                tdvps::write(self.data, class, code, real);
                Ok(())
            }
            _ => {
                tdvps::write(self.data, class, code, new);
                Ok(())
            }
        }
    }

    /// The XSAVE header, and RTIT_CTL in the image of the PT component.
    fn xbuff_is_fixed(&self, qword: u32) -> bool {
        let pt = self.td.config.xbuff.offsets[8];
        (64..72).contains(&qword) || (self.td.config.xfam.has(Xfam::PT) && qword == pt / 8)
    }

    /// A deadline of an L2 VM in the TD's TSC; kept in native ticks as well.
    fn store_deadline(&mut self, code: u32, new: u64) -> Result<(), Stop> {
        let native = match new {
            u64::MAX => u64::MAX,
            deadline => {
                let config = &self.td.config;
                let scaled = u128::from(deadline.wrapping_sub(config.tsc_offset)) << 48;
                let native = scaled
                    .checked_div(u128::from(config.tsc_multiplier))
                    .unwrap_or(u128::MAX);
                let native =
                    u64::try_from(native).map_err(|_| Stop::from(Status::OPERAND_INVALID))?;
                native.max(self.tsc)
            }
        };
        let shadow = code - TSC_DEADLINE + SHADOW_TSC_DEADLINE;
        tdvps::write(self.data, class::MANAGEMENT, code, new);
        tdvps::write(self.data, class::MANAGEMENT, shadow, native);
        Ok(())
    }

    fn store_vmcs(&mut self, code: u32, new: u64, write_mask: u64) -> Result<(), Stop> {
        let invalid = || Err(Status::METADATA_FIELD_VALUE_NOT_VALID.into());
        let uninitialized = |field: u32| {
            let status = Status::TD_VMCS_FIELD_NOT_INITIALIZED.with_details(field);
            Err(status.into())
        };
        let controls = &self.data.vcpu.controls;
        let mut value = new;
        match code {
            encoding::GUEST_CR0 => {
                if (new ^ controls.cr0_shadow) & controls.cr0_mask != 0 {
                    return invalid();
                }
                value = new & !controls.cr0_mask | self.data.vcpu.regs.cr0 & controls.cr0_mask;
            }
            encoding::GUEST_CR4 => {
                if (new ^ controls.cr4_shadow) & controls.cr4_mask != 0 {
                    return invalid();
                }
                value = new & !controls.cr4_mask | self.data.vcpu.regs.cr4 & controls.cr4_mask;
            }
            encoding::IA32_DEBUGCTL => {
                if new & TR != 0 && new & BTS == 0 && !self.td.config.is_debug() {
                    return invalid();
                }
                value = new & !UNCORE_PMI | self.host_debugctl & UNCORE_PMI;
            }
            encoding::PIN_CONTROLS => {
                if new & POSTED_INTERRUPTS != 0 && controls.posted_vector == NO_VECTOR {
                    return uninitialized(encoding::NOTIFICATION_VECTOR);
                }
                if new & POSTED_INTERRUPTS != 0 && controls.posted_descriptor == u64::MAX {
                    return uninitialized(encoding::POSTED_DESCRIPTOR);
                }
                self.shadow(SHADOW_PIN, new);
            }
            encoding::NOTIFICATION_VECTOR => {
                if new > 255 {
                    return invalid();
                }
                self.shadow(SHADOW_VECTOR, new);
            }
            encoding::POSTED_DESCRIPTOR => self.shadow(SHADOW_PID, new),
            encoding::SHARED_EPTP => {
                self.data.shared_eptp = new;
                self.shadow(SHADOW_EPTP, new);
            }
            encoding::SECONDARY_CONTROLS => {
                let capability = self.sys.vmx.secondary;
                let must_be_one = capability & 0xFFFF_FFFF;
                let may_be_one = capability >> 32;
                if (!new & must_be_one | new & !may_be_one) & write_mask != 0 {
                    return invalid();
                }
                let pml = vmcs::read(
                    &self.data.vcpu,
                    &self.data.extra.vmcs,
                    encoding::PML_ADDRESS,
                );
                if new & PML != 0 && (!self.td.config.is_debug() || pml == u64::MAX) {
                    return invalid();
                }
            }
            _ => {}
        }
        vmcs::write(&mut self.data.vcpu, &mut self.data.extra.vmcs, code, value);
        Ok(())
    }

    fn shadow(&mut self, (class, code): (u8, u32), value: u64) {
        tdvps::write(self.data, class, code, value);
    }
}
