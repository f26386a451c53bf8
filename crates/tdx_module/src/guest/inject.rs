//! Events that the module delivers to the guest, and what it records beside them (guest-virtualization.md 3.1, 7).

use x86_arch::vmx::{EntryEvent, Registers, Vcpu};

/// VM-entry interruption information of what the module injects.
pub const UD: u32 = 0x8000_0306;
pub const GP: u32 = 0x8000_0B0D;
pub const PF: u32 = 0x8000_0B0E;
pub const VE: u32 = 0x8000_0314;
pub const DF: u32 = 0x8000_0B08;
pub const NMI: u32 = 0x8000_0202;
/// Bit 31 of interruption information.
pub const VALID: u32 = 1 << 31;
/// VE_INFO.VALID while the guest has not fetched it.
pub const VE_INFO_BUSY: u32 = u32::MAX;

const RFLAGS_RF: u64 = 1 << 16;
pub const RFLAGS_TF: u64 = 1 << 8;
pub const DEBUGCTL_BTF: u64 = 1 << 1;
pub const PENDING_BS: u64 = 1 << 14;
pub const BLOCKED_BY_STI: u32 = 1 << 0;
pub const BLOCKED_BY_MOV_SS: u32 = 1 << 1;
pub const BLOCKED_BY_NMI: u32 = 1 << 3;

fn deliver(vcpu: &mut Vcpu, info: u32, error_code: u32) {
    vcpu.entry_event = EntryEvent {
        info,
        error_code,
        instruction_length: 0,
    };
    vcpu.regs.rflags |= RFLAGS_RF;
}

pub fn ud(vcpu: &mut Vcpu) {
    deliver(vcpu, UD, 0);
}

pub fn gp(vcpu: &mut Vcpu) {
    deliver(vcpu, GP, 0);
}

/// A #PF could not be queued because a #DF waits already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TripleFault;

/// A #PF; CR2 is loaded. It becomes #DF over a queued #PF or #VE.
pub fn pf(vcpu: &mut Vcpu, linear: u64, error_code: u32) -> Result<(), TripleFault> {
    vcpu.regs.cr2 = linear;
    match vcpu.entry_event.info {
        DF => return Err(TripleFault),
        PF | VE => deliver(vcpu, DF, 0),
        _ => deliver(vcpu, PF, error_code),
    }
    Ok(())
}

/// A #VE with what the last exit said; a #DF while the guest has not fetched the one before.
pub fn ve(vcpu: &mut Vcpu, qualification: u64, linear: u64, physical: u64) {
    ve_for(vcpu, vcpu.exit.reason, qualification, linear, physical);
}

/// The same with another exit reason than the last exit's.
pub fn ve_for(vcpu: &mut Vcpu, reason: u32, qualification: u64, linear: u64, physical: u64) {
    if vcpu.ve_info.valid != 0 {
        return deliver(vcpu, DF, 0);
    }
    vcpu.ve_info.exit_reason = reason;
    vcpu.ve_info.exit_qualification = qualification;
    vcpu.ve_info.guest_linear_address = linear;
    vcpu.ve_info.guest_physical_address = physical;
    vcpu.ve_info.eptp_index = 0;
    vcpu.ve_info.instruction_length = vcpu.exit.instruction_length;
    vcpu.ve_info.instruction_info = vcpu.exit.instruction_info;
    vcpu.ve_info.valid = VE_INFO_BUSY;
    deliver(vcpu, VE, 0);
}

/// The instruction that exited was done: RIP, interrupt shadow and single step move on.
pub fn advance_rip(vcpu: &mut Vcpu) {
    let regs = &mut vcpu.regs;
    regs.rip = regs.rip.wrapping_add(vcpu.exit.instruction_length as u64);
    end_shadow(regs);
}

fn end_shadow(regs: &mut Registers) {
    regs.interruptibility &= !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
    if regs.rflags & RFLAGS_TF != 0 && regs.msr.debugctl & DEBUGCTL_BTF == 0 {
        regs.pending_debug |= PENDING_BS;
    }
}

/// TDG.VP.VEINFO.GET: RCX, RDX, R8, R9, R10 and the area free again; `None` when it is not valid.
pub fn take_ve_info(vcpu: &mut Vcpu) -> Option<[u64; 5]> {
    let info = &mut vcpu.ve_info;
    if info.valid == 0 {
        return None;
    }
    info.valid = 0;
    Some([
        info.exit_reason as u64,
        info.exit_qualification,
        info.guest_linear_address,
        info.guest_physical_address,
        info.instruction_length as u64 | (info.instruction_info as u64) << 32,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_arch::{ExitReason, VmExit};

    fn io_exit() -> Vcpu {
        let mut vcpu = Vcpu {
            exit: VmExit::new(ExitReason::IO_INSTRUCTION),
            ..Vcpu::default()
        };
        vcpu.exit.instruction_length = 2;
        vcpu.exit.instruction_info = 7;
        vcpu
    }

    /// guest-virtualization.md 7.2.
    #[test]
    fn a_second_ve_before_the_first_is_fetched_is_a_df() {
        let mut vcpu = io_exit();
        ve(&mut vcpu, 0x10, 0, 0);
        assert_eq!(vcpu.entry_event.info, VE);
        let first = vcpu.ve_info;
        ve(&mut vcpu, 0x20, 1, 2);
        assert_eq!(vcpu.entry_event.info, DF);
        assert_eq!(vcpu.ve_info, first);
        assert_eq!(take_ve_info(&mut vcpu), Some([30, 0x10, 0, 0, 2 | 7 << 32]));
        assert_eq!(take_ve_info(&mut vcpu), None);
        ve(&mut vcpu, 0x20, 1, 2);
        assert_eq!(vcpu.entry_event.info, VE);
    }

    /// guest-virtualization.md 3.1.
    #[test]
    fn a_page_fault_over_another_becomes_a_double_fault_and_then_a_triple_fault() {
        let mut vcpu = io_exit();
        assert_eq!(pf(&mut vcpu, 0x1000, 9), Ok(()));
        assert_eq!(
            (vcpu.entry_event.info, vcpu.entry_event.error_code),
            (PF, 9)
        );
        assert_eq!(pf(&mut vcpu, 0x2000, 9), Ok(()));
        assert_eq!((vcpu.entry_event.info, vcpu.regs.cr2), (DF, 0x2000));
        assert_eq!(pf(&mut vcpu, 0x3000, 9), Err(TripleFault));
    }

    #[test]
    fn an_emulated_instruction_ends_the_interrupt_shadow_and_steps() {
        let mut vcpu = io_exit();
        vcpu.regs.rip = u64::MAX;
        vcpu.regs.interruptibility = BLOCKED_BY_STI | BLOCKED_BY_NMI;
        vcpu.regs.rflags = RFLAGS_TF;
        advance_rip(&mut vcpu);
        assert_eq!(vcpu.regs.rip, 1);
        assert_eq!(vcpu.regs.interruptibility, BLOCKED_BY_NMI);
        assert_eq!(vcpu.regs.pending_debug, PENDING_BS);
    }
}
