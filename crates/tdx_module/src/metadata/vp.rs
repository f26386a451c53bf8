//! Fields of a vCPU: its VMCS and the rest of TDVPS (host-metadata.md 4).

use super::{Accessor, Field, Scope, combine};
use crate::guest::initial::{L2_BITMAPS, real_spec_ctrl, seen_spec_ctrl};
use crate::guest::tdvps::{self, class};
use crate::guest::vmcs::{self, encoding};
use crate::machine::Machine;
use crate::module::Module;
use crate::refusal::Stop;
use crate::sys::SysInfo;
use crate::td::{Td, ZERO_PAGE};
use crate::vp::{Vp, VpData};
use crate::xstate::Xfam;
use tdx_abi::{FieldId, Status};
use x86_arch::Gpa;

/// SHADOW_PID_HPA, SHADOW_PINBASED_EXEC_CTLS, SHADOW_POSTED_INT_NOTIFICATION_VECTOR and SHADOW_SHARED_EPTP of L1.
const SHADOW_PID: (u8, u32) = (class::MANAGEMENT, 0x98);
const SHADOW_PIN: (u8, u32) = (class::MANAGEMENT, 0x9C);
const SHADOW_VECTOR: (u8, u32) = (class::MANAGEMENT, 0xAC);
const SHADOW_EPTP: (u8, u32) = (class::MANAGEMENT, 0xB4);
const L2_CTLS: u32 = 0x50;
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
        self.store(&field, new, masks.write & request)?;
        Ok(current & masks.read)
    }

    /// The whole element as the accessor sees it, before masks.
    fn shown(&self, field: &Field) -> Result<u64, Stop> {
        let (class, code) = (field.class(), field.code());
        if let Some(vm) = field.l2_vm {
            return Ok(self.shown_l2(u32::from(vm), code));
        }
        if let Some(bitmap) = L2_BITMAPS.iter().position(|l2| *l2 == class)
            && self.accessor == Accessor::Guest
        {
            // L1 sees what it wrote, not what is in force.
            return Ok(self.management(L2_BITMAPS[bitmap | 1], code));
        }
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
            (class::VMCS, encoding::L2_VAPIC | encoding::HLAT_POINTER | 0x280A..=0x2810)
                if field.l2_vm.is_some() =>
            {
                Some(AddressKind::PrivateGpa)
            }
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
        if let Some(vm) = field.l2_vm {
            return self.store_l2(u32::from(vm), code, new, write_mask);
        }
        match class {
            37 | 45 | 53 => {
                let td_bitmap = &self.td.config.msr_bitmap.bits[code as usize / 128];
                let at = code as usize % 128 * 8;
                let always =
                    u64::from_le_bytes(td_bitmap[at..at + 8].try_into().unwrap_or([0xFF; 8]));
                tdvps::write(self.data, class + 1, code, new);
                tdvps::write(self.data, class, code, new | always);
                Ok(())
            }
            class::VMCS => self.store_vmcs(code, new, write_mask),
            class::XBUFF if self.xbuff_is_fixed(code) => {
                Err(Status::METADATA_FIELD_NOT_WRITABLE.into())
            }
            class::MANAGEMENT if code == XFAM => Err(Status::METADATA_FIELD_NOT_WRITABLE.into()),
            class::MANAGEMENT if (TSC_DEADLINE..TSC_DEADLINE + 4).contains(&code) => {
                self.store_deadline(code, new)
            }
            class::MANAGEMENT if (L2_CTLS..L2_CTLS + 4).contains(&code) => {
                self.store_l2_ctls(code, new);
                Ok(())
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
        let vm = code - TSC_DEADLINE;
        let exists = vm != 0 && vm <= u32::from(self.td.config.num_l2_vms);
        if exists && new != u64::MAX {
            let past = new <= super::td::virtual_tsc(self.td, self.tsc);
            let native = match past {
                true => self.tsc,
                false => self
                    .native_tsc(new)
                    .filter(|native| *native != 0 && (native.wrapping_sub(self.tsc) as i64) >= 0)
                    .ok_or(Stop::from(Status::OPERAND_INVALID))?,
            };
            tdvps::write(
                self.data,
                class::MANAGEMENT,
                SHADOW_TSC_DEADLINE + vm,
                native,
            );
        }
        tdvps::write(self.data, class::MANAGEMENT, code, new);
        Ok(())
    }

    /// The native TSC at which the TD's shows this value.
    fn native_tsc(&self, virtual_tsc: u64) -> Option<u64> {
        let config = &self.td.config;
        let scaled = u128::from(virtual_tsc.wrapping_sub(config.tsc_offset)) << 48;
        let native = scaled.checked_div(u128::from(config.tsc_multiplier))?;
        u64::try_from(native).ok()
    }

    /// An L2 VM's shared memory is switched on or off: its VMCS names the VMM's EPT or a page of zeros.
    fn store_l2_ctls(&mut self, code: u32, new: u64) {
        const ENABLE_SHARED_EPTP: u64 = 1 << 0;
        let vm = code - L2_CTLS;
        let shared = self.management(class::MANAGEMENT, 0xB4 + vm);
        let zero_page = self
            .td
            .tdcx
            .get(ZERO_PAGE)
            .map_or(0, |page| self.sys.join(self.td.keyed(*page)));
        let eptp = match new & ENABLE_SHARED_EPTP != 0 && shared != u64::MAX {
            true => shared,
            false => zero_page,
        };
        if let Some(l2) = vm
            .checked_sub(1)
            .and_then(|vm| self.data.extra.l2.get_mut(vm as usize))
        {
            l2.0.insert(encoding::SHARED_EPTP, eptp);
        }
        tdvps::write(self.data, class::MANAGEMENT, code, new);
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

    fn management(&self, class: u8, code: u32) -> u64 {
        tdvps::read(self.vp, self.data, self.td, self.sys, class, code)
    }

    /// A field of the L2 VMCS of VM `vm` as the accessor sees it.
    fn shown_l2(&self, vm: u32, code: u32) -> u64 {
        let guest = self.accessor == Accessor::Guest;
        let value = self
            .data
            .extra
            .l2
            .get(vm as usize - 1)
            .map_or(0, |l2| l2.read(code));
        let management = |first: u32| self.management(class::MANAGEMENT, first + vm);
        let base = |code: u32| self.management(class::MANAGEMENT, code);
        match code {
            encoding::SHARED_EPTP => management(0xB4),
            encoding::L2_VAPIC => management(0x110),
            encoding::CR0_MASK if guest => management(0x84),
            encoding::CR0_SHADOW if guest => management(0x88),
            encoding::CR4_MASK if guest => management(0x8C),
            encoding::CR4_SHADOW if guest => management(0x90),
            encoding::PLE_GAP if guest => management(0xA4),
            encoding::PLE_WINDOW if guest => management(0xA8),
            encoding::GUEST_CR0 if guest => value & !base(0x80) | base(0x81) & base(0x80),
            encoding::GUEST_CR4 if guest => value & !base(0x82) | base(0x83) & base(0x82),
            _ => value,
        }
    }

    /// Writes a field of the L2 VMCS of VM `vm` (host-metadata.md 4.2).
    fn store_l2(&mut self, vm: u32, code: u32, new: u64, write_mask: u64) -> Result<(), Stop> {
        let invalid = || Err(Status::METADATA_FIELD_VALUE_NOT_VALID.into());
        let base = |this: &Self, code: u32| this.management(class::MANAGEMENT, code);
        let current = self
            .data
            .extra
            .l2
            .get(vm as usize - 1)
            .map_or(0, |l2| l2.read(code));
        let mut value = new;
        match code {
            encoding::GUEST_CR0 | encoding::GUEST_CR4 => {
                let first = if code == encoding::GUEST_CR0 {
                    0x80
                } else {
                    0x82
                };
                let (mask, shadow) = (base(self, first), base(self, first + 1));
                if (new ^ shadow) & mask != 0 {
                    return invalid();
                }
                value = new & !mask | current & mask;
            }
            encoding::CR0_MASK | encoding::CR0_SHADOW => {
                return self.store_l2_cr(vm, code, new, 0x80, 0x84);
            }
            encoding::CR4_MASK | encoding::CR4_SHADOW => {
                return self.store_l2_cr(vm, code, new, 0x82, 0x8C);
            }
            encoding::SHARED_EPTP => {
                tdvps::write(self.data, class::MANAGEMENT, 0xB4 + vm, new);
                if self.management(class::MANAGEMENT, 0x50 + vm) & 1 == 0 {
                    return Ok(());
                }
            }
            encoding::L2_VAPIC => {
                tdvps::write(self.data, class::MANAGEMENT, 0x110 + vm, new);
                tdvps::write(self.data, class::MANAGEMENT, 0x114 + vm, u64::MAX);
                return Ok(());
            }
            encoding::IA32_DEBUGCTL => {
                if new & TR != 0 && new & BTS == 0 && !self.td.config.is_debug() {
                    return invalid();
                }
                value = new & !UNCORE_PMI | self.host_debugctl & UNCORE_PMI;
            }
            encoding::EPTP => {
                const SUPERVISOR_SHADOW_STACK: u64 = 1 << 7;
                if new & SUPERVISOR_SHADOW_STACK != 0 && !self.td.config.xfam.has_all(Xfam::CET) {
                    return invalid();
                }
            }
            encoding::PRIMARY_CONTROLS
            | encoding::SECONDARY_CONTROLS
            | encoding::TERTIARY_CONTROLS
                if !self.l2_controls_fit(code, new, write_mask) =>
            {
                return invalid();
            }
            encoding::PLE_GAP | encoding::PLE_WINDOW if self.accessor == Accessor::Guest => {
                let shadow = if code == encoding::PLE_GAP {
                    0xA4
                } else {
                    0xA8
                };
                tdvps::write(self.data, class::MANAGEMENT, shadow + vm, new);
                let native = self.native_tsc(new);
                let Some(native) = native.filter(|native| *native <= u64::from(u32::MAX)) else {
                    return invalid();
                };
                value = native;
            }
            _ => {}
        }
        if let Some(l2) = self.data.extra.l2.get_mut(vm as usize - 1) {
            l2.0.insert(code, value);
        }
        Ok(())
    }

    /// Mask or read shadow of CR0 or CR4: L1's own, and with the module's base the effective one.
    fn store_l2_cr(
        &mut self,
        vm: u32,
        code: u32,
        new: u64,
        base: u32,
        shadow: u32,
    ) -> Result<(), Stop> {
        let is_shadow = matches!(code, encoding::CR0_SHADOW | encoding::CR4_SHADOW);
        let own = shadow + vm + if is_shadow { 4 } else { 0 };
        tdvps::write(self.data, class::MANAGEMENT, own, new);
        let read = |code| self.management(class::MANAGEMENT, code);
        let (base_mask, base_shadow) = (read(base), read(base + 1));
        let (mask, seen) = (read(shadow + vm), read(shadow + 4 + vm));
        let (mask_field, shadow_field) = match base {
            0x80 => (encoding::CR0_MASK, encoding::CR0_SHADOW),
            _ => (encoding::CR4_MASK, encoding::CR4_SHADOW),
        };
        if let Some(l2) = self.data.extra.l2.get_mut(vm as usize - 1) {
            l2.0.insert(mask_field, base_mask | mask);
            l2.0.insert(shadow_field, base_mask & !mask & base_shadow | mask & seen);
        }
        Ok(())
    }

    /// Whether control bits within the write mask are possible: for a debugger on the CPU, else for the TD.
    fn l2_controls_fit(&self, code: u32, new: u64, write_mask: u64) -> bool {
        let native = self.accessor == Accessor::HostDebug;
        let (cpu, td) = (&self.sys.vmx, &self.td.config.vmx);
        let capability = match code {
            encoding::PRIMARY_CONTROLS => {
                if native {
                    cpu.primary
                } else {
                    td.primary
                }
            }
            encoding::SECONDARY_CONTROLS => {
                if native {
                    cpu.secondary
                } else {
                    td.secondary
                }
            }
            _ => {
                let may = if native { cpu.tertiary } else { td.tertiary };
                return new & !may & write_mask == 0;
            }
        };
        (!new & capability & 0xFFFF_FFFF | new & !(capability >> 32)) & write_mask == 0
    }

    fn shadow(&mut self, (class, code): (u8, u32), value: u64) {
        tdvps::write(self.data, class, code, value);
    }
}
