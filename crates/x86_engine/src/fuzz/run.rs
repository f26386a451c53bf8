//! Runs a generated program on two processors in turns, with each kind of engine.

use super::input::Input;
use super::machine::{CODE_PAGES, MEMORY, PAGES, SLOT, VPID, counts, frame, machine, processor};
use super::program;
use crate::flat::FlatGuest;
use crate::side_by_side::SideBySide;
use x86_arch::vmx::Vcpu;
use x86_arch::{EptPermissions, ExitReason};

/// Runs of one processor in a row at most.
const RUNS: usize = 48;

/// What programs did and met.
#[derive(Clone, Copy, Default, Debug)]
pub struct Told {
    pub retired: u64,
    /// Of these, by translated code.
    pub translated: u64,
    pub faults: u64,
    pub interrupts: u64,
    pub violations: u64,
    pub other_exits: u64,
}

impl Told {
    pub fn add(&mut self, other: Told) {
        self.retired += other.retired;
        self.translated += other.translated;
        self.faults += other.faults;
        self.interrupts += other.interrupts;
        self.violations += other.violations;
        self.other_exits += other.other_exits;
    }
}

/// Runs `bytes` as a program of many pages with its interrupts, page tables and other processor.
///
/// # Panics
/// When two kinds of engine do not do exactly the same.
pub fn fuzz_programs(bytes: &[u8]) {
    if let Err(difference) = play(bytes) {
        panic!("{difference}");
    }
}

/// The same; the error is the first difference.
pub fn play(bytes: &[u8]) -> Result<Told, String> {
    let (plan, code) = bytes.split_at(bytes.len().min(4 * RUNS));
    let (plan, code) = (&mut Input::new(plan), &mut Input::new(code));
    let shape = code.byte();
    let mut guest = machine(shape & 1 != 0);
    program::write(code, &mut guest);
    let translate_after = u16::from(shape >> 1 & 3);
    let mut engines = SideBySide::with(2, translate_after);
    let mut vcpus = [0, 1].map(processor);
    let mut told = Told::default();
    for _ in 0..RUNS {
        let number = usize::from(plan.once_in(4));
        let vcpu = &mut vcpus[number];
        disturb(plan, vcpu, &mut guest, &mut engines);
        let budget = 1 + u64::from(plan.byte());
        let ran = engines.compare(number, vcpu, &mut guest, budget)?;
        told.retired += ran.retired;
        if ran.stop == crate::Stop::Exit {
            match vcpu.exit.basic_reason() {
                ExitReason::EPT_VIOLATION => told.violations += 1,
                _ => told.other_exits += 1,
            }
            handle(vcpu, &mut guest, number);
        }
        if plan.is_empty() {
            break;
        }
    }
    told.translated = engines.translated();
    (told.faults, told.interrupts) = counts(&mut guest);
    Ok(told)
}

/// What the host or a device does between two runs.
fn disturb(plan: &mut Input<'_>, vcpu: &mut Vcpu, guest: &mut FlatGuest, engines: &mut SideBySide) {
    match plan.below(12) {
        0 if vcpu.regs.rflags & 0x200 != 0 && vcpu.regs.interruptibility & 3 == 0 => {
            // An external interrupt is injected.
            vcpu.entry_event.info = 1 << 31 | 0x30 | u32::from(plan.byte() & 15);
        }
        1 | 2 => {
            // A virtual interrupt is pending.
            let vector = 0x40 | u16::from(plan.byte() & 15);
            vcpu.controls.interrupt_status = vcpu.controls.interrupt_status & 0xFF00 | vector;
            let place = 0x200 + usize::from(vector / 32) * 16;
            let pending = vcpu.apic_page.read(place) | 1 << (vector % 32);
            vcpu.apic_page.write(place, pending);
        }
        3 => {
            // The host writes to code.
            let page = plan.below(CODE_PAGES);
            let byte = u64::from(plan.byte());
            let at = frame(0, page) + (byte >> 3) % 8 * SLOT + byte % 8;
            guest.put(at, &[0xF9]);
        }
        4 => {
            // The second level takes rights, which the cached translations lose.
            let page = frame(0, plan.below(PAGES));
            let rights = plan.byte();
            let permissions = EptPermissions {
                read: rights & 3 != 0,
                write: rights & 7 == 1,
                execute: rights & 8 != 0,
            };
            guest.second_level.insert(page, Ok(permissions));
            engines.invalidate(VPID);
        }
        5 => guest.events.interrupt = true,
        6 => engines.invalidate(VPID),
        _ => {}
    }
}

/// What a VMM does about an exit so that the guest goes on.
fn handle(vcpu: &mut Vcpu, guest: &mut FlatGuest, number: usize) {
    let exit = vcpu.exit;
    if exit.idt_vectoring_info & 1 << 31 != 0 {
        // Once more, as the manual says (SDM 28.2.4).
        vcpu.entry_event.info = exit.idt_vectoring_info & !(1 << 12);
        vcpu.entry_event.error_code = exit.idt_vectoring_error;
        vcpu.entry_event.instruction_length = exit.instruction_length;
    }
    match exit.basic_reason() {
        ExitReason::EPT_VIOLATION => {
            let page = exit.guest_physical_address & !0xFFF;
            assert!(page < MEMORY, "a violation outside memory");
            guest.second_level.remove(&page);
        }
        ExitReason::INTERRUPT => guest.events.interrupt = false,
        ExitReason::TRIPLE_FAULT => *vcpu = processor(number),
        _ if exit.instruction_length != 0 && exit.idt_vectoring_info == 0 => {
            vcpu.regs.rip += u64::from(exit.instruction_length);
            vcpu.regs.interruptibility &= !3;
        }
        _ => *vcpu = processor(number),
    }
}
