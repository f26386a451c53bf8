//! The TD VMCS by encoding: where VP.RD, VP.WR and their guest forms find each field (metadata class 0).
//!
//! Fields that a processor acts on live in [`Vcpu`]; the others (addresses that only a real VMCS holds, bitmaps
//! that never change, copies) are kept in [`VmcsExtra`] as they were written.

use alloc::collections::BTreeMap;
use x86_arch::Gpr;
use x86_arch::vmx::{Registers, Segment, Vcpu};

/// VMCS fields that nothing here acts on, by encoding; a field that is not there reads 0.
#[derive(Clone, Default, Debug)]
pub struct VmcsExtra(pub BTreeMap<u32, u64>);

pub mod encoding {
    pub const NOTIFICATION_VECTOR: u32 = 0x0002;
    pub const PML_ADDRESS: u32 = 0x200E;
    pub const POSTED_DESCRIPTOR: u32 = 0x2016;
    pub const SHARED_EPTP: u32 = 0x203C;
    pub const L2_VAPIC: u32 = 0x2012;
    pub const EPTP: u32 = 0x201A;
    pub const TERTIARY_CONTROLS: u32 = 0x2034;
    pub const HLAT_POINTER: u32 = 0x2040;
    pub const PRIMARY_CONTROLS: u32 = 0x4002;
    pub const PLE_GAP: u32 = 0x4020;
    pub const PLE_WINDOW: u32 = 0x4022;
    pub const CR0_MASK: u32 = 0x6000;
    pub const CR4_MASK: u32 = 0x6002;
    pub const CR0_SHADOW: u32 = 0x6004;
    pub const CR4_SHADOW: u32 = 0x6006;
    pub const GUEST_CR0: u32 = 0x6800;
    pub const GUEST_CR3: u32 = 0x6802;
    pub const GUEST_CR4: u32 = 0x6804;
    pub const IA32_DEBUGCTL: u32 = 0x2802;
    pub const PIN_CONTROLS: u32 = 0x4000;
    pub const SECONDARY_CONTROLS: u32 = 0x401E;
    /// GDTR and IDTR limits are 32-bit fields of which a processor uses 16 bits.
    pub const GDTR_LIMIT: u32 = 0x4810;
    pub const IDTR_LIMIT: u32 = 0x4812;
}

/// Segment registers in VMCS order: ES, CS, SS, DS, FS, GS are 0 to 5, then LDTR and TR.
fn segment(regs: &Registers, n: u32) -> &Segment {
    match n {
        6 => &regs.ldtr,
        7 => &regs.tr,
        n => &regs.segments[n as usize],
    }
}

fn segment_mut(regs: &mut Registers, n: u32) -> &mut Segment {
    match n {
        6 => &mut regs.ldtr,
        7 => &mut regs.tr,
        n => &mut regs.segments[n as usize],
    }
}

/// VMREAD.
pub fn read(vcpu: &Vcpu, extra: &VmcsExtra, field: u32) -> u64 {
    let (regs, controls, msr, exit) = (&vcpu.regs, &vcpu.controls, &vcpu.regs.msr, &vcpu.exit);
    let high = |limit: u16| extra.0.get(&field).copied().unwrap_or(0) & 0xFFFF_0000 | limit as u64;
    match field {
        0x0000 => controls.vpid as u64,
        0x0002 => controls.posted_vector as u64,
        0x0800..=0x080E => segment(regs, (field - 0x0800) / 2).selector as u64,
        0x0810 => controls.interrupt_status as u64,
        0x0814 => msr.uinv,
        0x2010 => controls.tsc_offset,
        0x2016 => controls.posted_descriptor,
        0x201C..=0x2022 => controls.eoi_exit[((field - 0x201C) / 2) as usize],
        0x202C => controls.xss_exiting,
        0x2032 => controls.tsc_multiplier,
        0x2034 => controls.tertiary,
        0x204A => controls.spec_ctrl_mask,
        0x204C => controls.spec_ctrl_shadow,
        0x2400 => exit.guest_physical_address,
        0x2802 => msr.debugctl,
        0x2804 => msr.pat,
        0x2806 => msr.efer,
        0x2808 => msr.perf_global_ctrl,
        0x280A..=0x2810 => regs.pdpte[((field - 0x280A) / 2) as usize],
        0x2814 => msr.rtit_ctl,
        0x2816 => msr.lbr_ctl,
        0x2818 => msr.pkrs,
        0x4000 => controls.pin as u64,
        0x4002 => controls.primary as u64,
        0x4004 => controls.exception_bitmap as u64,
        0x4006 => controls.pf_error_mask as u64,
        0x4008 => controls.pf_error_match as u64,
        0x400C => controls.exit as u64,
        0x4012 => controls.entry as u64,
        0x4016 => vcpu.entry_event.info as u64,
        0x4018 => vcpu.entry_event.error_code as u64,
        0x401A => vcpu.entry_event.instruction_length as u64,
        0x401C => controls.tpr_threshold as u64,
        0x401E => controls.secondary as u64,
        0x4020 => controls.ple_gap as u64,
        0x4022 => controls.ple_window as u64,
        0x4024 => controls.notification_window as u64,
        0x4402 => exit.reason as u64,
        0x4404 => exit.interruption_info as u64,
        0x4406 => exit.interruption_error as u64,
        0x4408 => exit.idt_vectoring_info as u64,
        0x440A => exit.idt_vectoring_error as u64,
        0x440C => exit.instruction_length as u64,
        0x440E => exit.instruction_info as u64,
        0x4800..=0x480E => segment(regs, (field - 0x4800) / 2).limit as u64,
        0x4810 => high(regs.gdtr.limit),
        0x4812 => high(regs.idtr.limit),
        0x4814..=0x4822 => segment(regs, (field - 0x4814) / 2).access as u64,
        0x4824 => regs.interruptibility as u64,
        0x4826 => regs.activity as u64,
        0x482A => msr.sysenter_cs,
        0x482E => controls.preemption_timer as u64,
        0x6000 => controls.cr0_mask,
        0x6002 => controls.cr4_mask,
        0x6004 => controls.cr0_shadow,
        0x6006 => controls.cr4_shadow,
        0x6400 => exit.qualification,
        0x640A => exit.guest_linear_address,
        0x6800 => regs.cr0,
        0x6802 => regs.cr3,
        0x6804 => regs.cr4,
        0x6806..=0x6814 => segment(regs, (field - 0x6806) / 2).base,
        0x6816 => regs.gdtr.base,
        0x6818 => regs.idtr.base,
        0x681A => regs.dr7,
        0x681C => regs.gpr[Gpr::Rsp.index()],
        0x681E => regs.rip,
        0x6820 => regs.rflags,
        0x6822 => regs.pending_debug,
        0x6824 => msr.sysenter_esp,
        0x6826 => msr.sysenter_eip,
        0x6828 => msr.s_cet,
        0x682A => msr.ssp,
        0x682C => msr.interrupt_ssp_table,
        _ => extra.0.get(&field).copied().unwrap_or(0),
    }
}

/// VMWRITE of a value already cut to the field's size.
pub fn write(vcpu: &mut Vcpu, extra: &mut VmcsExtra, field: u32, value: u64) {
    let (regs, controls) = (&mut vcpu.regs, &mut vcpu.controls);
    let low = value as u32;
    match field {
        0x0000 => controls.vpid = value as u16,
        0x0002 => controls.posted_vector = value as u16,
        0x0800..=0x080E => segment_mut(regs, (field - 0x0800) / 2).selector = value as u16,
        0x0810 => controls.interrupt_status = value as u16,
        0x0814 => regs.msr.uinv = value,
        0x2010 => controls.tsc_offset = value,
        0x2016 => controls.posted_descriptor = value,
        0x201C..=0x2022 => controls.eoi_exit[((field - 0x201C) / 2) as usize] = value,
        0x202C => controls.xss_exiting = value,
        0x2032 => controls.tsc_multiplier = value,
        0x2034 => controls.tertiary = value,
        0x204A => controls.spec_ctrl_mask = value,
        0x204C => controls.spec_ctrl_shadow = value,
        0x2802 => regs.msr.debugctl = value,
        0x2804 => regs.msr.pat = value,
        0x2806 => regs.msr.efer = value,
        0x2808 => regs.msr.perf_global_ctrl = value,
        0x280A..=0x2810 => regs.pdpte[((field - 0x280A) / 2) as usize] = value,
        0x2814 => regs.msr.rtit_ctl = value,
        0x2816 => regs.msr.lbr_ctl = value,
        0x2818 => regs.msr.pkrs = value,
        0x4000 => controls.pin = low,
        0x4002 => controls.primary = low,
        0x4004 => controls.exception_bitmap = low,
        0x4006 => controls.pf_error_mask = low,
        0x4008 => controls.pf_error_match = low,
        0x400C => controls.exit = low,
        0x4012 => controls.entry = low,
        0x4016 => vcpu.entry_event.info = low,
        0x4018 => vcpu.entry_event.error_code = low,
        0x401A => vcpu.entry_event.instruction_length = low,
        0x401C => controls.tpr_threshold = low,
        0x401E => controls.secondary = low,
        0x4020 => controls.ple_gap = low,
        0x4022 => controls.ple_window = low,
        0x4024 => controls.notification_window = low,
        0x4800..=0x480E => segment_mut(regs, (field - 0x4800) / 2).limit = low,
        0x4810 => {
            regs.gdtr.limit = value as u16;
            extra.0.insert(field, value);
        }
        0x4812 => {
            regs.idtr.limit = value as u16;
            extra.0.insert(field, value);
        }
        0x4814..=0x4822 => segment_mut(regs, (field - 0x4814) / 2).access = low,
        0x4824 => regs.interruptibility = low,
        0x4826 => regs.activity = low,
        0x482A => regs.msr.sysenter_cs = value,
        0x482E => controls.preemption_timer = low,
        0x6000 => controls.cr0_mask = value,
        0x6002 => controls.cr4_mask = value,
        0x6004 => controls.cr0_shadow = value,
        0x6006 => controls.cr4_shadow = value,
        0x6800 => regs.cr0 = value,
        0x6802 => regs.cr3 = value,
        0x6804 => regs.cr4 = value,
        0x6806..=0x6814 => segment_mut(regs, (field - 0x6806) / 2).base = value,
        0x6816 => regs.gdtr.base = value,
        0x6818 => regs.idtr.base = value,
        0x681A => regs.dr7 = value,
        0x681C => regs.gpr[Gpr::Rsp.index()] = value,
        0x681E => regs.rip = value,
        0x6820 => regs.rflags = value,
        0x6822 => regs.pending_debug = value,
        0x6824 => regs.msr.sysenter_esp = value,
        0x6826 => regs.msr.sysenter_eip = value,
        0x6828 => regs.msr.s_cet = value,
        0x682A => regs.msr.ssp = value,
        0x682C => regs.msr.interrupt_ssp_table = value,
        _ => {
            extra.0.insert(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut vcpu = Vcpu::default();
        let mut extra = VmcsExtra::default();
        let fields = [
            0x0002, 0x0802, 0x080C, 0x2016, 0x2040, 0x280C, 0x4002, 0x4810, 0x4822, 0x6008, 0x6814,
            0x681C,
        ];
        for (n, field) in fields.into_iter().enumerate() {
            let value =
                (0x1_0203 * (n as u64 + 1)) & if field < 0x2000 { 0xFFFF } else { u64::MAX };
            write(&mut vcpu, &mut extra, field, value);
            assert_eq!(read(&vcpu, &extra, field), value, "{field:#x}");
        }
        assert_eq!(vcpu.regs.tr.access, read(&vcpu, &extra, 0x4822) as u32);
        assert_eq!(read(&vcpu, &extra, 0x6C14), 0);
    }
}
