//! One recorded TD entry, played act by act on the module's vCPU.
//!
//! A TDH.VP.ENTER may take many VM entries: the module handles an exit and runs the guest again. What it did is
//! compared when it runs the guest next, or when the TD has exited.

use std::sync::Arc;

use tdx_module::LpId;
use x86_arch::vmx::{EntryEvent, Seg, Vcpu};
use x86_arch::{ExitReason, Gpr, VmExit};

use crate::act::{Act, EntryState, ExitAct, GoesOn, SetRegisters, Then};
use crate::op::Seamcall;
use crate::player::World;
use crate::report::{Book, Place};

/// EFER.LME and LMA, CR0.PG and PE, CR4.PAE. The recording machine leaves the entry controls alone.
const EFER_LME_LMA: u64 = 0x500;
const CR0_PG_PE: u64 = 0x8000_0001;
const CR4_PAE: u64 = 0x20;
/// An event's valid bit, which VM exits clear.
const EVENT_VALID: u32 = 1 << 31;
/// Interrupts given to a guest whose script is at its end before it triple-faults.
const PATIENCE: u32 = 64;

pub(crate) struct Session {
    call: Arc<Seamcall>,
    at: Place,
    next: usize,
    entered: bool,
    open: Option<OpenExit>,
    /// Runs after the end of the script.
    astray: u32,
}

/// An exit whose handling is not compared yet.
struct OpenExit {
    act: usize,
    gpr: [u64; 16],
    rip: u64,
}

impl Session {
    pub(crate) fn new(call: Arc<Seamcall>, at: Place) -> Session {
        Session {
            call,
            at,
            next: 0,
            entered: false,
            open: None,
            astray: 0,
        }
    }

    fn place(&self, act: usize) -> Place {
        let acts = self.call.guest.as_deref().unwrap_or_default();
        let name = acts.get(act).map_or("past the end", Act::name);
        let leaf = match acts.get(act) {
            Some(Act::Exit(exit)) => exit
                .leaf
                .as_ref()
                .map(|l| format!(" {l}"))
                .unwrap_or_default(),
            _ => String::new(),
        };
        let line = self.at.line;
        Place {
            line,
            leaf: format!("{}, guest act {} ({name}{leaf})", self.at.leaf, act + 1),
        }
    }

    /// VM entry until the next VM exit.
    pub(crate) fn run(&mut self, world: &World, lp: LpId, vcpu: &mut Vcpu) {
        self.entered = true;
        let call = self.call.clone();
        let acts = call.guest.as_deref().unwrap_or_default();
        if let Some(open) = self.open.take() {
            self.compare_handling(&mut world.book(), &open, &acts[open.act], vcpu);
        }
        vcpu.entry_event.info &= !EVENT_VALID;
        while let Some(act) = acts.get(self.next) {
            let at = self.place(self.next);
            self.next += 1;
            world.book().counts.guest_acts += 1;
            match act {
                Act::Entry(state) => compare_entry(&mut world.book(), &at, state, vcpu),
                Act::LongMode => long_mode(vcpu),
                Act::Set(registers) => set_registers(registers, vcpu),
                Act::GuestMem {
                    hpa,
                    bytes,
                    label,
                    ignore,
                } => {
                    let mut got = vec![0; bytes.len()];
                    world.hardware.read(*hpa, &mut got);
                    world
                        .book()
                        .compare_bytes(&at, label.as_deref(), bytes, got, ignore);
                }
                Act::GuestStore { hpa, bytes } => world.hardware.write(*hpa, bytes),
                Act::IntrPending { bits } => world.hardware.set_pending(lp.0, *bits),
                // Neither changes a register, as the recordings show at the next entry.
                Act::NativeMsr { write, input } => {
                    let before = vcpu.regs.gpr;
                    set_gprs(input.iter(), vcpu);
                    compare_msr_exits(&mut world.book(), &at, *write, false, vcpu);
                    vcpu.regs.gpr = before;
                }
                Act::NativeCrWrite { cr, input } => {
                    let value = input.iter().next().map_or(0, |(_, value)| value);
                    compare_cr_exits(&mut world.book(), &at, *cr, value, false, vcpu);
                    write_cr(*cr, value, vcpu);
                }
                Act::Host { ops } => {
                    for (i, op) in ops.iter().enumerate() {
                        let leaf = format!("{}, host op {}", at.leaf, i + 1);
                        world.play(
                            &Place {
                                line: at.line,
                                leaf,
                            },
                            op,
                        );
                    }
                }
                Act::Exit(exit) => {
                    self.exit(&mut world.book(), &at, exit, vcpu);
                    return;
                }
            }
        }
        self.stray(&mut world.book(), vcpu);
    }

    fn exit(&mut self, book: &mut Book, at: &Place, exit: &ExitAct, vcpu: &mut Vcpu) {
        set_gprs(exit.input.iter(), vcpu);
        for (reg, name) in &exit.from.0 {
            vcpu.regs.gpr[reg.0.index()] = book.captured(at, name);
        }
        vcpu.exit = exit.vmx;
        match exit.vmx.basic_reason() {
            ExitReason::MSR_READ => compare_msr_exits(book, at, false, true, vcpu),
            ExitReason::MSR_WRITE => compare_msr_exits(book, at, true, true, vcpu),
            // MOV to CR: bits 5:4 of the qualification are 0.
            ExitReason::CR_ACCESS if exit.vmx.qualification >> 4 & 3 == 0 => {
                let (cr, reg) = (
                    exit.vmx.qualification & 15,
                    exit.vmx.qualification >> 8 & 15,
                );
                compare_cr_exits(book, at, cr as u8, vcpu.regs.gpr[reg as usize], true, vcpu);
            }
            _ => {}
        }
        let act = self.next - 1;
        self.open = Some(OpenExit {
            act,
            gpr: vcpu.regs.gpr,
            rip: vcpu.regs.rip,
        });
    }

    /// The module runs the guest again, which the recording may not know: make it leave the TD.
    fn stray(&mut self, book: &mut Book, vcpu: &mut Vcpu) {
        if self.astray == 0 {
            let at = self.place(self.next.saturating_sub(1));
            let (expected, got) = match self.next {
                0 => ("no TD entry", "the guest runs"),
                _ => ("a TD exit", "the guest runs on"),
            };
            book.mismatch(&at, "course", expected.into(), got.into());
        }
        self.astray += 1;
        vcpu.exit = VmExit::new(match self.astray {
            0..PATIENCE => ExitReason::INTERRUPT,
            _ => ExitReason::TRIPLE_FAULT,
        });
        if self.astray < PATIENCE {
            vcpu.exit.interruption_info = EVENT_VALID | 0x20;
        }
    }

    fn compare_handling(&self, book: &mut Book, open: &OpenExit, act: &Act, vcpu: &mut Vcpu) {
        let Act::Exit(exit) = act else { return };
        let at = self.place(open.act);
        match &exit.then {
            Then::GoesOn(then) => compare_going_on(book, &at, then, open, vcpu),
            Then::TdExit | Then::Shutdown => {} // `stray` reports it
        }
    }

    /// The call has returned: did the guest come as far as recorded?
    pub(crate) fn finish(&self, book: &mut Book) {
        let acts = self.call.guest.as_deref().unwrap_or_default();
        if acts.is_empty() {
            return;
        }
        let expected = format!("a TD exit after guest act {}", acts.len());
        if !self.entered {
            book.mismatch(&self.at, "course", expected, "no TD entry".into());
        } else if self.next < acts.len() {
            let got = format!("a TD exit after guest act {}", self.next);
            book.mismatch(&self.place(self.next - 1), "course", expected, got);
        }
    }
}

/// After a mismatch the guest goes on with the recorded values, so that one difference is reported once.
fn compare_entry(book: &mut Book, at: &Place, state: &EntryState, vcpu: &mut Vcpu) {
    let regs = &mut vcpu.regs;
    for (reg, value) in state.gprs.iter() {
        book.compare(at, reg.name(), value.into(), regs.gpr[reg.index()].into());
        regs.gpr[reg.index()] = value;
    }
    let rsp = Gpr::Rsp.index();
    book.compare(at, "RIP", state.rip.into(), regs.rip.into());
    book.compare(at, "RSP", state.rsp.into(), regs.gpr[rsp].into());
    book.compare(at, "RFLAGS", state.rflags.into(), regs.rflags.into());
    (regs.rip, regs.gpr[rsp], regs.rflags) = (state.rip, state.rsp, state.rflags);
    for (i, ymm) in regs.fpu.ymm.iter_mut().enumerate() {
        book.compare(at, &format!("XMM{i}"), state.xmm.get(i), ymm[0]);
        ymm[0] = state.xmm.get(i);
    }
}

fn compare_going_on(book: &mut Book, at: &Place, then: &GoesOn, open: &OpenExit, vcpu: &mut Vcpu) {
    for reg in Gpr::ALL.into_iter().filter(|&reg| reg != Gpr::Rsp) {
        let got = &mut vcpu.regs.gpr[reg.index()];
        if let Some(name) = then.capture.0.get(&crate::registers::TraceGpr(reg)) {
            book.captured.insert(name.clone(), *got);
        }
        if then.volatile.iter().any(|v| v.0 == reg) {
            book.counts.volatile += 1;
            // The recorded guest cleared it, so that the value travels no further.
            *got = 0;
            continue;
        }
        let expected = then.output.get(reg).unwrap_or(open.gpr[reg.index()]);
        book.compare(at, reg.name(), expected.into(), (*got).into());
        *got = expected;
    }
    book.compare_status(at, then.status.as_deref(), then.output.get(Gpr::Rax));
    let rip = open.rip.wrapping_add(then.rip_advance);
    book.compare(
        at,
        "rip_advance",
        then.rip_advance.into(),
        vcpu.regs.rip.wrapping_sub(open.rip).into(),
    );
    vcpu.regs.rip = rip;

    let EntryEvent {
        info, error_code, ..
    } = vcpu.entry_event;
    let got = if info & EVENT_VALID != 0 { info } else { 0 };
    let expected = then.inject.map_or(0, |inject| inject.info);
    book.compare(at, "inject", expected.into(), got.into());
    if let Some(expected) = then.inject.and_then(|inject| inject.error_code) {
        book.compare(at, "inject error_code", expected.into(), error_code.into());
    }
}

fn set_gprs(values: impl Iterator<Item = (Gpr, u64)>, vcpu: &mut Vcpu) {
    for (reg, value) in values {
        vcpu.regs.gpr[reg.index()] = value;
    }
}

fn set_registers(set: &SetRegisters, vcpu: &mut Vcpu) {
    set_gprs(set.gprs.iter(), vcpu);
    if let Some(rip) = set.rip {
        vcpu.regs.rip = rip;
    }
    if let Some(rsp) = set.rsp {
        vcpu.regs.gpr[Gpr::Rsp.index()] = rsp;
    }
    if let Some(values) = set.xmm {
        for (ymm, value) in vcpu.regs.fpu.ymm.iter_mut().zip(values) {
            ymm[0] = value;
        }
    }
    for (field, value) in &set.state {
        field.set(vcpu, *value);
    }
}

fn long_mode(vcpu: &mut Vcpu) {
    let regs = &mut vcpu.regs;
    regs.msr.efer |= EFER_LME_LMA;
    regs.cr0 |= CR0_PG_PE;
    regs.cr4 |= CR4_PAE;
    regs.segments[Seg::Cs as usize].access = 0xA09B;
    regs.segments[Seg::Ss as usize].access = 0xC093;
}

/// Would the MSR bitmap make this access exit?
fn compare_msr_exits(book: &mut Book, at: &Place, write: bool, expected: bool, vcpu: &Vcpu) {
    let msr = vcpu.regs.gpr[Gpr::Rcx.index()] as u32;
    let got = vcpu.msr_bitmap.exits(msr, write);
    book.compare(
        at,
        &format!("exit bit of MSR {msr:#x}"),
        expected.into(),
        got.into(),
    );
}

fn cr_mask_and_shadow(cr: u8, vcpu: &Vcpu) -> (u64, u64) {
    let controls = &vcpu.controls;
    match cr {
        0 => (controls.cr0_mask, controls.cr0_shadow),
        _ => (controls.cr4_mask, controls.cr4_shadow),
    }
}

/// Would the masks make this write exit?
fn compare_cr_exits(book: &mut Book, at: &Place, cr: u8, value: u64, expected: bool, vcpu: &Vcpu) {
    let (mask, shadow) = cr_mask_and_shadow(cr, vcpu);
    let got = (value ^ shadow) & mask != 0;
    book.compare(
        at,
        &format!("exit of the CR{cr} write"),
        expected.into(),
        got.into(),
    );
}

/// Host-owned bits keep their value (SDM 26.3, "Changes to instruction behavior": MOV to CR0, CR4).
fn write_cr(cr: u8, value: u64, vcpu: &mut Vcpu) {
    let (mask, _) = cr_mask_and_shadow(cr, vcpu);
    let target = if cr == 0 {
        &mut vcpu.regs.cr0
    } else {
        &mut vcpu.regs.cr4
    };
    *target = *target & mask | value & !mask;
}
