//! #BP and #DB of the guest's own making, and the handlers that count them.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::rt::{MAX_WOKEN, console};
use crate::{ROUNDS, checkpoint};

/// What the handlers got, of all processors.
#[unsafe(no_mangle)]
static BP_COUNT: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static DB_COUNT: AtomicU64 = AtomicU64::new(0);
/// The bits of DR6 that were seen.
#[unsafe(no_mangle)]
static DB_SEEN: AtomicU64 = AtomicU64::new(0);
/// Interrupts that woke the first processor.
#[unsafe(no_mangle)]
static WAKE_COUNT: AtomicU64 = AtomicU64::new(0);

/// A vector of our own, sent by another processor or by the processor itself.
pub const WAKE_VECTOR: usize = 0x40;
const GATES: usize = WAKE_VECTOR + 1;

global_asm!(
    r#"
    .section .text.own_exceptions, "ax"
    .globl own_breakpoint
own_breakpoint:
    lock inc qword ptr [BP_COUNT]
    iretq

    # RF in the frame lets an instruction run whose execution a debug register watches.
    .globl own_debug
own_debug:
    push rax
    mov rax, dr6
    and eax, 0xE00F
    lock or qword ptr [DB_SEEN], rax
    lock inc qword ptr [DB_COUNT]
    mov eax, 0xFFFF0FF0
    mov dr6, rax
    or dword ptr [rsp + 24], 0x10000
    pop rax
    iretq

    # EOI is MSR 0x80B of the x2APIC, which the processor itself serves.
own_wake:
    push rax
    push rcx
    push rdx
    lock inc qword ptr [WAKE_COUNT]
    mov ecx, 0x80B
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq

    # RDI: a variable of this processor. Each round raises #BP once and #DB ten times.
raise_round:
    int3
    .byte 0xF1
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    nop
    nop
    pushfq
    and qword ptr [rsp], -257
    popfq
    mov dr0, rdi
    lea rax, [watched_code]
    mov dr1, rax
    mov eax, 0xD060A
    mov dr7, rax
    mov dword ptr [rdi], 1
    nop
watched_code:
    nop
    mov dword ptr [rdi], 2
    mov eax, 0x400
    mov dr7, rax
    ret
"#
);

/// #DB of one round: INT1; TF over three NOPs, PUSHF, AND and POPF; two writes and an execution under DR0 and DR1.
const DB_PER_ROUND: u64 = 1 + 6 + 3;

#[repr(C, align(16))]
struct Gates([[u64; 2]; GATES]);

static mut IDTS: [Gates; MAX_WOKEN + 1] = [const { Gates([[0; 2]; GATES]) }; MAX_WOKEN + 1];
static mut WATCHED: [u64; MAX_WOKEN + 1] = [0; MAX_WOKEN + 1];

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    fn own_breakpoint();
    fn own_debug();
    fn own_wake();
    fn raise_round(watched: *mut u64);
}

/// Gives processor `index` an IDT with the handlers above, which run on the interrupted stack.
pub fn install(index: usize) {
    let mut old = Pointer { limit: 0, base: 0 };
    // SAFETY: each processor touches its own elements only, and its old IDT lives for ever.
    unsafe {
        asm!("sidt [{}]", in(reg) &raw mut old, options(nostack));
        let idt = &mut *(&raw mut IDTS[index]);
        let gates = (usize::from(old.limit) + 1) / 16;
        let from = old.base as *const [u64; 2];
        for (n, gate) in idt.0.iter_mut().take(gates).enumerate() {
            *gate = *from.add(n);
        }
        for (vector, handler) in [
            (1, own_debug as *const () as u64),
            (3, own_breakpoint as *const () as u64),
            (WAKE_VECTOR, own_wake as *const () as u64),
        ] {
            idt.0[vector] = [
                handler & 0xFFFF | 8 << 16 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48,
                handler >> 32,
            ];
        }
        let new = Pointer {
            limit: (16 * GATES - 1) as u16,
            base: idt.0.as_ptr() as u64,
        };
        asm!("lidt [{}]", in(reg) &raw const new, options(nostack));
    }
}

/// Raises them all, round by round.
pub fn raise(index: u64) {
    let mut round = 0;
    while round < ROUNDS.load(Ordering::Relaxed) {
        // SAFETY: the handlers are installed, and the variable is this processor's.
        unsafe {
            asm!("call {}", sym raise_round, in("rdi") &raw mut WATCHED[index as usize],
                out("rax") _);
        }
        checkpoint(index, round);
        round += 1;
    }
}

/// Prints what the handlers got of what they should have.
pub fn tell(vcpus: u64) {
    let rounds = ROUNDS.load(Ordering::Relaxed) * vcpus;
    console::line(format_args!(
        "own #BP {} of {rounds}, own #DB {} of {}, DR6 {:#x}",
        BP_COUNT.load(Ordering::Relaxed),
        DB_COUNT.load(Ordering::Relaxed),
        rounds * DB_PER_ROUND,
        DB_SEEN.load(Ordering::Relaxed),
    ));
}

/// How many interrupts the wake-up handler got.
pub fn wakes() -> u64 {
    WAKE_COUNT.load(Ordering::Relaxed)
}
