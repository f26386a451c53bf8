//! Segment descriptors and loads of segment registers (SDM volume 3, chapters 3 and 5).

use crate::cpu::Cpu;
use crate::fault::Fault;
use x86_arch::RamPage;
use x86_arch::vmx::{Seg, Segment};

/// VMCS access-rights bit 16.
pub const UNUSABLE: u32 = 1 << 16;

/// An 8-byte descriptor and where it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub raw: u64,
    pub address: u64,
}

impl Descriptor {
    pub fn access(self) -> u32 {
        (self.raw >> 40 & 0xFF | (self.raw >> 52 & 0xF) << 12) as u32
    }
    pub fn kind(self) -> u32 {
        (self.raw >> 40 & 0xF) as u32
    }
    /// S: code or data rather than system.
    pub fn is_user_type(self) -> bool {
        self.raw >> 44 & 1 != 0
    }
    pub fn dpl(self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }
    pub fn present(self) -> bool {
        self.raw >> 47 & 1 != 0
    }
    pub fn is_code(self) -> bool {
        self.is_user_type() && self.kind() & 8 != 0
    }
    pub fn conforming(self) -> bool {
        self.kind() & 4 != 0
    }
    pub fn long(self) -> bool {
        self.raw >> 53 & 1 != 0
    }
    pub fn big(self) -> bool {
        self.raw >> 54 & 1 != 0
    }
    pub fn base(self) -> u64 {
        self.raw >> 16 & 0xFF_FFFF | (self.raw >> 56) << 24
    }
    pub fn limit(self) -> u32 {
        let limit = (self.raw & 0xFFFF | self.raw >> 32 & 0xF_0000) as u32;
        if self.raw >> 55 & 1 != 0 {
            limit << 12 | 0xFFF
        } else {
            limit
        }
    }
    pub fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            limit: self.limit(),
            access: self.access(),
            base: self.base(),
        }
    }
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    pub fn segment(&self, seg: Seg) -> &Segment {
        &self.vcpu.regs.segments[seg as usize]
    }

    /// The descriptor of a selector that is not null; `fault` is raised with the selector when it lies outside
    /// its table.
    pub fn read_descriptor(
        &mut self,
        selector: u16,
        fault: fn(u16) -> Fault,
    ) -> Result<Descriptor, Fault> {
        let (base, limit) = if selector & 4 != 0 {
            let ldtr = self.vcpu.regs.ldtr;
            if ldtr.access & UNUSABLE != 0 {
                return Err(fault(selector & !3));
            }
            (ldtr.base, ldtr.limit)
        } else {
            let gdtr = self.vcpu.regs.gdtr;
            (gdtr.base, u32::from(gdtr.limit))
        };
        let offset = u32::from(selector & !7);
        if offset + 7 > limit {
            return Err(fault(selector & !3));
        }
        let mut address = base.wrapping_add(u64::from(offset));
        if !self.long_mode() {
            address &= 0xFFFF_FFFF;
        }
        let raw = self.load_system::<u64>(address)?;
        Ok(Descriptor { raw, address })
    }

    /// Sets the accessed bit of a code or data descriptor.
    pub fn mark_accessed(&mut self, descriptor: &mut Descriptor) -> Result<(), Fault> {
        if descriptor.raw >> 40 & 1 == 0 {
            descriptor.raw |= 1 << 40;
            let byte = (descriptor.raw >> 40) as u8;
            self.store_system::<u8>(descriptor.address.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// MOV to, POP and LxS of DS, ES, FS, GS and SS.
    pub fn load_segment(&mut self, seg: Seg, selector: u16) -> Result<(), Fault> {
        if seg == Seg::Ss {
            return self.load_ss(selector);
        }
        if selector & !3 == 0 {
            self.set_segment(seg, null_segment(selector));
            return Ok(());
        }
        let mut descriptor = self.read_descriptor(selector, Fault::gp)?;
        let error = selector & !3;
        let readable =
            descriptor.is_user_type() && (!descriptor.is_code() || descriptor.kind() & 2 != 0);
        if !readable {
            return Err(Fault::gp(error));
        }
        let conforming_code = descriptor.is_code() && descriptor.conforming();
        let rpl = (selector & 3) as u8;
        if !conforming_code && (rpl > descriptor.dpl() || self.cpl > descriptor.dpl()) {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        self.mark_accessed(&mut descriptor)?;
        self.set_segment(seg, descriptor.segment(selector));
        Ok(())
    }

    fn load_ss(&mut self, selector: u16) -> Result<(), Fault> {
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if self.is_64() && self.cpl != 3 && rpl == self.cpl {
                self.set_segment(Seg::Ss, null_stack(selector, self.cpl));
                return Ok(());
            }
            return Err(Fault::GP0);
        }
        let cpl = self.cpl;
        let segment = self.checked_stack(selector, cpl, Fault::gp)?;
        self.set_segment(Seg::Ss, segment);
        Ok(())
    }

    /// A stack segment for privilege level `cpl`: writable data, RPL and DPL equal to it.
    pub fn checked_stack(
        &mut self,
        selector: u16,
        cpl: u8,
        fault: fn(u16) -> Fault,
    ) -> Result<Segment, Fault> {
        let error = selector & !3;
        let mut descriptor = self.read_descriptor(selector, fault)?;
        let writable =
            descriptor.is_user_type() && !descriptor.is_code() && descriptor.kind() & 2 != 0;
        if (selector & 3) as u8 != cpl || !writable || descriptor.dpl() != cpl {
            return Err(fault(error));
        }
        if !descriptor.present() {
            return Err(Fault::ss(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    pub fn set_segment(&mut self, seg: Seg, segment: Segment) {
        self.vcpu.regs.segments[seg as usize] = segment;
        match seg {
            Seg::Cs | Seg::Ss => self.mode_changed(),
            _ => self.bases_changed(),
        }
    }

    /// Loads CS for a transfer to privilege level `cpl`; the descriptor was checked.
    pub fn set_cs(&mut self, descriptor: Descriptor, selector: u16, cpl: u8) {
        let segment = descriptor.segment(selector & !3 | u16::from(cpl));
        self.set_segment(Seg::Cs, segment);
    }
}

/// A data segment register loaded with a null selector.
pub fn null_segment(selector: u16) -> Segment {
    Segment {
        selector,
        limit: 0,
        access: UNUSABLE,
        base: 0,
    }
}

/// SS with a null selector, as 64-bit mode allows below ring 3; its DPL is the CPL.
pub fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment {
        selector,
        limit: 0xFFFF_FFFF,
        access: UNUSABLE | 0xC093 & !(3 << 5) | u32::from(cpl) << 5,
        base: 0,
    }
}
