//! Several processors on one memory, each an engine on a thread of its own, translators beside interpreters: locked
//! instructions are atomic, plain ones do not tear, memory keeps x86's order, and code that another processor writes runs
//! as written once both kept to the manual's protocol (SDM 3A 9.1.3).

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use EngineKind::{Interpreter, Translator};
use tdx_machine::{Memory, Page};
use x86_arch::vmx::Vcpu;
use x86_arch::{Access, EptFault, EptPermissions, Gpa, Hkid, Hpa, KeyedHpa, SecondLevelMapping};
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, EngineKind, MachineCheck, PendingEvents, Platform, Stop};

const TABLES: u64 = 0x1000;
const CODE: u64 = 0x8000;
const DATA: u64 = 0x10_0000;
const RESULTS: u64 = 0x20_0000;
/// Pages of code that is rewritten.
const SCRATCH: u64 = 0x80_0000;
const MEMORY: u64 = 16 << 20;

/// How the engines of two processors pair up.
const PAIRS: [[EngineKind; 2]; 4] = [
    [Translator, Translator],
    [Translator, Interpreter],
    [Interpreter, Translator],
    [Interpreter, Interpreter],
];

/// One processor's view of the memory: flat, without second level and events.
struct Processor(Arc<Memory>);

fn page(memory: &Memory, at: u64) -> Option<Page> {
    memory.page(KeyedHpa::new(Hpa::new(at & !0xFFF), Hkid(0)))
}

fn put(memory: &Memory, at: u64, bytes: &[u8]) {
    let to = KeyedHpa::new(Hpa::new(at), Hkid(0));
    memory.write(to, bytes).expect("plain memory");
}

fn get(memory: &Memory, at: u64, bytes: usize) -> u64 {
    let mut value = [0; 8];
    let from = KeyedHpa::new(Hpa::new(at), Hkid(0));
    memory
        .read(from, &mut value[..bytes])
        .expect("plain memory");
    u64::from_le_bytes(value)
}

impl Platform for Processor {
    type Page = Page;

    fn translate(&mut self, gpa: Gpa, _: Access) -> Result<SecondLevelMapping, EptFault> {
        Ok(SecondLevelMapping {
            page: KeyedHpa::new(Hpa::new(gpa.page().raw()), Hkid(0)),
            level: 0,
            permissions: EptPermissions::RWX,
        })
    }
    fn page(&mut self, at: KeyedHpa) -> Option<Page> {
        page(&self.0, at.hpa.raw())
    }
    fn read(&mut self, from: KeyedHpa, _: &mut [u8]) -> Result<(), MachineCheck> {
        Err(MachineCheck(from.hpa))
    }
    fn write(&mut self, to: KeyedHpa, _: &[u8]) -> Result<(), MachineCheck> {
        Err(MachineCheck(to.hpa))
    }
    fn tsc(&mut self, ticks: u64) -> u64 {
        ticks
    }
    fn random(&mut self) -> Option<u64> {
        None
    }
    fn pending_events(&mut self) -> PendingEvents {
        PendingEvents::default()
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        0
    }
    fn take_posted_interrupts(&mut self, _: u64) -> [u64; 4] {
        [0; 4]
    }
    fn read_msr(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _: u32, _: u64) -> bool {
        false
    }
}

/// What one processor runs: the program, and registers by number.
struct Task {
    kind: EngineKind,
    program: &'static [u8],
    registers: Vec<(Register, u64)>,
}

#[derive(Clone, Copy)]
enum Register {
    Rbx = 3,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R12 = 12,
    R13 = 13,
    R14 = 14,
}
use Register::*;

fn task(kind: EngineKind, program: &'static [u8], registers: &[(Register, u64)]) -> Task {
    Task {
        kind,
        program,
        registers: registers.to_vec(),
    }
}

/// Memory with page tables and one code page for each task, which starts at its page's `offset`.
fn memory(tasks: &[Task]) -> Arc<Memory> {
    const NO_PRIVATE_KEYS: RangeInclusive<u16> = 2..=3;
    let memory = Memory::new(vec![MEMORY], 4, NO_PRIVATE_KEYS);
    put(&memory, TABLES, &(TABLES + 0x1000 | 7).to_le_bytes());
    put(&memory, TABLES + 0x1000, &0x87u64.to_le_bytes());
    for (number, task) in tasks.iter().enumerate() {
        put(&memory, code_of(number), task.program);
    }
    Arc::new(memory)
}

fn code_of(number: usize) -> u64 {
    CODE + number as u64 * 0x1000
}

fn vcpu(number: usize, task: &Task) -> Vcpu {
    // Its tables are those of `memory`.
    let mut vcpu = long_vcpu(&mut FlatGuest::new(MEMORY), TABLES, 0);
    vcpu.regs.rip = code_of(number);
    vcpu.regs.gpr[4] = RESULTS - 0x1000 * (number as u64 + 1);
    for &(register, value) in &task.registers {
        vcpu.regs.gpr[register as usize] = value;
    }
    vcpu
}

/// Runs every task on a thread until it halts; one that does not has found something wrong.
fn run(memory: &Arc<Memory>, tasks: Vec<Task>) {
    // Processors that wait for each other in loops need the host's to themselves.
    static ONE_TEST_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_TEST_AT_A_TIME
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let failed = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (number, task) in tasks.into_iter().enumerate() {
            scope.spawn(move || {
                let mut vcpu = vcpu(number, &task);
                let mut engine = Engine::with(task.kind);
                engine.translate_after(2);
                // Nobody waits for one that failed.
                while !failed.load(Relaxed) {
                    let mut processor = Processor(Arc::clone(memory));
                    let ran = engine.run(&mut vcpu, &mut processor, 50_000);
                    match ran.stop {
                        Stop::Budget if ran.ticks > 2 * ran.retired => std::thread::yield_now(),
                        Stop::Budget => {}
                        Stop::Halted => break,
                        stop => {
                            failed.store(true, Relaxed);
                            panic!(
                                "processor {number} ({}): {stop:?} at {:#x}, RAX {:#x}, R12 {:#x}",
                                task.kind, vcpu.regs.rip, vcpu.regs.gpr[0], vcpu.regs.gpr[12]
                            )
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn locked_instructions_lose_no_count() {
    const TIMES: u64 = 20_000;
    let kinds = [Translator, Interpreter, Translator, Interpreter];
    let tasks: Vec<Task> = kinds
        .map(|kind| task(kind, COUNT, &[(Rdi, DATA), (R12, TIMES)]))
        .into();
    let memory = memory(&tasks);
    run(&memory, tasks);
    let all = kinds.len() as u64 * TIMES;
    for (what, offset, bytes, expected) in [
        ("XADD of a byte", 0, 1, all & 0xFF),
        ("XADD of a word", 2, 2, all & 0xFFFF),
        ("INC of a doubleword", 4, 4, all),
        ("ADD to a quadword", 8, 8, all),
        ("CMPXCHG", 0x10, 8, all),
        ("ADD, unaligned", 0x41, 4, all),
        ("ADD over two cache lines", 0x7C, 8, all),
        ("CMPXCHG, unaligned", 0x93, 4, all),
        ("CMPXCHG16B, low", 0xA0, 8, all),
        ("CMPXCHG16B, high", 0xA8, 8, 3 * all),
        ("ADD over two pages", 0xFFC, 8, all),
    ] {
        assert_eq!(get(&memory, DATA + offset, bytes), expected, "{what}");
    }
}

#[test]
fn a_lock_lets_one_processor_in_at_a_time() {
    const TIMES: u64 = 20_000;
    let kinds = [Translator, Interpreter, Translator, Interpreter];
    let tasks: Vec<Task> = kinds
        .map(|kind| task(kind, LOCKED, &[(Rdi, DATA), (R12, TIMES)]))
        .into();
    let memory = memory(&tasks);
    run(&memory, tasks);
    let all = kinds.len() as u64 * TIMES;
    for (offset, bytes) in [(0x40, 8), (0x4A, 4), (0x7B, 8), (0x60, 1)] {
        let expected = all & u64::MAX >> (64 - bytes * 8);
        let got = get(&memory, DATA + offset, bytes as usize);
        assert_eq!(got, expected, "at {offset:#x}");
    }
}

/// Aligned accesses, unaligned ones inside an aligned quadword, and aligned ones of 16 bytes, which processors with AVX
/// make in one step.
#[test]
fn plain_accesses_do_not_tear() {
    for [writer, reader] in PAIRS {
        let tasks = vec![
            task(writer, WRITE, &[(Rdi, DATA), (R12, 300_000)]),
            task(reader, READ, &[(Rdi, DATA), (R12, 150_000)]),
        ];
        run(&memory(&tasks), tasks);
    }
}

/// Message passing: who sees the second store sees the first.
#[test]
fn stores_are_seen_in_order_and_loads_are_made_in_order() {
    for [sender, receiver] in PAIRS {
        let tasks = vec![
            task(sender, SEND, &[(Rdi, DATA), (R12, 500_000)]),
            task(receiver, RECEIVE, &[(Rdi, DATA), (R12, 500_000)]),
        ];
        run(&memory(&tasks), tasks);
    }
}

/// Load buffering: two processors that each load one cell and then store to the other's do not both load what was stored.
#[test]
fn no_store_goes_ahead_of_an_earlier_load() {
    const TIMES: u64 = 4000;
    for kinds in PAIRS {
        // A cell is written with the round's number, and loaded in the same round.
        let tasks: Vec<Task> = (0..2)
            .map(|me: u64| {
                let registers = [
                    (Rdi, DATA + 0x40 * me),
                    (Rsi, DATA + 0x40 * (1 - me)),
                    (Rbx, DATA + 0x80),
                    (R8, RESULTS + 0x1_0000 * me),
                    (R12, TIMES),
                    (R13, 0),
                ];
                task(kinds[me as usize], LOAD_THEN_STORE, &registers)
            })
            .collect();
        let memory = memory(&tasks);
        run(&memory, tasks);
        for round in 0..TIMES {
            let stored = TIMES - round;
            let loaded = [0, 1].map(|me| get(&memory, RESULTS + 0x1_0000 * me + 8 * round, 8));
            assert_ne!(loaded, [stored; 2], "round {round} of {kinds:?}");
        }
    }
}

/// Peterson's algorithm for two: it fails when a load goes ahead of the processor's own earlier store. Plain accesses
/// may do so; with a fence, a locked or a serializing instruction in between they must not. (A weak witness: without the
/// MFENCE no round failed either on the two busy cores where this was tried.)
#[test]
fn fences_locked_and_serializing_instructions_keep_loads_behind_stores() {
    const TIMES: u64 = 20_000;
    for (what, program) in [
        ("MFENCE", PETERSON_MFENCE),
        ("XCHG", PETERSON_XCHG),
        ("SERIALIZE", PETERSON_SERIALIZE),
    ] {
        for kinds in PAIRS {
            let tasks: Vec<Task> = (0..2)
                .map(|me: u64| {
                    let registers = [
                        (Rdi, DATA + 0x100 * me),
                        (Rsi, DATA + 0x100 * (1 - me)),
                        (Rbx, DATA + 0x200),
                        (Rbp, me),
                        (R12, TIMES),
                    ];
                    task(kinds[me as usize], program, &registers)
                })
                .collect();
            let memory = memory(&tasks);
            run(&memory, tasks);
            let entered = get(&memory, DATA + 0x240, 8);
            assert_eq!(entered, 2 * TIMES, "{what}, {kinds:?}");
        }
    }
}

/// One processor writes an immediate operand, another one waits for it, serializes and runs the instruction: on pages
/// that hold nothing else, that were written directly before they ran for the first time, and in the waiting code's own
/// page.
#[test]
fn code_that_another_processor_writes_runs_as_written() {
    const ROUNDS: u64 = 200;
    /// mov eax, imm32; ret
    const FUNCTION: &[u8] = &[0xB8, 0, 0, 0, 0, 0xC3];
    let own_page = code_of(1) + 0x800;
    // At 3 the operand is aligned, at 0 it is not.
    for (functions, mask) in [
        (SCRATCH, 63),
        (SCRATCH + 3, 63),
        (SCRATCH, 0),
        (own_page, 0),
    ] {
        for [writer, runner] in PAIRS {
            let registers = [
                (Rdi, DATA),
                (Rbx, functions),
                (R12, 1),
                (R13, ROUNDS),
                (R14, mask),
            ];
            let tasks = vec![
                task(writer, REWRITE, &registers),
                task(runner, EXECUTE, &registers),
            ];
            let memory = memory(&tasks);
            for number in 0..=mask {
                put(&memory, functions + number * 0x1000, FUNCTION);
            }
            run(&memory, tasks);
        }
    }
}

#[rustfmt::skip]
const COUNT: &[u8] = &[
    0xB8, 0x01, 0x00, 0x00, 0x00,                         // again: mov eax, 1
    0xF0, 0x0F, 0xC0, 0x07,                               // lock xadd byte ptr [rdi], al
    0xB8, 0x01, 0x00, 0x00, 0x00,                         // mov eax, 1
    0x66, 0xF0, 0x0F, 0xC1, 0x47, 0x02,                   // lock xadd word ptr [rdi+2], ax
    0xF0, 0xFF, 0x47, 0x04,                               // lock inc dword ptr [rdi+4]
    0xF0, 0x48, 0x83, 0x47, 0x08, 0x01,                   // lock add qword ptr [rdi+8], 1
    0xF0, 0x83, 0x47, 0x41, 0x01,                         // lock add dword ptr [rdi+0x41], 1
    0xF0, 0x48, 0x83, 0x47, 0x7C, 0x01,                   // lock add qword ptr [rdi+0x7c], 1
    0xF0, 0x48, 0x83, 0x87, 0xFC, 0x0F, 0x00, 0x00, 0x01, // lock add qword ptr [rdi+0xffc], 1
    0x48, 0x8B, 0x47, 0x10,                               // mov rax, [rdi+0x10]
    0x48, 0x8D, 0x58, 0x01,                               // one: lea rbx, [rax+1]
    0xF0, 0x48, 0x0F, 0xB1, 0x5F, 0x10,                   // lock cmpxchg [rdi+0x10], rbx
    0x75, 0xF4,                                           // jne one
    0x8B, 0x87, 0x93, 0x00, 0x00, 0x00,                   // mov eax, [rdi+0x93]
    0x8D, 0x58, 0x01,                                     // two: lea ebx, [rax+1]
    0xF0, 0x0F, 0xB1, 0x9F, 0x93, 0x00, 0x00, 0x00,       // lock cmpxchg [rdi+0x93], ebx
    0x75, 0xF3,                                           // jne two
    0x48, 0x8B, 0x87, 0xA0, 0x00, 0x00, 0x00,             // mov rax, [rdi+0xa0]
    0x48, 0x8B, 0x97, 0xA8, 0x00, 0x00, 0x00,             // mov rdx, [rdi+0xa8]
    0x48, 0x8D, 0x58, 0x01,                               // three: lea rbx, [rax+1]
    0x48, 0x8D, 0x4A, 0x03,                               // lea rcx, [rdx+3]
    0xF0, 0x48, 0x0F, 0xC7, 0x8F, 0xA0, 0x00, 0x00, 0x00, // lock cmpxchg16b [rdi+0xa0]
    0x75, 0xED,                                           // jne three
    0x49, 0xFF, 0xCC,                                     // dec r12
    0x75, 0x85,                                           // jnz again
    0xF4,                                                 // hlt
];

#[rustfmt::skip]
const LOCKED: &[u8] = &[
    0xB8, 0x01, 0x00, 0x00, 0x00,       // again: mov eax, 1
    0x87, 0x07,                         // xchg [rdi], eax
    0x85, 0xC0,                         // test eax, eax
    0x74, 0x04,                         // jz mine
    0xF3, 0x90,                         // pause
    0xEB, 0xF1,                         // jmp again
    0x48, 0xFF, 0x47, 0x40,             // mine: inc qword ptr [rdi+0x40]
    0xFF, 0x47, 0x4A,                   // inc dword ptr [rdi+0x4a]
    0x48, 0x8B, 0x47, 0x7B,             // mov rax, [rdi+0x7b]
    0x48, 0xFF, 0xC0,                   // inc rax
    0x48, 0x89, 0x47, 0x7B,             // mov [rdi+0x7b], rax
    0xFE, 0x47, 0x60,                   // inc byte ptr [rdi+0x60]
    0xC7, 0x07, 0x00, 0x00, 0x00, 0x00, // mov dword ptr [rdi], 0
    0x49, 0xFF, 0xCC,                   // dec r12
    0x75, 0xD1,                         // jnz again
    0xF4,                               // hlt
];

#[rustfmt::skip]
const WRITE: &[u8] = &[
    0x48, 0xF7, 0xD0,             // again: not rax
    0x48, 0x89, 0x07,             // mov [rdi], rax
    0x66, 0x89, 0x47, 0x11,       // mov [rdi+0x11], ax
    0x89, 0x47, 0x21,             // mov [rdi+0x21], eax
    0x66, 0x48, 0x0F, 0x6E, 0xC0, // movq xmm0, rax
    0x66, 0x0F, 0x6C, 0xC0,       // punpcklqdq xmm0, xmm0
    0x66, 0x0F, 0x7F, 0x47, 0x30, // movdqa [rdi+0x30], xmm0
    0x49, 0xFF, 0xCC,             // dec r12
    0x75, 0xE0,                   // jnz again
    0xF4,                         // hlt
];

#[rustfmt::skip]
const READ: &[u8] = &[
    0x48, 0x8B, 0x07,             // again: mov rax, [rdi]
    0x48, 0xFF, 0xC0,             // inc rax
    0x48, 0x83, 0xF8, 0x01,       // cmp rax, 1
    0x77, 0x35,                   // ja bad
    0x0F, 0xB7, 0x47, 0x11,       // movzx eax, word ptr [rdi+0x11]
    0x66, 0xFF, 0xC0,             // inc ax
    0x66, 0x83, 0xF8, 0x01,       // cmp ax, 1
    0x77, 0x28,                   // ja bad
    0x8B, 0x47, 0x21,             // mov eax, [rdi+0x21]
    0xFF, 0xC0,                   // inc eax
    0x83, 0xF8, 0x01,             // cmp eax, 1
    0x77, 0x1E,                   // ja bad
    0x66, 0x0F, 0x6F, 0x47, 0x30, // movdqa xmm0, [rdi+0x30]
    0x66, 0x48, 0x0F, 0x7E, 0xC0, // movq rax, xmm0
    0x66, 0x0F, 0x6D, 0xC0,       // punpckhqdq xmm0, xmm0
    0x66, 0x48, 0x0F, 0x7E, 0xC3, // movq rbx, xmm0
    0x48, 0x39, 0xD8,             // cmp rax, rbx
    0x75, 0x06,                   // jne bad
    0x49, 0xFF, 0xCC,             // dec r12
    0x75, 0xC0,                   // jnz again
    0xF4,                         // hlt
    0x0F, 0x0B,                   // bad: ud2
];

#[rustfmt::skip]
const SEND: &[u8] = &[
    0x48, 0xFF, 0xC0,       // again: inc rax
    0x48, 0x89, 0x07,       // mov [rdi], rax
    0x48, 0x89, 0x47, 0x40, // mov [rdi+0x40], rax
    0x49, 0xFF, 0xCC,       // dec r12
    0x75, 0xF1,             // jnz again
    0xF4,                   // hlt
];

#[rustfmt::skip]
const RECEIVE: &[u8] = &[
    0x48, 0x8B, 0x5F, 0x40, // again: mov rbx, [rdi+0x40]
    0x48, 0x8B, 0x07,       // mov rax, [rdi]
    0x48, 0x39, 0xD8,       // cmp rax, rbx
    0x72, 0x06,             // jb bad
    0x49, 0xFF, 0xCC,       // dec r12
    0x75, 0xEF,             // jnz again
    0xF4,                   // hlt
    0x0F, 0x0B,             // bad: ud2
];

#[rustfmt::skip]
const LOAD_THEN_STORE: &[u8] = &[
    0xF0, 0x48, 0xFF, 0x03, // again: lock inc qword ptr [rbx]
    0x49, 0x83, 0xC5, 0x02, // add r13, 2
    0x4C, 0x39, 0x2B,       // meet: cmp [rbx], r13
    0x73, 0x04,             // jae go
    0xF3, 0x90,             // pause
    0xEB, 0xF7,             // jmp meet
    0x48, 0x8B, 0x06,       // go: mov rax, [rsi]
    0x4C, 0x89, 0x27,       // mov [rdi], r12
    0x49, 0x89, 0x00,       // mov [r8], rax
    0x49, 0x83, 0xC0, 0x08, // add r8, 8
    0x49, 0xFF, 0xCC,       // dec r12
    0x75, 0xDD,             // jnz again
    0xF4,                   // hlt
];

#[rustfmt::skip]
const PETERSON_MFENCE: &[u8] = &[
    0xC7, 0x07, 0x01, 0x00, 0x00, 0x00, // again: mov dword ptr [rdi], 1
    0x89, 0x2B,                         // mov [rbx], ebp
    0x0F, 0xAE, 0xF0,                   // mfence
    0x83, 0x3E, 0x00,                   // wait: cmp dword ptr [rsi], 0
    0x74, 0x08,                         // je mine
    0x39, 0x2B,                         // cmp dword ptr [rbx], ebp
    0x75, 0x04,                         // jne mine
    0xF3, 0x90,                         // pause
    0xEB, 0xF3,                         // jmp wait
    0x48, 0xFF, 0x43, 0x40,             // mine: inc qword ptr [rbx+0x40]
    0xC7, 0x07, 0x00, 0x00, 0x00, 0x00, // mov dword ptr [rdi], 0
    0x49, 0xFF, 0xCC,                   // dec r12
    0x75, 0xD9,                         // jnz again
    0xF4,                               // hlt
];

#[rustfmt::skip]
const PETERSON_XCHG: &[u8] = &[
    0xC7, 0x07, 0x01, 0x00, 0x00, 0x00, // again: mov dword ptr [rdi], 1
    0x89, 0xE8,                         // mov eax, ebp
    0x87, 0x03,                         // xchg [rbx], eax
    0x83, 0x3E, 0x00,                   // wait: cmp dword ptr [rsi], 0
    0x74, 0x08,                         // je mine
    0x39, 0x2B,                         // cmp dword ptr [rbx], ebp
    0x75, 0x04,                         // jne mine
    0xF3, 0x90,                         // pause
    0xEB, 0xF3,                         // jmp wait
    0x48, 0xFF, 0x43, 0x40,             // mine: inc qword ptr [rbx+0x40]
    0xC7, 0x07, 0x00, 0x00, 0x00, 0x00, // mov dword ptr [rdi], 0
    0x49, 0xFF, 0xCC,                   // dec r12
    0x75, 0xDA,                         // jnz again
    0xF4,                               // hlt
];

#[rustfmt::skip]
const PETERSON_SERIALIZE: &[u8] = &[
    0xC7, 0x07, 0x01, 0x00, 0x00, 0x00, // again: mov dword ptr [rdi], 1
    0x89, 0x2B,                         // mov [rbx], ebp
    0x0F, 0x01, 0xE8,                   // serialize
    0x83, 0x3E, 0x00,                   // wait: cmp dword ptr [rsi], 0
    0x74, 0x08,                         // je mine
    0x39, 0x2B,                         // cmp dword ptr [rbx], ebp
    0x75, 0x04,                         // jne mine
    0xF3, 0x90,                         // pause
    0xEB, 0xF3,                         // jmp wait
    0x48, 0xFF, 0x43, 0x40,             // mine: inc qword ptr [rbx+0x40]
    0xC7, 0x07, 0x00, 0x00, 0x00, 0x00, // mov dword ptr [rdi], 0
    0x49, 0xFF, 0xCC,                   // dec r12
    0x75, 0xD9,                         // jnz again
    0xF4,                               // hlt
];

#[rustfmt::skip]
const REWRITE: &[u8] = &[
    0x4C, 0x89, 0xE6,             // again: mov rsi, r12
    0x4C, 0x21, 0xF6,             // and rsi, r14
    0x48, 0xC1, 0xE6, 0x0C,       // shl rsi, 12
    0x44, 0x89, 0x64, 0x33, 0x01, // mov [rbx+rsi+1], r12d
    0x4C, 0x89, 0x27,             // mov [rdi], r12
    0x4C, 0x39, 0x67, 0x40,       // wait: cmp [rdi+0x40], r12
    0x74, 0x04,                   // je next
    0xF3, 0x90,                   // pause
    0xEB, 0xF6,                   // jmp wait
    0x49, 0xFF, 0xC4,             // next: inc r12
    0x4D, 0x39, 0xEC,             // cmp r12, r13
    0x75, 0xDC,                   // jne again
    0xF4,                         // hlt
];

#[rustfmt::skip]
const EXECUTE: &[u8] = &[
    0x4C, 0x39, 0x27,       // again: cmp [rdi], r12
    0x74, 0x04,             // je ready
    0xF3, 0x90,             // pause
    0xEB, 0xF7,             // jmp again
    0x4C, 0x89, 0xE6,       // ready: mov rsi, r12
    0x4C, 0x21, 0xF6,       // and rsi, r14
    0x48, 0xC1, 0xE6, 0x0C, // shl rsi, 12
    0x48, 0x01, 0xDE,       // add rsi, rbx
    0x0F, 0x01, 0xE8,       // serialize
    0xFF, 0xD6,             // call rsi
    0x44, 0x39, 0xE0,       // cmp eax, r12d
    0x75, 0x0D,             // jne bad
    0x4C, 0x89, 0x67, 0x40, // mov [rdi+0x40], r12
    0x49, 0xFF, 0xC4,       // inc r12
    0x4D, 0x39, 0xEC,       // cmp r12, r13
    0x75, 0xD4,             // jne again
    0xF4,                   // hlt
    0x0F, 0x0B,             // bad: ud2
];
