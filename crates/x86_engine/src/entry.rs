//! VM entry: checks of the guest state (SDM 26.3) and the injected event.

use crate::cpu::{Cpu, bits};
use crate::engine::{MOV_SS_SHADOW, STI_SHADOW};
use crate::event::{Event, Kind, cr0_consistent};
use crate::exec::control_register::CR4_SUPPORTED;
use crate::exit::control;
use crate::fault::Fault;
use crate::flags;
use x86_arch::{ExitReason, RamPage, VmExit};

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Checks the state that was loaded and delivers the event to inject. An error is a VM exit.
    pub(crate) fn enter(&mut self) -> Result<(), Fault> {
        let entry = core::mem::take(&mut self.vcpu.entry_event);
        let event = if entry.info & 1 << 31 != 0 {
            Some(Event::from_entry(&entry))
        } else {
            None
        };
        if event == Some(None) || !self.state_is_valid(event.flatten()) {
            return Err(self.exit_with(VmExit {
                reason: u32::from(ExitReason::FAILED_VMENTER_GS.0) | VmExit::ENTRY_FAILURE,
                ..VmExit::default()
            }));
        }
        if self.secondary(control::VIRTUAL_INTERRUPT) {
            self.virtualize_ppr();
        }
        if self.vcpu.controls.pin & control::PIN_POSTED_INTERRUPTS != 0 {
            // As if the VMM had sent itself the notification before entry, as VMMs do.
            self.posted_interrupts();
        }
        let Some(event) = event.flatten() else {
            return Ok(());
        };
        self.vcpu.regs.activity = 0;
        self.fault_address = self.vcpu.regs.cr2;
        self.inject(event)
    }

    /// The checks on control registers, RFLAGS, RIP and non-register state. Segment registers are taken as they
    /// are: whoever fills a vCPU fills them from a consistent state.
    fn state_is_valid(&self, event: Option<Event>) -> bool {
        let regs = &self.vcpu.regs;
        let paging = regs.cr0 & bits::CR0_PG != 0;
        let efer = regs.msr.efer;
        let control_registers = cr0_consistent(regs.cr0)
            && regs.cr0 >> 32 == 0
            && regs.cr4 & !CR4_SUPPORTED == 0
            && (efer & bits::EFER_LMA != 0) == (paging && efer & bits::EFER_LME != 0)
            && (efer & bits::EFER_LMA == 0 || regs.cr4 & bits::CR4_PAE != 0)
            && (regs.cr4 & bits::CR4_PCIDE == 0 || efer & bits::EFER_LMA != 0)
            && regs.cr3 >> 52 == 0;
        let rip = if self.is_64() {
            self.is_canonical(regs.rip)
        } else {
            regs.rip >> 32 == 0
        };
        let shadow = regs.interruptibility & (STI_SHADOW | MOV_SS_SHADOW);
        let interrupts = regs.rflags & flags::IF != 0;
        let shadows = regs.interruptibility >> 5 == 0
            && shadow != STI_SHADOW | MOV_SS_SHADOW
            && (shadow & STI_SHADOW == 0 || interrupts);
        let injection = event.is_none_or(|event| match event.kind {
            Kind::External => interrupts && shadow == 0,
            Kind::Nmi => event.vector == 2 && shadow & MOV_SS_SHADOW == 0,
            Kind::Hardware => event.vector < 32,
            Kind::Software | Kind::Privileged | Kind::SoftwareException => event.length <= 15,
        });
        control_registers
            && rip
            && regs.rflags & !(flags::DEFINED | 2) == 0
            && regs.rflags & flags::VM == 0
            && regs.dr7 >> 32 == 0
            && regs.activity < 4
            && shadows
            && injection
    }
}
