//! The virtual APIC page: TPR, EOI and self-IPI virtualisation and virtual-interrupt delivery (SDM chapter 30).

use crate::cpu::Cpu;
use crate::event::Event;
use crate::exit::control;
use crate::fault::Fault;
use crate::flags;
use x86_arch::{ExitReason, RamPage, VmExit};

const TPR: usize = 0x80;
const PPR: usize = 0xA0;
const EOI: usize = 0xB0;
const ISR: usize = 0x100;
const IRR: usize = 0x200;
const SELF_IPI: usize = 0x3F0;

impl<P: RamPage + 'static> Cpu<'_, P> {
    fn rvi(&self) -> u8 {
        self.vcpu.controls.interrupt_status as u8
    }
    fn svi(&self) -> u8 {
        (self.vcpu.controls.interrupt_status >> 8) as u8
    }
    fn set_rvi(&mut self, vector: u8) {
        let status = &mut self.vcpu.controls.interrupt_status;
        *status = *status & 0xFF00 | u16::from(vector);
    }
    fn set_svi(&mut self, vector: u8) {
        let status = &mut self.vcpu.controls.interrupt_status;
        *status = *status & 0xFF | u16::from(vector) << 8;
    }

    fn set_vector(&mut self, array: usize, vector: u8, on: bool) {
        let at = array + usize::from(vector >> 5) * 16;
        let bit = 1 << (vector & 31);
        let old = self.vcpu.apic_page.read(at);
        let new = if on { old | bit } else { old & !bit };
        self.vcpu.apic_page.write(at, new);
    }

    /// The highest vector set in ISR or IRR, or 0.
    fn highest(&self, array: usize) -> u8 {
        (0..8usize)
            .rev()
            .find_map(|n| {
                let word = self.vcpu.apic_page.read(array + n * 16);
                (word != 0).then(|| (n * 32) as u8 + (31 - word.leading_zeros() as u8))
            })
            .unwrap_or(0)
    }

    /// PPR virtualisation; what is pending is evaluated at the next boundary.
    pub(crate) fn virtualize_ppr(&mut self) {
        let tpr = self.vcpu.apic_page.read(TPR) as u8;
        let svi = self.svi();
        let ppr = if tpr >> 4 >= svi >> 4 {
            tpr
        } else {
            svi & 0xF0
        };
        self.vcpu.apic_page.write(PPR, u32::from(ppr));
        self.attention = true;
    }

    pub(crate) fn virtual_tpr(&self) -> u8 {
        self.vcpu.apic_page.read(TPR) as u8
    }

    /// After a write of TPR through CR8 or its MSR.
    pub(crate) fn write_virtual_tpr(&mut self, value: u8) {
        self.vcpu.apic_page.write(TPR, u32::from(value));
        self.tpr_changed();
    }

    fn tpr_changed(&mut self) {
        if self.secondary(control::VIRTUAL_INTERRUPT) {
            self.virtualize_ppr();
        } else {
            self.attention = true;
        }
    }

    /// The TPR-below-threshold exit, which follows the write.
    pub(crate) fn check_tpr_threshold(&mut self) -> Result<(), Fault> {
        if self.primary(control::TPR_SHADOW)
            && !self.secondary(control::VIRTUAL_INTERRUPT)
            && u32::from(self.virtual_tpr() >> 4) < self.vcpu.controls.tpr_threshold & 0xF
        {
            return Err(self.exit_plain(ExitReason::TPR_BELOW_THRESHOLD));
        }
        Ok(())
    }

    /// EOI virtualisation. The virtualised-EOI exit is a trap: RIP is past the write.
    pub(crate) fn virtual_eoi(&mut self) -> Result<(), Fault> {
        self.vcpu.apic_page.write(EOI, 0);
        let vector = self.svi();
        self.set_vector(ISR, vector, false);
        let next = self.highest(ISR);
        self.set_svi(next);
        self.virtualize_ppr();
        if self.vcpu.controls.eoi_exit[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0 {
            self.pending_trap = Some(VmExit {
                qualification: u64::from(vector),
                ..VmExit::new(ExitReason::VIRTUALIZED_EOI)
            });
            self.attention = true;
        }
        Ok(())
    }

    pub(crate) fn virtual_self_ipi(&mut self, vector: u8) {
        self.vcpu.apic_page.write(SELF_IPI, u32::from(vector));
        self.request(vector);
    }

    fn request(&mut self, vector: u8) {
        self.set_vector(IRR, vector, true);
        if vector > self.rvi() {
            self.set_rvi(vector);
        }
        self.attention = true;
    }

    /// Moves the posted-interrupt requests into the virtual IRR.
    pub(crate) fn posted_interrupts(&mut self) {
        let descriptor = self.vcpu.controls.posted_descriptor;
        let requests = self.platform.take_posted_interrupts(descriptor);
        for (word, mut bits) in requests.into_iter().enumerate() {
            while bits != 0 {
                self.request((word * 64) as u8 | bits.trailing_zeros() as u8);
                bits &= bits - 1;
            }
        }
    }

    /// A virtual interrupt waits that the virtual priority lets through.
    pub(crate) fn virtual_interrupt_pending(&self) -> bool {
        self.secondary(control::VIRTUAL_INTERRUPT)
            && self.rvi() >> 4 > (self.vcpu.apic_page.read(PPR) as u8) >> 4
    }

    /// Delivers the requesting virtual interrupt.
    pub(crate) fn deliver_virtual_interrupt(&mut self) -> Result<(), Fault> {
        let vector = self.rvi();
        self.set_vector(ISR, vector, true);
        self.set_svi(vector);
        self.vcpu.apic_page.write(PPR, u32::from(vector & 0xF0));
        self.set_vector(IRR, vector, false);
        let next = self.highest(IRR);
        self.set_rvi(next);
        self.inject(Event::external(vector))
    }

    pub(crate) fn interrupts_enabled(&self) -> bool {
        self.system_flags & flags::IF != 0
    }
}
