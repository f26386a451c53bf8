//! TDVPS by class and field code: where metadata finds each field that is not in the VMCS.

use crate::sys::SysInfo;
use crate::td::Td;
use crate::vp::{Vp, VpData};

/// Classes of the VP context.
pub mod class {
    pub const VMCS: u8 = 0;
    pub const VAPIC: u8 = 1;
    pub const VE_INFO: u8 = 2;
    pub const GPR: u8 = 16;
    pub const STATE: u8 = 17;
    pub const XBUFF: u8 = 18;
    pub const MSR: u8 = 19;
    pub const MANAGEMENT: u8 = 32;
    pub const CPUID_CONTROL: u8 = 33;
    pub const EPF_LOG: u8 = 34;
}
use class::{CPUID_CONTROL, EPF_LOG, GPR, MANAGEMENT, MSR, STATE, VAPIC, VE_INFO, XBUFF};

/// Bits 7:4 of a vector: its priority class.
const CLASS: u64 = 0xF0;
/// Offset of PPR in the virtual-APIC page.
const PPR: usize = 0xA0;

/// The whole element, before it is cut to its size.
pub fn read(vp: &Vp, data: &VpData, td: &Td, sys: &SysInfo, class: u8, code: u32) -> u64 {
    let (regs, msr, ve) = (&data.vcpu.regs, &data.vcpu.regs.msr, &data.vcpu.ve_info);
    let only_l1 = |n: u32, value: bool| (n == 0 && value) as u64;
    match (class, code) {
        (VAPIC, n @ 0..=127) => {
            let at = 8 * n as usize;
            let bytes = data.vcpu.apic_page.0[at..at + 8].try_into();
            u64::from_le_bytes(bytes.unwrap_or([0; 8]))
        }
        (VE_INFO, 0) => ve.exit_reason as u64,
        (VE_INFO, 1) => ve.valid as u64,
        (VE_INFO, 2) => ve.exit_qualification,
        (VE_INFO, 3) => ve.guest_linear_address,
        (VE_INFO, 4) => ve.guest_physical_address,
        (VE_INFO, 5) => ve.eptp_index as u64,
        (VE_INFO, 0x10) => ve.instruction_length as u64,
        (VE_INFO, 0x11) => ve.instruction_info as u64,
        (GPR, 4) => 0,
        (GPR, n @ 0..=15) => regs.gpr[n as usize],
        (STATE, n @ 0..=3) => regs.dr[n as usize],
        (STATE, 6) => regs.dr6,
        (STATE, 0x20) => regs.xcr0,
        (STATE, 0x28) => regs.cr2,
        (STATE, 0x100) => interrupt_waits(data) as u64,
        (XBUFF, n @ 0..=1535) => data.extra.xbuff.qword(n as usize),
        (MSR, 0x48) => msr.spec_ctrl,
        (MSR, 0xE1) => msr.umwait_control,
        (MSR, 0x122) => msr.tsx_ctrl,
        (MSR, 0x1C4) => msr.xfd,
        (MSR, 0x1C5) => msr.xfd_err,
        (MSR, 0x600) => msr.ds_area,
        (MSR, 0xDA0) => msr.xss,
        (MSR, 0x2081) => msr.star,
        (MSR, 0x2082) => msr.lstar,
        (MSR, 0x2084) => msr.fmask,
        (MSR, 0x2102) => msr.kernel_gs_base,
        (MSR, 0x2103) => msr.tsc_aux,
        (MANAGEMENT, 0) => vp.state() as u64,
        (MANAGEMENT, 2) => data.index as u64,
        (MANAGEMENT, 3) => vp.pages.len() as u64,
        (MANAGEMENT, 4) => vp.assoc_lpid() as u64,
        (MANAGEMENT, 6) => data.epoch,
        (MANAGEMENT, 7) => data.cpuid_supervisor_ve as u64,
        (MANAGEMENT, 8) => data.cpuid_user_ve as u64,
        (MANAGEMENT, 0xA) => data.last_exit_tsc,
        (MANAGEMENT, 0xB) => data.pend_nmi as u64,
        (MANAGEMENT, 0xC) => data.xfam.0,
        (MANAGEMENT, 0xD) => data.epf_gpas.len() as u64,
        (MANAGEMENT, 0xE) => data.possibly_epf_stepping as u64,
        (MANAGEMENT, 0xF) => data.last_td_exit as u64,
        (MANAGEMENT, n @ 0x10..=0x1E) => {
            let page = vp.pages.get((n - 0x10) as usize);
            page.map_or(0, |page| sys.join(td.keyed(*page)))
        }
        (MANAGEMENT, 0x30) => data.hp_lock_busy_since.unwrap_or(0),
        (MANAGEMENT, 0x31) => data.hp_lock_busy_since.is_some() as u64,
        (MANAGEMENT, 0x40) => data.nmi_unblocking_due_to_iret as u64,
        (MANAGEMENT, 0x41) => data.curr_vm as u64,
        (MANAGEMENT, n @ 0x44..=0x47) => only_l1(n - 0x44, data.launched),
        (MANAGEMENT, n @ 0x48..=0x4B) => only_l1(n - 0x48, data.extra.entered_here),
        (MANAGEMENT, n @ 0x4C..=0x4F) => only_l1(n - 0x4C, data.extra.entered),
        (CPUID_CONTROL, n @ 0..=127) => data.extra.cpuid_control[n as usize] as u64,
        (EPF_LOG, n @ 0x200..=0x21F) => {
            let gpa = data.epf_gpas.get((n - 0x200) as usize);
            gpa.copied().unwrap_or(0)
        }
        _ => data.extra.fields.get(&(class, code)).copied().unwrap_or(0),
    }
}

/// Stores an element already cut to its size.
pub fn write(data: &mut VpData, class: u8, code: u32, value: u64) {
    let regs = &mut data.vcpu.regs;
    match (class, code) {
        (GPR, 4) => {}
        (GPR, n @ 0..=15) => regs.gpr[n as usize] = value,
        (STATE, n @ 0..=3) => regs.dr[n as usize] = value,
        (STATE, 6) => regs.dr6 = value,
        (STATE, 0x20) => regs.xcr0 = value,
        (STATE, 0x28) => regs.cr2 = value,
        (XBUFF, n @ 0..=1535) => data.extra.xbuff.set_qword(n as usize, value),
        (MSR, 0x48) => regs.msr.spec_ctrl = value,
        (MSR, 0xE1) => regs.msr.umwait_control = value,
        (MSR, 0x122) => regs.msr.tsx_ctrl = value,
        (MSR, 0x1C4) => regs.msr.xfd = value,
        (MSR, 0x1C5) => regs.msr.xfd_err = value,
        (MSR, 0x600) => regs.msr.ds_area = value,
        (MSR, 0xDA0) => regs.msr.xss = value,
        (MSR, 0x2081) => regs.msr.star = value,
        (MSR, 0x2082) => regs.msr.lstar = value,
        (MSR, 0x2084) => regs.msr.fmask = value,
        (MSR, 0x2102) => regs.msr.kernel_gs_base = value,
        (MSR, 0x2103) => regs.msr.tsc_aux = value,
        (MANAGEMENT, 7) => data.cpuid_supervisor_ve = value as u8,
        (MANAGEMENT, 8) => data.cpuid_user_ve = value as u8,
        (MANAGEMENT, 0xB) => data.pend_nmi = value as u8,
        (CPUID_CONTROL, n @ 0..=127) => data.extra.cpuid_control[n as usize] = value as u8,
        _ => {
            data.extra.fields.insert((class, code), value);
        }
    }
}

/// VCPU_STATE_DETAILS.VMXIP: a virtual interrupt waits whose class is above the processor priority's.
pub fn interrupt_waits(data: &VpData) -> bool {
    let requested = data.vcpu.controls.interrupt_status as u64;
    requested & CLASS > data.vcpu.apic_page.read(PPR) as u64 & CLASS
}
