//! System behaviour: paging, exceptions, privileges, VM exits. Each test names the manual's section.

use x86_arch::vmx::{Seg, Segment, TableRegister, Vcpu};
use x86_arch::{EptFault, EptPermissions, ExitReason};
use x86_engine::Stop;
use x86_engine::flat::{FlatGuest, long_vcpu, protected_vcpu};
use x86_engine::side_by_side::SideBySide;

mod gates;
mod paging;
mod pause;

const TABLES: u64 = 0x1000;
const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;
const TSS: u64 = 0x5800;
const CODE: u64 = 0x8000;
/// Where each vector's handler is: HLT, which exits.
const HANDLERS: u64 = 0x6000;
const STACK: u64 = 0x9000;
const STACK0: u64 = 0xA000;

/// A long-mode guest with a GDT, a TSS and an IDT whose handlers are one HLT each.
fn guest(cpl: u8) -> (FlatGuest, Vcpu) {
    let mut guest = FlatGuest::new(0x10_0000);
    let mut vcpu = long_vcpu(&mut guest, TABLES, cpl);
    for (n, descriptor) in [
        0u64,
        0x00AF_9B00_0000_FFFF, // 08: code, ring 0, 64-bit
        0x00CF_9300_0000_FFFF, // 10: data, ring 0
        0x00CF_FB00_0000_FFFF, // 18: code, ring 3, 32-bit
        0x00CF_F300_0000_FFFF, // 20: data, ring 3
        0x00AF_FB00_0000_FFFF, // 28: code, ring 3, 64-bit
    ]
    .into_iter()
    .enumerate()
    {
        guest.put_u64(GDT + n as u64 * 8, descriptor);
    }
    for vector in 0..256 {
        let handler = HANDLERS + vector;
        guest.put(handler, &[0xF4]);
        guest.put_u64(IDT + vector * 16, handler | 8 << 16 | 0xEE00 << 32);
        guest.put_u64(IDT + vector * 16 + 8, 0);
    }
    guest.put_u64(TSS + 4, STACK0);
    vcpu.regs.gdtr = TableRegister {
        base: GDT,
        limit: 0x2F,
    };
    vcpu.regs.idtr = TableRegister {
        base: IDT,
        limit: 0xFFF,
    };
    vcpu.regs.tr = Segment {
        selector: 0x40,
        limit: 0x67,
        access: 0x8B,
        base: TSS,
    };
    let (cs, ss) = if cpl == 3 { (0x2B, 0x23) } else { (8, 0x10) };
    vcpu.regs.segments[Seg::Cs as usize].selector = cs;
    vcpu.regs.segments[Seg::Ss as usize].selector = ss;
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[4] = STACK;
    vcpu.controls.primary = 1 << 7; // HLT exits
    (guest, vcpu)
}

fn run(guest: &mut FlatGuest, vcpu: &mut Vcpu, code: &[u8]) -> ExitReason {
    guest.put(CODE, code);
    let ran = SideBySide::new().run(vcpu, guest, 10_000);
    assert_eq!(ran.stop, Stop::Exit, "RIP {:#x}", vcpu.regs.rip);
    vcpu.exit.basic_reason()
}

/// The vector whose handler halted.
fn vector(guest: &mut FlatGuest, vcpu: &mut Vcpu, code: &[u8]) -> u64 {
    let reason = run(guest, vcpu, code);
    assert_eq!(reason, ExitReason::HLT_INSTRUCTION, "{:?}", vcpu.exit);
    vcpu.regs.rip - HANDLERS
}

fn error_code(guest: &mut FlatGuest, vcpu: &Vcpu) -> u64 {
    guest.get_u64(vcpu.regs.gpr[4])
}

#[test]
fn an_exception_from_ring_3_switches_to_the_ring_0_stack_and_pushes_the_frame() {
    // SDM 6.14.2, 6.14.4
    let (mut g, mut v) = guest(3);
    v.regs.rflags = 0x202;
    assert_eq!(vector(&mut g, &mut v, &[0x0F, 0x0B]), 6);
    assert_eq!(v.regs.gpr[4], STACK0 - 40);
    let frame: Vec<u64> = (0..5).map(|n| g.get_u64(STACK0 - 40 + n * 8)).collect();
    assert_eq!(frame, [CODE, 0x2B, 0x1_0202, STACK, 0x23]);
    assert_eq!(v.regs.segments[Seg::Cs as usize].selector, 8);
    assert_eq!(v.regs.segments[Seg::Ss as usize].selector, 0);
    assert_eq!(v.regs.rflags, 2);
}

#[test]
fn page_faults_carry_exact_error_codes_and_the_address_in_cr2() {
    // SDM 4.7
    let (mut g, mut v) = guest(3);
    // mov al, [0x4000_0000]: not present, read, user
    assert_eq!(
        vector(&mut g, &mut v, &[0x8A, 0x04, 0x25, 0, 0, 0, 0x40]),
        14
    );
    assert_eq!(error_code(&mut g, &v), 4);
    assert_eq!(v.regs.cr2, 0x4000_0000);

    let (mut g, mut v) = guest(0);
    // mov [0x4000_0000], al
    assert_eq!(
        vector(&mut g, &mut v, &[0x88, 0x04, 0x25, 0, 0, 0, 0x40]),
        14
    );
    assert_eq!(error_code(&mut g, &v), 2);

    let (mut g, mut v) = guest(0);
    // jmp to 0x4000_0000 with NXE: instruction fetch
    assert_eq!(
        vector(&mut g, &mut v, &[0xB8, 0, 0, 0, 0x40, 0xFF, 0xE0]),
        14
    );
    assert_eq!(error_code(&mut g, &v), 0x10);
    assert_eq!(v.regs.cr2, 0x4000_0000);
}

#[test]
fn a_reserved_bit_in_an_entry_is_reported() {
    // SDM 4.7: PS in a PML4E
    let (mut g, mut v) = guest(0);
    g.put_u64(TABLES + 8, (TABLES + 0x1000) | 0x87);
    // mov al, [0x80_0000_0000] through RAX
    let code = [0x48, 0xB8, 0, 0, 0, 0, 0x80, 0, 0, 0, 0x8A, 0x00];
    assert_eq!(vector(&mut g, &mut v, &code), 14);
    assert_eq!(error_code(&mut g, &v), 9);
}

#[test]
fn smap_and_smep_keep_the_supervisor_from_user_pages() {
    // SDM 4.6.1
    let (mut g, mut v) = guest(0);
    v.regs.cr4 |= 1 << 21;
    // A second mapping of the first GiB as a supervisor page for code and stack, the user one at 0x40000000.
    g.put_u64(TABLES + 0x1000, 0x83);
    g.put_u64(TABLES + 0x1008, 0x87);
    let load = [0x8A, 0x04, 0x25, 0, 0, 0, 0x40];
    assert_eq!(vector(&mut g, &mut v, &load), 14);
    assert_eq!(error_code(&mut g, &v), 1);
    let (mut g, mut v) = guest(0);
    v.regs.cr4 |= 1 << 21;
    g.put_u64(TABLES + 0x1000, 0x83);
    g.put_u64(TABLES + 0x1008, 0x87);
    // stac; load; hlt
    let mut code = vec![0x0F, 0x01, 0xCB];
    code.extend(load);
    code.push(0xF4);
    assert_eq!(run(&mut g, &mut v, &code), ExitReason::HLT_INSTRUCTION);
    assert_eq!(v.regs.rip, CODE + 10);
    let (mut g, mut v) = guest(0);
    v.regs.cr4 |= 1 << 20;
    g.put_u64(TABLES + 0x1000, 0x83);
    g.put_u64(TABLES + 0x1008, 0x87);
    assert_eq!(
        vector(&mut g, &mut v, &[0xB8, 0, 0x80, 0, 0x40, 0xFF, 0xE0]),
        14
    );
    assert_eq!(error_code(&mut g, &v), 0x11);
}

#[test]
fn accessed_and_dirty_flags_are_set_as_accesses_happen() {
    // SDM 4.8
    let (mut g, mut v) = guest(0);
    g.put_u64(TABLES + 0x1008, 0x83);
    // mov al, [0x40000000]; hlt
    run(&mut g, &mut v, &[0x8A, 0x04, 0x25, 0, 0, 0, 0x40, 0xF4]);
    assert_eq!(g.get_u64(TABLES + 0x1008), 0xA3);
    let (mut g, mut v) = guest(0);
    g.put_u64(TABLES + 0x1008, 0x83);
    run(&mut g, &mut v, &[0x88, 0x04, 0x25, 0, 0x90, 0, 0x40, 0xF4]);
    assert_eq!(g.get_u64(TABLES + 0x1008), 0xE3);
}

#[test]
fn int_n_needs_the_gate_privilege_and_iret_comes_back() {
    // SDM 6.12.1.1
    let (mut g, mut v) = guest(3);
    g.put_u64(IDT + 0x80 * 16, (HANDLERS + 0x80) | 8 << 16 | 0x8E00 << 32);
    assert_eq!(vector(&mut g, &mut v, &[0xCD, 0x80]), 13);
    assert_eq!(error_code(&mut g, &v), 0x80 * 8 + 2);
    let (mut g, mut v) = guest(3);
    g.put(HANDLERS + 0x80, &[0x48, 0xCF]); // iretq
    // int 0x80; ud2
    assert_eq!(vector(&mut g, &mut v, &[0xCD, 0x80, 0x0F, 0x0B]), 6);
    assert_eq!(g.get_u64(v.regs.gpr[4]), CODE + 2);
}

#[test]
fn a_fault_while_a_fault_is_delivered_is_a_double_fault_and_then_a_triple_fault() {
    // SDM 6.15, interrupt 8
    let (mut g, mut v) = guest(0);
    g.put_u64(IDT + 14 * 16, 0); // no #PF gate: #GP while #PF is delivered
    assert_eq!(
        vector(&mut g, &mut v, &[0x8A, 0x04, 0x25, 0, 0, 0, 0x40]),
        8
    );
    assert_eq!(error_code(&mut g, &v), 0);
    let (mut g, mut v) = guest(0);
    v.regs.idtr.limit = 0;
    assert_eq!(run(&mut g, &mut v, &[0x0F, 0x0B]), ExitReason::TRIPLE_FAULT);
    assert_eq!(v.regs.rip, CODE);
}

#[test]
fn syscall_and_sysret_go_to_ring_0_and_back() {
    let (mut g, mut v) = guest(3);
    v.regs.msr.star = 0x0018_0008 << 32;
    v.regs.msr.lstar = 0xB000;
    v.regs.msr.fmask = 0x200;
    v.regs.rflags = 0x202;
    g.put(0xB000, &[0x48, 0x0F, 0x07]); // sysretq
    // syscall; ud2
    assert_eq!(vector(&mut g, &mut v, &[0x0F, 0x05, 0x0F, 0x0B]), 6);
    assert_eq!((v.regs.gpr[1], v.regs.gpr[11]), (CODE + 2, 0x202));
    assert_eq!(g.get_u64(v.regs.gpr[4] + 8), 0x2B);
    assert_eq!(g.get_u64(v.regs.gpr[4] + 32), 0x23);
}

#[test]
fn single_step_traps_after_each_instruction_and_mov_ss_delays_it() {
    // SDM 17.3.1.4, 6.8.3
    let (mut g, mut v) = guest(0);
    v.regs.rflags = 0x102;
    // nop; nop
    assert_eq!(vector(&mut g, &mut v, &[0x90, 0x90]), 1);
    assert_eq!(g.get_u64(v.regs.gpr[4]), CODE + 1);
    assert_eq!(v.regs.dr6, 0xFFFF_4FF0);
}

#[test]
fn data_breakpoints_trap_after_the_access() {
    // SDM 17.2.4
    let (mut g, mut v) = guest(0);
    v.regs.dr[0] = 0x9004;
    v.regs.dr7 = 0x400 | 1 | 0xD << 16; // write, 4 bytes
    // mov [0x9000], rax; nop
    assert_eq!(
        vector(
            &mut g,
            &mut v,
            &[0x48, 0x89, 0x04, 0x25, 0, 0x90, 0, 0, 0x90]
        ),
        1
    );
    assert_eq!(g.get_u64(v.regs.gpr[4]), CODE + 8);
    assert_eq!(v.regs.dr6 & 0xF, 1);
}

#[test]
fn cpuid_io_and_tdcall_exit_with_length_and_qualification() {
    let (mut g, mut v) = guest(0);
    assert_eq!(
        run(&mut g, &mut v, &[0x0F, 0xA2]),
        ExitReason::CPUID_INSTRUCTION
    );
    assert_eq!((v.exit.instruction_length, v.regs.rip), (2, CODE));
    let (mut g, mut v) = guest(0);
    v.controls.primary |= 1 << 24;
    assert_eq!(
        run(&mut g, &mut v, &[0x66, 0xE5, 0x70]),
        ExitReason::IO_INSTRUCTION
    );
    assert_eq!(v.exit.qualification, 0x70_0000 | 1 << 6 | 1 << 3 | 1);
    assert_eq!(v.exit.instruction_length, 3);
    let (mut g, mut v) = guest(0);
    assert_eq!(
        run(&mut g, &mut v, &[0x66, 0x0F, 0x01, 0xCC]),
        ExitReason::TDCALL
    );
    let (mut g, mut v) = guest(3);
    assert_eq!(vector(&mut g, &mut v, &[0x66, 0x0F, 0x01, 0xCC]), 13);
}

#[test]
fn ept_violations_say_what_was_tried_and_allowed() {
    // SDM 28.2.1, table 28-7
    let (mut g, mut v) = guest(0);
    v.controls.primary |= 1 << 31;
    v.controls.secondary |= 2;
    let read_only = EptPermissions {
        read: true,
        write: false,
        execute: false,
    };
    g.second_level.insert(0xC000, Ok(read_only));
    // mov [0xC123], al
    let code = [0x88, 0x04, 0x25, 0x23, 0xC1, 0, 0];
    assert_eq!(run(&mut g, &mut v, &code), ExitReason::EPT_VIOLATION);
    assert_eq!(v.exit.guest_physical_address, 0xC123);
    assert_eq!(v.exit.guest_linear_address, 0xC123);
    // write; readable; GLA valid; translation of the linear address; user page, writable
    assert_eq!(
        v.exit.qualification,
        2 | 8 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10
    );
}

#[test]
fn a_violation_without_suppress_becomes_a_virtualization_exception_once() {
    // SDM 26.5.7
    let (mut g, mut v) = guest(0);
    v.controls.primary |= 1 << 31;
    v.controls.secondary |= 2 | 1 << 18;
    let none = EptPermissions {
        read: false,
        write: false,
        execute: false,
    };
    g.second_level.insert(
        0xC000,
        Err(EptFault::Violation {
            allowed: none,
            suppress_ve: false,
        }),
    );
    let code = [0x8A, 0x04, 0x25, 0, 0xC0, 0, 0];
    assert_eq!(vector(&mut g, &mut v, &code), 20);
    assert_eq!(v.ve_info.exit_reason, 48);
    assert_eq!(v.ve_info.valid, u32::MAX);
    assert_eq!(v.ve_info.guest_physical_address, 0xC000);
    // Again while the area is in use: a VM exit.
    v.regs.rip = CODE;
    assert_eq!(run(&mut g, &mut v, &code), ExitReason::EPT_VIOLATION);
}

#[test]
fn an_entry_event_is_delivered_before_the_first_instruction() {
    let (mut g, mut v) = guest(0);
    v.entry_event.info = 0x8000_0B0D;
    v.entry_event.error_code = 0x18;
    assert_eq!(vector(&mut g, &mut v, &[0x90]), 13);
    assert_eq!(error_code(&mut g, &v), 0x18);
}

#[test]
fn virtual_interrupts_wait_for_if_and_priority_and_eoi_ends_them() {
    // SDM 30.2
    let (mut g, mut v) = guest(0);
    v.controls.primary |= 1 << 31 | 1 << 21;
    v.controls.secondary |= 1 << 4 | 1 << 8 | 1 << 9;
    v.controls.interrupt_status = 0x41;
    v.apic_page.write(0x200 + 0x20, 2);
    // nop; sti; nop; nop: taken after the instruction behind STI
    assert_eq!(vector(&mut g, &mut v, &[0x90, 0xFB, 0x90, 0x90]), 0x41);
    assert_eq!(g.get_u64(v.regs.gpr[4]), CODE + 3);
    assert_eq!(v.controls.interrupt_status, 0x4100);
    assert_eq!(v.apic_page.read(0xA0), 0x40);
    assert_eq!(v.apic_page.read(0x100 + 0x20), 2);
    assert_eq!(v.apic_page.read(0x200 + 0x20), 0);
}

#[test]
fn self_modifying_code_takes_effect_at_once() {
    let (mut g, mut v) = guest(0);
    // mov byte [rip+0], 0xF4 over the NOP that follows; nop; ud2
    let code = [0xC6, 0x05, 0, 0, 0, 0, 0xF4, 0x90, 0x0F, 0x0B];
    assert_eq!(run(&mut g, &mut v, &code), ExitReason::HLT_INSTRUCTION);
    assert_eq!(v.regs.rip, CODE + 7);
}

#[test]
fn the_budget_is_exact() {
    for budget in 1..20 {
        let (mut g, mut v) = guest(0);
        g.put(CODE, &[0x48, 0xFF, 0xC0, 0xEB, 0xFB]); // inc rax; jmp back
        let ran = SideBySide::new().run(&mut v, &mut g, budget);
        assert_eq!((ran.stop, ran.retired), (Stop::Budget, budget));
        assert_eq!(v.regs.gpr[0], budget.div_ceil(2));
    }
}

#[test]
fn a_td_gets_from_its_first_instruction_in_protected_mode_to_64_bit_code() {
    let mut g = FlatGuest::new(0x10_0000);
    let mut v = protected_vcpu(0);
    v.regs.msr.efer = 0x901;
    v.regs.cr4 = 0x2040;
    v.controls.primary = 1 << 7;
    g.put_u64(TABLES, (TABLES + 0x1000) | 7);
    g.put_u64(TABLES + 0x1000, 0x87);
    g.put_u64(GDT + 8, 0x00AF_9B00_0000_FFFF);
    v.regs.gdtr = TableRegister {
        base: GDT,
        limit: 0xF,
    };
    v.regs.rip = CODE;
    let mut code = vec![];
    code.extend([0x0F, 0x20, 0xE0]); // mov eax, cr4
    code.extend([0x83, 0xC8, 0x20]); // or eax, 0x20
    code.extend([0x0F, 0x22, 0xE0]); // mov cr4, eax
    code.extend([0xB8, 0, 0x10, 0, 0, 0x0F, 0x22, 0xD8]); // cr3 = TABLES
    code.extend([0x0F, 0x20, 0xC0, 0x0D, 0, 0, 0, 0x80, 0x0F, 0x22, 0xC0]); // cr0.PG
    let target = (CODE as u32 + code.len() as u32 + 7).to_le_bytes();
    code.push(0xEA);
    code.extend(target);
    code.extend([8, 0]); // jmp 8:target
    code.extend([0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8, 0xF4]); // mov rax, imm64; hlt
    g.put(CODE, &code);
    let ran = SideBySide::new().run(&mut v, &mut g, 1000);
    assert_eq!(ran.stop, Stop::Exit);
    assert_eq!(
        v.exit.basic_reason(),
        ExitReason::HLT_INSTRUCTION,
        "{:?}",
        v.exit
    );
    assert_eq!(v.regs.gpr[0], 0x0807_0605_0403_0201);
    assert_eq!(v.regs.msr.efer, 0xD01);
}

#[test]
fn an_impossible_state_fails_the_entry() {
    // SDM 26.3.1: exit reason 33 with bit 31
    let failed = 1 << 31 | 33;
    let break_it: [fn(&mut Vcpu); 7] = [
        |v| v.regs.rip = 1 << 48,
        |v| v.regs.rflags |= 1 << 15,
        |v| v.regs.cr0 &= !1,
        |v| v.regs.cr4 |= 1 << 23,
        |v| v.regs.msr.efer &= !(1 << 10),
        |v| v.regs.interruptibility = 3,
        |v| v.entry_event.info = 0x8000_0020,
    ];
    for change in break_it {
        let (mut g, mut v) = guest(0);
        change(&mut v);
        let before = v.regs.rip;
        run(&mut g, &mut v, &[0xF4]);
        assert_eq!(v.exit.reason, failed);
        assert_eq!(v.regs.rip, before);
    }
}
