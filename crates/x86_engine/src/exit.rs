//! VM exits: the exit-information fields (SDM volume 3, chapter 28) and the #VE that the processor itself raises.

use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::paging::PhysicalAccess;
use x86_arch::{Access, EptFault, ExitReason, Gpa, RamPage, VmExit};

/// Control bits by the manual's names (SDM 25.6).
pub mod control {
    pub const PIN_EXTERNAL_INTERRUPT: u32 = 1;
    pub const PIN_NMI: u32 = 1 << 3;
    pub const PIN_VIRTUAL_NMIS: u32 = 1 << 5;
    pub const PIN_PREEMPTION_TIMER: u32 = 1 << 6;
    pub const PIN_POSTED_INTERRUPTS: u32 = 1 << 7;
    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    pub const HLT: u32 = 1 << 7;
    pub const INVLPG: u32 = 1 << 9;
    pub const MWAIT: u32 = 1 << 10;
    pub const RDPMC: u32 = 1 << 11;
    pub const RDTSC: u32 = 1 << 12;
    pub const CR3_LOAD: u32 = 1 << 15;
    pub const CR3_STORE: u32 = 1 << 16;
    pub const TERTIARY: u32 = 1 << 17;
    pub const CR8_LOAD: u32 = 1 << 19;
    pub const CR8_STORE: u32 = 1 << 20;
    pub const TPR_SHADOW: u32 = 1 << 21;
    pub const NMI_WINDOW: u32 = 1 << 22;
    pub const MOV_DR: u32 = 1 << 23;
    pub const UNCONDITIONAL_IO: u32 = 1 << 24;
    pub const IO_BITMAPS: u32 = 1 << 25;
    pub const MONITOR_TRAP_FLAG: u32 = 1 << 27;
    pub const MSR_BITMAPS: u32 = 1 << 28;
    pub const MONITOR: u32 = 1 << 29;
    pub const PAUSE: u32 = 1 << 30;
    pub const SECONDARY: u32 = 1 << 31;

    pub const EPT: u32 = 1 << 1;
    pub const DESCRIPTOR_TABLE: u32 = 1 << 2;
    pub const RDTSCP: u32 = 1 << 3;
    pub const X2APIC: u32 = 1 << 4;
    pub const VPID: u32 = 1 << 5;
    pub const WBINVD: u32 = 1 << 6;
    pub const UNRESTRICTED: u32 = 1 << 7;
    pub const APIC_REGISTER: u32 = 1 << 8;
    pub const VIRTUAL_INTERRUPT: u32 = 1 << 9;
    pub const PAUSE_LOOP: u32 = 1 << 10;
    pub const RDRAND: u32 = 1 << 11;
    pub const INVPCID: u32 = 1 << 12;
    pub const VMFUNC: u32 = 1 << 13;
    pub const ENCLS: u32 = 1 << 15;
    pub const RDSEED: u32 = 1 << 16;
    pub const EPT_VE: u32 = 1 << 18;
    pub const XSAVES: u32 = 1 << 20;
    pub const TSC_SCALING: u32 = 1 << 25;
    pub const USER_WAIT: u32 = 1 << 26;
    pub const PCONFIG: u32 = 1 << 27;
    pub const ENCLV: u32 = 1 << 28;
    pub const BUS_LOCK: u32 = 1 << 30;
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    pub fn primary(&self, bit: u32) -> bool {
        self.vcpu.controls.primary & bit != 0
    }
    /// A secondary control counts only when "activate secondary controls" is on.
    pub fn secondary(&self, bit: u32) -> bool {
        self.primary(control::SECONDARY) && self.vcpu.controls.secondary & bit != 0
    }
    pub(crate) fn second_level_on(&self) -> bool {
        self.secondary(control::EPT)
    }

    /// Records an exit; the caller fills in what `exit` does not say by default.
    pub fn exit_with(&mut self, mut exit: VmExit) -> Fault {
        if let Some(event) = self.delivering {
            exit.idt_vectoring_info = event.info();
            exit.idt_vectoring_error = event.error.unwrap_or(0);
            if event.has_length() {
                exit.instruction_length = u32::from(event.length);
            }
        }
        self.vcpu.exit = exit;
        Fault::EXIT
    }

    /// An exit that the current instruction causes: its length goes with it.
    pub fn exit_instruction(&mut self, reason: ExitReason, qualification: u64) -> Fault {
        self.exit_instruction_info(reason, qualification, 0)
    }

    pub fn exit_instruction_info(
        &mut self,
        reason: ExitReason,
        qualification: u64,
        info: u32,
    ) -> Fault {
        self.exit_with(VmExit {
            qualification,
            instruction_length: u32::from(self.length),
            instruction_info: info,
            ..VmExit::new(reason)
        })
    }

    /// An exit between instructions.
    pub fn exit_plain(&mut self, reason: ExitReason) -> Fault {
        self.exit_with(VmExit::new(reason))
    }

    /// An EPT violation (or the #VE it becomes), misconfiguration or machine check.
    pub(crate) fn second_level_fault(
        &mut self,
        gpa: Gpa,
        access: PhysicalAccess,
        fault: EptFault,
    ) -> Fault {
        let (allowed, suppress_ve) = match fault {
            EptFault::Violation {
                allowed,
                suppress_ve,
            } => (allowed, suppress_ve),
            EptFault::Misconfiguration => {
                return self.exit_with(VmExit {
                    guest_physical_address: gpa.raw(),
                    instruction_length: u32::from(self.length),
                    ..VmExit::new(ExitReason::EPT_MISCONFIGURATION)
                });
            }
            EptFault::MachineCheck(_) => return Fault::MC,
        };
        let mut qualification = match (access.access, access.walk) {
            (Access::Read, _) => 1,
            // Setting accessed and dirty flags reads and writes the entry.
            (Access::Write, true) => 3,
            (Access::Write, false) => 2,
            (Access::Execute, _) => 4,
        };
        qualification |= u64::from(allowed.read) << 3
            | u64::from(allowed.write) << 4
            | u64::from(allowed.execute) << 5;
        if access.linear.is_some() {
            qualification |= 1 << 7;
            if !access.walk {
                qualification |= 1 << 8 | access.rights;
            }
        }
        if self.nmi_unblocked {
            qualification |= 1 << 12;
        }
        let linear = access.linear.unwrap_or(0);
        if !suppress_ve
            && self.secondary(control::EPT_VE)
            && self.vcpu.ve_info.valid == 0
            && self.delivering.is_none()
            && self.cr0() & bits::CR0_PE != 0
        {
            let info = &mut self.vcpu.ve_info;
            info.exit_reason = u32::from(ExitReason::EPT_VIOLATION.0);
            info.valid = u32::MAX;
            info.exit_qualification = qualification;
            info.guest_linear_address = linear;
            info.guest_physical_address = gpa.raw();
            info.eptp_index = 0;
            return Fault::VE;
        }
        self.exit_with(VmExit {
            qualification,
            guest_linear_address: linear,
            guest_physical_address: gpa.raw(),
            ..VmExit::new(ExitReason::EPT_VIOLATION)
        })
    }
}
