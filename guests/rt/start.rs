//! From the reset vector to Rust, and the parked processors.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .reset, "ax"
    .code32
    .globl reset
reset:
    jmp stub32

    .section .stub, "ax"
stub32:
    mov eax, offset entry32
    jmp eax

    # ESI: index of this vCPU, ECX: TD HOB, EBX: width of guest physical addresses.
    .section .text.entry32, "ax"
entry32:
    cli
    lgdt [boot_gdt_pointer]
    # PAE, and OSFXSR and OSXMMEXCPT before any compiled code: core uses SSE. MCE must stay.
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    # Paging, write protection, monitor coprocessor; no emulation, no task switched. EFER.LME is 1 in a TD.
    mov eax, cr0
    or eax, 0x80010002
    and eax, 0xFFFFFFF3
    mov cr0, eax
    .byte 0xEA
    .long entry64
    .word 8

    .code64
entry64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    test esi, esi
    jnz park
    lea rsp, [boot_stack_top]
    mov edi, ecx
    mov esi, ebx
    call start_first
    ud2

    # ACPI multiprocessor wakeup: command, APIC id, vector. The command goes back to 0 when it was taken.
    # The identity map that a woken processor runs on is the one that it already has.
park:
    pause
    cmp word ptr [mailbox], 1
    jne park
    cmp dword ptr [mailbox + 4], esi
    jne park
    mov rax, [mailbox + 8]
    mov word ptr [mailbox], 0
    jmp rax

    # A vector for processors that shall run compiled code; ESI still holds the index.
    .globl wake_with_stack
wake_with_stack:
    mov eax, esi
    imul rax, rax, {stack_size}
    lea rsp, [ap_stacks]
    add rsp, rax
    mov edi, esi
    call start_woken
    ud2

    .section .data.boot_gdt, "aw"
    .balign 16
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF
    .quad 0x00CF93000000FFFF
boot_gdt_pointer:
    .word 23
    .long boot_gdt
    .long 0

    # Identity map of the first 4 GiB in 2 MiB pages; the second PML4 entry is filled by `shared_window`.
    .section .tables, "aw"
    .balign 4096
    .globl pml4
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad pd + 3
    .quad pd + 0x1003
    .quad pd + 0x2003
    .quad pd + 0x3003
    .fill 508, 8, 0
pd:
    .set page, 0
    .rept 2048
    .quad page + 0x83
    .set page, page + 0x200000
    .endr

    .section .bss.a_mailbox, "aw", @nobits
    .balign 4096
    .globl mailbox
mailbox:
    .skip 4096
    .section .bss.stacks, "aw", @nobits
    .balign 16
    .skip 0x8000
boot_stack_top:
    .balign 16
ap_stacks:
    .skip {stack_size} * {max_woken}
"#,
    stack_size = const STACK_SIZE,
    max_woken = const MAX_WOKEN,
);

const STACK_SIZE: usize = 0x2000;
/// Vcpus 1 to here may be woken with a stack; others may be woken by an operating system, which brings its own.
pub const MAX_WOKEN: usize = 16;

#[unsafe(no_mangle)]
extern "C" fn start_first(hob: u64, gpa_width: u64) -> ! {
    super::trap::install(0);
    crate::guest_main(hob, gpa_width)
}

#[unsafe(no_mangle)]
extern "C" fn start_woken(index: u64) -> ! {
    super::trap::install(index as usize);
    crate::woken_main(index)
}
