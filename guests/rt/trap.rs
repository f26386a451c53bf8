//! Exceptions. Each runs on a stack of its own (IST), since compiled code may use the bytes below RSP.

use core::arch::{asm, global_asm};
use core::mem::size_of;

use super::start::MAX_WOKEN;
use super::tdcall::{Registers, VP_VEINFO_GET, tdcall};
use super::{console, vmcall};

const VECTORS: usize = 32;
const VE: u64 = 20;
const IST_STACK: usize = 0x1000;

/// What the entry code pushes; the last five words are the processor's own.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

global_asm!(
    r#"
    .section .text.traps, "ax"
    .macro trap_entry vector
    .balign 16
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
    .else
    push 0
    .endif
    push \vector
    jmp trap_common
    .endm

    .balign 16
    .globl trap_entries
trap_entries:
    .set vector, 0
    .rept 32
    trap_entry vector
    .set vector, vector + 1
    .endr

trap_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    sub rsp, 520
    and rsp, -16
    fxsave64 [rsp]
    mov rbx, rdi
    call trap
    fxrstor64 [rsp]
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#
);

/// The tables of one vCPU.
#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 5],
    pad: u64,
    /// TSS: 104 bytes; IST1 at byte 36.
    tss: [u32; 26],
    idt: [[u64; 2]; VECTORS],
    stacks: [[u8; IST_STACK]; 2],
}

const NONE: Tables = Tables {
    gdt: [0; 5],
    pad: 0,
    tss: [0; 26],
    idt: [[0; 2]; VECTORS],
    stacks: [[0; IST_STACK]; 2],
};

static mut TABLES: [Tables; MAX_WOKEN + 1] = [NONE; MAX_WOKEN + 1];

unsafe extern "C" {
    static trap_entries: [[u8; 16]; VECTORS];
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Gives vCPU `index` its GDT, TSS and IDT.
pub fn install(index: usize) {
    // SAFETY: each vCPU touches its own element only, once, before anything can trap.
    let tables = unsafe { &mut *(&raw mut TABLES[index]) };
    let ist = |n: usize| tables.stacks[n].as_ptr() as u64 + IST_STACK as u64;
    // IST1 for everything, IST2 for #VE, so that a fault inside the #VE handler can still be told.
    for (n, top) in [ist(0), ist(1)].into_iter().enumerate() {
        tables.tss[9 + 2 * n] = top as u32;
        tables.tss[10 + 2 * n] = (top >> 32) as u32;
    }
    let tss = tables.tss.as_ptr() as u64;
    let limit = size_of::<[u32; 26]>() as u64 - 1;
    tables.gdt = [
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        limit | (tss & 0xFF_FFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56,
        tss >> 32,
    ];
    for (vector, gate) in tables.idt.iter_mut().enumerate() {
        // SAFETY: only the address of the entry is taken.
        let entry = unsafe { &raw const trap_entries[vector] } as u64;
        let ist = if vector as u64 == VE { 2 } else { 1 };
        *gate = [
            entry & 0xFFFF | 8 << 16 | ist << 32 | 0x8E << 40 | (entry >> 16 & 0xFFFF) << 48,
            entry >> 32,
        ];
    }
    let gdt = Pointer {
        limit: 39,
        base: tables.gdt.as_ptr() as u64,
    };
    let idt = Pointer {
        limit: (16 * VECTORS - 1) as u16,
        base: tables.idt.as_ptr() as u64,
    };
    // SAFETY: the tables are complete and live for ever.
    unsafe {
        asm!("lgdt [{gdt}]", "lidt [{idt}]", "ltr {tss:x}", gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt, tss = in(reg) 0x18u16, options(nostack));
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame) {
    if frame.vector == VE && virtualization_exception(frame) {
        return;
    }
    let cr2: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
    console::line(format_args!(
        "exception {} error {:#x} at {:#x}, CR2 {:#x}, RSP {:#x}",
        frame.vector, frame.error, frame.rip, cr2, frame.rsp
    ));
    vmcall::report_fatal_error(0x2, b"unexpected exception, see console");
}

/// Does for the instruction what the VMM would; false when it is none of those known here.
fn virtualization_exception(frame: &mut Frame) -> bool {
    const CPUID: u64 = 10;
    const HLT: u64 = 12;
    const IO: u64 = 30;
    const RDMSR: u64 = 31;
    const WRMSR: u64 = 32;
    let mut info = Registers::default();
    if tdcall(VP_VEINFO_GET, &mut info) != 0 {
        return false;
    }
    let length = info.r10 & 0xFFFF_FFFF;
    match info.rcx {
        CPUID => {
            let Some([eax, ebx, ecx, edx]) = vmcall::cpuid(frame.rax as u32, frame.rcx as u32)
            else {
                return false;
            };
            (frame.rax, frame.rbx) = (eax.into(), ebx.into());
            (frame.rcx, frame.rdx) = (ecx.into(), edx.into());
        }
        HLT => vmcall::hlt(frame.rflags & 0x200 == 0),
        IO => {
            // Exit qualification of I/O: size in 2:0 (less one), IN in 3, string in 4, port in 31:16.
            let (size, port) = ((info.rdx & 7) as u8 + 1, (info.rdx >> 16) as u16);
            let mask = u64::MAX >> (64 - 8 * u32::from(size));
            match info.rdx >> 3 & 3 {
                0 => vmcall::out(port, size, (frame.rax & mask) as u32),
                1 => {
                    let value = u64::from(vmcall::input(port, size)) & mask;
                    frame.rax = if size == 4 {
                        value
                    } else {
                        frame.rax & !mask | value
                    };
                }
                _ => return false,
            }
        }
        RDMSR => {
            let Some(value) = vmcall::rdmsr(frame.rcx as u32) else {
                return false;
            };
            (frame.rax, frame.rdx) = (value & 0xFFFF_FFFF, value >> 32);
        }
        WRMSR => {
            if !vmcall::wrmsr(frame.rcx as u32, frame.rax & 0xFFFF_FFFF | frame.rdx << 32) {
                return false;
            }
        }
        _ => return false,
    }
    frame.rip += length;
    true
}
