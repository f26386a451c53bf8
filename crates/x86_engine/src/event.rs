//! Exceptions and interrupts: delivery through the IDT (SDM volume 3, chapter 6), double and triple faults.

use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::flags;
use crate::segment::{Descriptor, null_stack};
use x86_arch::vmx::{EntryEvent, Seg};
use x86_arch::{ExitReason, RamPage, VmExit};

/// The type field of interruption information.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    External = 0,
    Nmi = 2,
    Hardware = 3,
    /// INT n.
    Software = 4,
    /// INT1.
    Privileged = 5,
    /// INT3 and INTO.
    SoftwareException = 6,
}

/// An event to deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    pub vector: u8,
    pub kind: Kind,
    pub error: Option<u32>,
    /// Of the instruction, for the software kinds.
    pub length: u8,
}

impl Event {
    pub fn exception(fault: Fault) -> Event {
        Event {
            vector: fault.vector(),
            kind: Kind::Hardware,
            error: fault.error(),
            length: 0,
        }
    }
    pub fn external(vector: u8) -> Event {
        Event {
            vector,
            kind: Kind::External,
            error: None,
            length: 0,
        }
    }
    /// Interruption information as the VMCS holds it.
    pub fn info(&self) -> u32 {
        u32::from(self.vector)
            | (self.kind as u32) << 8
            | u32::from(self.error.is_some()) << 11
            | 1 << 31
    }
    pub fn has_length(&self) -> bool {
        matches!(
            self.kind,
            Kind::Software | Kind::Privileged | Kind::SoftwareException
        )
    }
    /// The event that VM entry injects; `None` for a type that is no event.
    pub fn from_entry(entry: &EntryEvent) -> Option<Event> {
        let kind = match entry.info >> 8 & 7 {
            0 => Kind::External,
            2 => Kind::Nmi,
            3 => Kind::Hardware,
            4 => Kind::Software,
            5 => Kind::Privileged,
            6 => Kind::SoftwareException,
            _ => return None,
        };
        Some(Event {
            vector: entry.info as u8,
            kind,
            error: (entry.info & 1 << 11 != 0).then_some(entry.error_code),
            length: entry.instruction_length as u8,
        })
    }
    /// The EXT bit of error codes: set unless software asked for the event.
    fn ext(&self) -> u16 {
        u16::from(!matches!(
            self.kind,
            Kind::Software | Kind::SoftwareException
        ))
    }
    /// Whether the pushed RFLAGS image gets RF: the exceptions that are faults.
    fn sets_rf(&self) -> bool {
        self.kind == Kind::Hardware && !matches!(self.vector, 1 | 3 | 4 | 8 | 18)
    }
}

fn contributory(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13 | 21)
}
fn page_fault_class(vector: u8) -> bool {
    matches!(vector, 14 | 20)
}

/// What a fault during the delivery of `first` becomes (SDM table 6-5); `None` is a triple fault.
fn combine(first: &Event, second: Fault) -> Option<Event> {
    let next = second.vector();
    let double = Event {
        vector: 8,
        kind: Kind::Hardware,
        error: Some(0),
        length: 0,
    };
    if first.kind != Kind::Hardware {
        return Some(Event::exception(second));
    }
    if first.vector == 8 && (contributory(next) || page_fault_class(next)) {
        return None;
    }
    if contributory(first.vector) && contributory(next)
        || page_fault_class(first.vector) && (contributory(next) || page_fault_class(next))
    {
        return Some(double);
    }
    Some(Event::exception(second))
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Delivers the exception that an instruction raised, or makes the exit it causes. RIP is the instruction's.
    pub fn raise(&mut self, fault: Fault) -> Result<(), Fault> {
        if fault.is_exit() {
            return Err(fault);
        }
        self.intercept(&Event::exception(fault))?;
        self.inject(Event::exception(fault))
    }

    /// A VM exit if the exception bitmap wants this exception.
    pub fn intercept(&mut self, event: &Event) -> Result<(), Fault> {
        if event.vector >= 32 || self.vcpu.controls.exception_bitmap >> event.vector & 1 == 0 {
            // #PF exits by the match rule alone, inverted when its bitmap bit is clear.
            if event.vector != 14 || !self.page_fault_mismatch(event) {
                return Ok(());
            }
        } else if event.vector == 14 && self.page_fault_mismatch(event) {
            return Ok(());
        }
        let qualification = match event.vector {
            14 => self.fault_address,
            // A VM exit caused by a debug exception leaves none pending (SDM volume 3, 28.3.4).
            1 => std::mem::take(&mut self.vcpu.regs.pending_debug) & 0x600F,
            _ => 0,
        };
        let length = if event.has_length() { event.length } else { 0 };
        let unblocked = u32::from(self.nmi_unblocked && event.vector != 8) << 12;
        Err(self.exit_with(VmExit {
            qualification,
            instruction_length: u32::from(length),
            interruption_info: event.info() | unblocked,
            interruption_error: event.error.unwrap_or(0),
            ..VmExit::new(ExitReason::EXCEPTION_OR_NMI)
        }))
    }

    fn page_fault_mismatch(&self, event: &Event) -> bool {
        let controls = &self.vcpu.controls;
        event.error.unwrap_or(0) & controls.pf_error_mask != controls.pf_error_match
    }

    /// Delivers an event, and the faults its delivery meets, until a handler is entered or a VM exit happens.
    pub fn inject(&mut self, mut event: Event) -> Result<(), Fault> {
        loop {
            if event.kind == Kind::Hardware && event.vector == 14 {
                self.vcpu.regs.cr2 = self.fault_address;
            }
            self.delivering = Some(event);
            match self.deliver(event) {
                Ok(()) => {
                    self.delivering = None;
                    return Ok(());
                }
                Err(fault) if fault.is_exit() => {
                    self.delivering = None;
                    return Err(fault);
                }
                Err(fault) => {
                    let Some(next) = combine(&event, fault) else {
                        self.delivering = None;
                        return Err(self.exit_plain(ExitReason::TRIPLE_FAULT));
                    };
                    // The exit for a nested exception names the event it interrupted.
                    let intercepted = self.intercept(&next);
                    self.delivering = None;
                    intercepted?;
                    event = next;
                }
            }
        }
    }

    fn deliver(&mut self, event: Event) -> Result<(), Fault> {
        let registers = self.snapshot();
        let result = self.deliver_through_idt(event);
        match result {
            Ok(()) => {
                self.vcpu.regs.interruptibility &= !3;
                if event.kind == Kind::Nmi {
                    self.vcpu.regs.interruptibility |= 8;
                }
                if event.kind == Kind::Hardware && event.vector == 1 {
                    self.vcpu.regs.dr7 &= !(1 << 13);
                }
                self.vcpu.regs.activity = 0;
                self.attention = true;
                Ok(())
            }
            Err(fault) => {
                self.restore(registers);
                Err(fault)
            }
        }
    }

    fn gate_error(event: &Event) -> u16 {
        u16::from(event.vector) << 3 | 2 | event.ext()
    }

    fn deliver_through_idt(&mut self, event: Event) -> Result<(), Fault> {
        let long = self.long_mode();
        let error = Self::gate_error(&event);
        let software = matches!(event.kind, Kind::Software | Kind::SoftwareException);
        let idtr = self.vcpu.regs.idtr;
        let size = if long { 16 } else { 8 };
        let offset = u64::from(event.vector) * size;
        if offset + size - 1 > u64::from(idtr.limit) {
            return Err(Fault::gp(error));
        }
        let low = self.load_system::<u64>(idtr.base.wrapping_add(offset))?;
        let high = if long {
            self.load_system::<u64>(idtr.base.wrapping_add(offset + 8))?
        } else {
            0
        };
        let kind = (low >> 40 & 0x1F) as u8;
        let dpl = (low >> 45 & 3) as u8;
        let valid = match kind {
            0xE | 0xF => true,
            0x5..=0x7 => !long,
            _ => false,
        };
        if !valid {
            return Err(Fault::gp(error));
        }
        if software && dpl < self.cpl {
            return Err(Fault::gp(error));
        }
        if low >> 47 & 1 == 0 {
            return Err(Fault::np(error));
        }
        let selector = (low >> 16) as u16;
        if kind == 5 {
            // Task gates leave the guest: qualification bits 31:30 = 3, the selector below.
            return Err(self.exit_with(VmExit {
                qualification: u64::from(selector) | 3 << 30,
                instruction_length: u32::from(event.length),
                ..VmExit::new(ExitReason::TASK_SWITCH)
            }));
        }
        let target = if kind & 8 != 0 {
            low & 0xFFFF | low >> 32 & 0xFFFF_0000 | high << 32
        } else {
            low & 0xFFFF
        };

        let ext = event.ext();
        if selector & !3 == 0 {
            return Err(Fault::gp(ext));
        }
        let mut code = self
            .read_descriptor(selector, Fault::gp)
            .map_err(|f| with_ext(f, ext))?;
        let code_error = selector & !3 | ext;
        if !code.is_code() || code.dpl() > self.cpl || long && (!code.long() || code.big()) {
            return Err(Fault::gp(code_error));
        }
        if !code.present() {
            return Err(Fault::np(code_error));
        }
        let new_cpl = if code.conforming() {
            self.cpl
        } else {
            code.dpl()
        };
        let mut image = self.rflags();
        if event.sets_rf() {
            image |= flags::RF;
        }
        let return_rip = if event.has_length() {
            self.rip.wrapping_add(u64::from(event.length)) & self.mode.ip_mask()
        } else {
            self.rip
        };
        if long {
            let ist = (low >> 32 & 7) as u8;
            self.enter_long(
                &event, &mut code, selector, new_cpl, ist, target, image, return_rip,
            )?;
        } else {
            let wide = kind & 8 != 0;
            self.enter_legacy(
                &event, &mut code, selector, new_cpl, wide, target, image, return_rip,
            )?;
        }
        let mut clear = flags::TF | flags::NT | flags::RF | flags::VM;
        if kind & 1 == 0 {
            clear |= flags::IF;
        }
        self.change_system_flags(clear, 0);
        Ok(())
    }

    #[expect(clippy::too_many_arguments)]
    fn enter_long(
        &mut self,
        event: &Event,
        code: &mut Descriptor,
        selector: u16,
        new_cpl: u8,
        ist: u8,
        target: u64,
        image: u64,
        return_rip: u64,
    ) -> Result<(), Fault> {
        let old_ss = self.segment(Seg::Ss).selector;
        let old_cs = self.segment(Seg::Cs).selector;
        let old_rsp = self.reg(4);
        let ext = event.ext();
        let mut rsp = if ist != 0 {
            self.tss_stack64(28 + u32::from(ist) * 8, ext)?
        } else if new_cpl != self.cpl {
            self.tss_stack64(4 + u32::from(new_cpl) * 8, ext)?
        } else {
            old_rsp
        };
        if !self.is_canonical(rsp) {
            return Err(Fault::ss(ext));
        }
        if !self.is_canonical(target) {
            return Err(Fault::gp(ext));
        }
        self.mark_accessed(code)?;
        rsp &= !0xF;
        if new_cpl != self.cpl {
            let ss = null_stack(u16::from(new_cpl), new_cpl);
            self.set_segment(Seg::Ss, ss);
        }
        // The pushes happen with the new privilege level.
        self.set_cs(*code, selector, new_cpl);
        let mut frame = [
            u64::from(event.error.unwrap_or(0)),
            return_rip,
            u64::from(old_cs),
            image,
            old_rsp,
            u64::from(old_ss),
        ]
        .into_iter()
        .rev()
        .take(if event.error.is_some() { 6 } else { 5 });
        frame
            .try_for_each(|word| {
                rsp = rsp.wrapping_sub(8);
                self.store_in::<u64>(rsp, word, true)
            })
            .map_err(|f| if f == Fault::SS0 { Fault::ss(ext) } else { f })?;
        self.gpr[4] = rsp;
        self.rip = target;
        Ok(())
    }

    /// A stack pointer of a 64-bit TSS.
    pub(crate) fn tss_stack64(&mut self, offset: u32, ext: u16) -> Result<u64, Fault> {
        let tr = self.vcpu.regs.tr;
        if offset + 7 > tr.limit {
            return Err(Fault::ts(tr.selector & !3 | ext));
        }
        self.load_system::<u64>(tr.base.wrapping_add(u64::from(offset)))
    }

    #[expect(clippy::too_many_arguments)]
    fn enter_legacy(
        &mut self,
        event: &Event,
        code: &mut Descriptor,
        selector: u16,
        new_cpl: u8,
        wide: bool,
        target: u64,
        image: u64,
        return_rip: u64,
    ) -> Result<(), Fault> {
        let old_ss = self.segment(Seg::Ss).selector;
        let old_cs = self.segment(Seg::Cs).selector;
        let old_esp = self.reg(4);
        let change = new_cpl != self.cpl;
        let ext = event.ext();
        if change {
            let (ss_selector, esp) = self.tss_stack32(new_cpl, ext)?;
            if ss_selector & !3 == 0 {
                return Err(Fault::ts(ext));
            }
            let ss = self
                .checked_stack(ss_selector, new_cpl, Fault::ts)
                .map_err(|f| with_ext(f, ext))?;
            self.set_segment(Seg::Ss, ss);
            self.gpr[4] = esp;
        }
        if target > u64::from(code.limit()) {
            return Err(Fault::gp(ext));
        }
        self.mark_accessed(code)?;
        self.set_cs(*code, selector, new_cpl);
        let size = if wide { 4 } else { 2 };
        if change {
            self.push_sized(size, u64::from(old_ss))?;
            self.push_sized(size, old_esp)?;
        }
        self.push_sized(size, image)?;
        self.push_sized(size, u64::from(old_cs))?;
        self.push_sized(size, return_rip)?;
        if let Some(code) = event.error {
            self.push_sized(size, u64::from(code))?;
        }
        self.rip = target;
        Ok(())
    }

    /// SS and ESP of a privilege level from a 32-bit (or 16-bit) TSS.
    pub(crate) fn tss_stack32(&mut self, level: u8, ext: u16) -> Result<(u16, u64), Fault> {
        let tr = self.vcpu.regs.tr;
        let wide = tr.access & 8 != 0;
        let offset = if wide {
            4 + u32::from(level) * 8
        } else {
            2 + u32::from(level) * 4
        };
        if offset + if wide { 5 } else { 3 } > tr.limit {
            return Err(Fault::ts(tr.selector & !3 | ext));
        }
        let at = tr.base.wrapping_add(u64::from(offset));
        if wide {
            let esp = self.load_system::<u32>(at)?;
            Ok((self.load_system::<u16>(at.wrapping_add(4))?, u64::from(esp)))
        } else {
            let sp = self.load_system::<u16>(at)?;
            Ok((self.load_system::<u16>(at.wrapping_add(2))?, u64::from(sp)))
        }
    }

    /// What delivery changes before it is certain to succeed.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            rsp: self.reg(4),
            rip: self.rip,
            cs: *self.segment(Seg::Cs),
            ss: *self.segment(Seg::Ss),
        }
    }

    pub(crate) fn restore(&mut self, old: Snapshot) {
        self.gpr[4] = old.rsp;
        self.rip = old.rip;
        self.vcpu.regs.segments[Seg::Cs as usize] = old.cs;
        self.vcpu.regs.segments[Seg::Ss as usize] = old.ss;
        self.mode_changed();
    }

    /// #DB after an instruction, or at a code breakpoint: DR6 gets the conditions in `pending_debug`.
    pub(crate) fn raise_debug(&mut self) -> Result<(), Fault> {
        let pending = self.vcpu.regs.pending_debug & 0x600F;
        let event = Event::exception(Fault::DB);
        self.intercept(&event)?;
        self.vcpu.regs.pending_debug = 0;
        let dr6 = self.vcpu.regs.dr6 & !0xF;
        self.vcpu.regs.dr6 = dr6 | pending | DR6_FIXED;
        self.inject(event)
    }
}

/// Bits of DR6 that always read 1.
const DR6_FIXED: u64 = 0xFFFF_0FF0;

pub(crate) struct Snapshot {
    rsp: u64,
    rip: u64,
    cs: x86_arch::vmx::Segment,
    ss: x86_arch::vmx::Segment,
}

/// The same fault with the EXT bit in its selector error code.
fn with_ext(fault: Fault, ext: u16) -> Fault {
    match (fault.vector(), fault.error()) {
        (10..=13, Some(error)) if !fault.is_exit() => {
            Fault::with_error(fault.vector(), error as u16 | ext)
        }
        _ => fault,
    }
}

/// Whether a value may be loaded into CR0 as a whole (SDM 2.5): reserved combinations.
pub fn cr0_consistent(cr0: u64) -> bool {
    !(cr0 & bits::CR0_PG != 0 && cr0 & bits::CR0_PE == 0
        || cr0 & bits::CR0_NW != 0 && cr0 & bits::CR0_CD == 0)
}
