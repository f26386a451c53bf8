//! Control registers of a TD: who owns which bit, and MOV CR, CLTS and LMSW that exit (guest-virtualization.md 4).

use super::inject;
use crate::msr::VmxCapabilities;
use crate::xstate::Xfam;
use x86_arch::vmx::Vcpu;

const CR0_PE: u64 = 1 << 0;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// Bits of CR0 that the guest can neither set nor clear and that raise nothing: 6 to 15, 17 and 19 to 28.
const CR0_KEPT: u64 = 0x1FFA_FFC0;
const CR4_MCE: u64 = 1 << 6;
const CR4_VMXE: u64 = 1 << 13;
const CR4_SMXE: u64 = 1 << 14;
const CR4_KL: u64 = 1 << 19;
const CR4_PKE: u64 = 1 << 22;
const CR4_CET: u64 = 1 << 23;
const CR4_PKS: u64 = 1 << 24;
const CR4_UINTR: u64 = 1 << 25;

/// Guest/host masks and read shadows of an L1 vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrOwnership {
    pub cr0_mask: u64,
    pub cr0_shadow: u64,
    pub cr4_mask: u64,
    pub cr4_shadow: u64,
}

/// CR4 bits of features that the TD lacks.
fn missing_in_cr4(xfam: Xfam, pks: bool) -> u64 {
    let mut bits = CR4_KL;
    for (bit, present) in [
        (CR4_PKE, xfam.has(Xfam::PKRU)),
        (CR4_CET, xfam.has_all(Xfam::CET)),
        (CR4_UINTR, xfam.has(Xfam::UINTR)),
        (CR4_PKS, pks),
    ] {
        if !present {
            bits |= bit;
        }
    }
    bits
}

impl CrOwnership {
    pub fn new(cpu: &VmxCapabilities, xfam: Xfam, pks: bool) -> Self {
        let reserved0 = !0 << 32 | CR0_KEPT;
        Self {
            cr0_mask: (cpu.cr0_fixed0 | !cpu.cr0_fixed1) & !CR0_PG
                | CR0_PE
                | CR0_NE
                | CR0_NW
                | CR0_CD
                | reserved0,
            cr0_shadow: cpu.cr0_fixed0 | CR0_PE | CR0_NE,
            cr4_mask: cpu.cr4_fixed0
                | !cpu.cr4_fixed1
                | CR4_MCE
                | CR4_VMXE
                | CR4_SMXE
                | 1 << 15
                | !0 << 26
                | missing_in_cr4(xfam, pks),
            cr4_shadow: cpu.cr4_fixed0 & !CR4_VMXE | CR4_MCE,
        }
    }
}

/// What an exiting CR access came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrOutcome {
    /// Done; RIP moves on.
    Written,
    /// An event waits in the vCPU.
    Injected,
    /// The module never lets this access exit.
    Unexpected,
}

/// A CR-access exit of L1.
pub fn access(vcpu: &mut Vcpu, cpu: &VmxCapabilities, xfam: Xfam, pks: bool) -> CrOutcome {
    let qualification = vcpu.exit.qualification;
    let register = (qualification >> 8 & 0xF) as usize;
    match (qualification >> 4 & 3, qualification & 0xF) {
        (0, 0) => move_to_cr0(vcpu, cpu, vcpu.regs.gpr[register]),
        (0, 4) => move_to_cr4(vcpu, cpu, xfam, pks, vcpu.regs.gpr[register]),
        (3, 0) => {
            let source = qualification >> 16 & 0xE;
            vcpu.regs.cr0 = vcpu.regs.cr0 & !0xE | source | CR0_PE;
            CrOutcome::Written
        }
        _ => CrOutcome::Unexpected,
    }
}

fn move_to_cr0(vcpu: &mut Vcpu, cpu: &VmxCapabilities, value: u64) -> CrOutcome {
    let must_be_one = cpu.cr0_fixed0 & !(CR0_PE | CR0_PG);
    let fault = value & must_be_one != must_be_one
        || value & !cpu.cr0_fixed1 != 0
        || (value & CR0_PE == 0 && value & CR0_PG != 0)
        || (vcpu.regs.cr4 & CR4_CET != 0 && value & CR0_WP == 0);
    if fault {
        inject::gp(vcpu);
        return CrOutcome::Injected;
    }
    let not_virtualized =
        value & (CR0_PE | CR0_NE) != CR0_PE | CR0_NE || value & (CR0_NW | CR0_CD) != 0;
    if not_virtualized {
        inject::ve(vcpu, vcpu.exit.qualification, 0, 0);
        return CrOutcome::Injected;
    }
    vcpu.regs.cr0 = value & !CR0_KEPT | vcpu.regs.cr0 & CR0_KEPT;
    CrOutcome::Written
}

fn move_to_cr4(
    vcpu: &mut Vcpu,
    cpu: &VmxCapabilities,
    xfam: Xfam,
    pks: bool,
    value: u64,
) -> CrOutcome {
    let must_be_one = cpu.cr4_fixed0 & !CR4_VMXE;
    let fault = value & must_be_one != must_be_one
        || value & !cpu.cr4_fixed1 != 0
        || value & missing_in_cr4(xfam, pks) != 0
        || (value & CR4_CET != 0 && vcpu.regs.cr0 & CR0_WP == 0);
    if fault {
        inject::gp(vcpu);
    } else {
        inject::ve(vcpu, vcpu.exit.qualification, 0, 0);
    }
    CrOutcome::Injected
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: VmxCapabilities = VmxCapabilities {
        basic: 0,
        misc: 0,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xFFFF_FFFF,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x03FF_7FFF,
        pin: 0,
        primary: 0,
        secondary: 0,
        tertiary: 0,
        exit: 0,
        entry: 0,
        ept_vpid: 0,
    };

    /// The values that 1.5.01 showed for a TD with x87, SSE and AVX.
    #[test]
    fn masks_and_shadows_are_the_recorded_ones() {
        let owned = CrOwnership::new(&CPU, Xfam(7), false);
        assert_eq!(owned.cr0_mask, 0xFFFF_FFFF_7FFA_FFE1);
        assert_eq!(owned.cr0_shadow, 0x8000_0021);
        assert_eq!(owned.cr4_mask, 0xFFFF_FFFF_FFC8_E040);
        assert_eq!(owned.cr4_shadow, 0x40);
    }

    fn write(cr: u64, value: u64) -> (CrOutcome, Vcpu) {
        let mut vcpu = Vcpu::default();
        vcpu.regs.cr0 = 0x8001_0033;
        vcpu.regs.cr4 = 0x2060;
        vcpu.regs.gpr[1] = value;
        vcpu.exit.qualification = cr | 1 << 8;
        let outcome = access(&mut vcpu, &CPU, Xfam(7), false);
        (outcome, vcpu)
    }

    /// guest-virtualization.md 4.2.
    #[test]
    fn cr0_faults_before_it_is_not_virtualized() {
        assert_eq!(write(0, 0x8000_0001).1.entry_event.info, inject::GP); // NE = 0
        assert_eq!(write(0, 1 << 40 | 0x21).1.entry_event.info, inject::GP);
        assert_eq!(write(0, 0x8000_0020).1.entry_event.info, inject::GP); // PG without PE
        assert_eq!(write(0, 0x20).1.entry_event.info, inject::VE); // PE = 0
        assert_eq!(write(0, 0x4000_0021).1.entry_event.info, inject::VE); // CD
    }

    #[test]
    fn cr0_bits_without_a_meaning_keep_their_value() {
        let (outcome, vcpu) = write(0, 0x9FFB_FFF3);
        assert_eq!(outcome, CrOutcome::Written);
        assert_eq!(vcpu.regs.cr0, 0x8001_0033);
    }

    /// guest-virtualization.md 4.3.
    #[test]
    fn cr4_writes_that_exit_never_succeed() {
        assert_eq!(write(4, 0x20).1.entry_event.info, inject::VE); // MCE cleared
        assert_eq!(write(4, 0x2060).1.entry_event.info, inject::VE); // VMXE set
        assert_eq!(write(4, 0x60 | CR4_PKE).1.entry_event.info, inject::GP);
        assert_eq!(write(4, 0x60 | 1 << 40).1.entry_event.info, inject::GP);
    }

    #[test]
    fn lmsw_cannot_leave_protected_mode() {
        let mut vcpu = Vcpu::default();
        vcpu.regs.cr0 = 0x8000_0021;
        vcpu.exit.qualification = 3 << 4 | 0xA << 16;
        assert_eq!(access(&mut vcpu, &CPU, Xfam(7), false), CrOutcome::Written);
        assert_eq!(vcpu.regs.cr0, 0x8000_002B);
    }

    #[test]
    fn other_accesses_are_unexpected() {
        let mut vcpu = Vcpu::default();
        vcpu.exit.qualification = 3; // MOV to CR3
        assert_eq!(
            access(&mut vcpu, &CPU, Xfam(7), false),
            CrOutcome::Unexpected
        );
        vcpu.exit.qualification = 2 << 4; // CLTS
        assert_eq!(
            access(&mut vcpu, &CPU, Xfam(7), false),
            CrOutcome::Unexpected
        );
    }
}
