//! CPUID in a TD (guest-virtualization.md 5).

use super::{Guest, inject};
use crate::cpuid::{EBX, ECX, EDX, ROWS, Registers, effective_leaf, find};
use crate::machine::Machine;
use crate::td::td_ctls;
use core::sync::atomic::Ordering;
use x86_arch::Gpr;

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;
const TSX_CPUID_CLEAR: u64 = 1 << 1;

impl<M: Machine> Guest<'_, M> {
    pub(super) fn cpuid(&mut self) {
        let (leaf, subleaf) = (self.get(Gpr::Rax) as u32, self.get(Gpr::Rcx) as u32);
        let leaf = effective_leaf(leaf, self.sys.cpuid.last_extended);
        if let Some(values) = self.topology(leaf, subleaf) {
            return self.show_cpuid(values);
        }
        let row = find(leaf, subleaf).filter(|row| !ROWS[*row].faulting && !self.wants_ve(*row));
        let Some(row) = row else {
            return inject::ve(&mut self.data.vcpu, 0, 0, 0);
        };
        let values = self.cpuid_values(row);
        self.show_cpuid(values);
    }

    fn show_cpuid(&mut self, values: Registers) {
        let registers = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx];
        for (reg, value) in registers.into_iter().zip(values) {
            self.set(reg, value as u64);
        }
    }

    /// The x2APIC id of the vCPU, if the guest asked for topology enumeration.
    pub(super) fn shown_x2apic_id(&self) -> Option<u32> {
        let asked = self.td.td_ctls.load(Ordering::Acquire) & td_ctls::ENUM_TOPOLOGY != 0;
        asked.then(|| self.td.topology.x2apic_id(self.data.index))
    }

    /// CPUID 0xB and 0x1F, if they are not a #VE.
    fn topology(&self, leaf: u32, subleaf: u32) -> Option<Registers> {
        let id = self.shown_x2apic_id()?;
        let values = self.td.config.cpuid.topology?.answer(leaf, subleaf, id)?;
        // CPUID 0xB is no row: only the switches for all leaves hold for it.
        let ve = match find(leaf, subleaf) {
            Some(row) => self.wants_ve(row),
            None if self.cpl() == 0 => self.data.cpuid_supervisor_ve != 0,
            None => self.data.cpuid_user_ve != 0,
        };
        (!ve).then_some(values)
    }

    /// Whether the guest itself asked for a #VE at this privilege level.
    fn wants_ve(&self, row: usize) -> bool {
        let control = self.data.extra.cpuid_control[row];
        match self.cpl() {
            0 => self.data.cpuid_supervisor_ve != 0 || control & 1 != 0,
            _ => self.data.cpuid_user_ve != 0 || control & 2 != 0,
        }
    }

    /// The TD's values with what depends on the vCPU's state.
    fn cpuid_values(&self, row: usize) -> [u32; 4] {
        let mut values = self.td.config.cpuid.values[row];
        let regs = &self.data.vcpu.regs;
        let bit = |on: bool, bit: u32| (on as u32) << bit;
        match (ROWS[row].leaf, ROWS[row].subleaf) {
            (1, _) => {
                let id = self.shown_x2apic_id().unwrap_or(self.data.index);
                values[EBX] = values[EBX] & 0x00FF_FFFF | id << 24;
                values[ECX] = values[ECX] & !(1 << 27) | bit(regs.cr4 & CR4_OSXSAVE != 0, 27);
            }
            (7, Some(0)) => {
                values[ECX] = values[ECX] & !(1 << 4) | bit(regs.cr4 & CR4_PKE != 0, 4);
                if self.td.config.cpuid.tsx && regs.msr.tsx_ctrl & TSX_CPUID_CLEAR != 0 {
                    values[EBX] &= !(1 << 4 | 1 << 11);
                }
            }
            (0xD, Some(subleaf @ (0 | 1))) => {
                let machine = self.module.machine();
                values[EBX] = machine.xsave_size(self.lp, subleaf, regs.xcr0, regs.msr.xss);
            }
            (0x8000_0001, _) => {
                values[EDX] = values[EDX] & !(1 << 11) | bit(self.is_64_bit(), 11);
            }
            _ => {}
        }
        values
    }
}
