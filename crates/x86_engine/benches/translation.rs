//! Microseconds that translation takes for each guest instruction.
//!
//! `cargo bench -p x86_engine --bench translation` — straight code of a common mix is run twice with every block
//! translated before it runs: what the first run takes more than the second is decoding and translation. The same with
//! the interpreter is decoding alone. The best of several rounds counts, in processor time.

use std::time::Duration;
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, EngineKind, Stop};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;
const MEMORY: u64 = 0x100_0000;
const PAGES: usize = 200;
const ROUNDS: usize = 9;

/// A block of instructions that are frequent in a kernel: moves, arithmetic, a memory operand in each third. Memory is
/// near RDI, RBX and RSP. It is one block for both engines, so that they decode alike.
const MIX: [&[u8]; 24] = [
    &[0x48, 0x8B, 0x47, 0x08],             // mov rax, [rdi + 8]
    &[0x48, 0x89, 0xC1],                   // mov rcx, rax
    &[0x48, 0x83, 0xE1, 0x1F],             // and rcx, 31
    &[0x48, 0x03, 0x4C, 0xCF, 0x10],       // add rcx, [rdi + rcx * 8 + 16]
    &[0x48, 0x39, 0xC8],                   // cmp rax, rcx
    &[0x48, 0x0F, 0x42, 0xC1],             // cmovb rax, rcx
    &[0x49, 0x89, 0xC9],                   // mov r9, rcx
    &[0x4D, 0x8D, 0x51, 0x07],             // lea r10, [r9 + 7]
    &[0x45, 0x31, 0xC9],                   // xor r9d, r9d
    &[0x4C, 0x89, 0x53, 0x20],             // mov [rbx + 32], r10
    &[0x53],                               // push rbx
    &[0x41, 0x54],                         // push r12
    &[0x0F, 0xB6, 0x57, 0x03],             // movzx edx, byte [rdi + 3]
    &[0xC1, 0xEA, 0x02],                   // shr edx, 2
    &[0x85, 0xD2],                         // test edx, edx
    &[0x0F, 0x95, 0xC1],                   // setne cl
    &[0xBE, 0x78, 0x56, 0x34, 0x12],       // mov esi, 0x12345678
    &[0x81, 0xC6, 0x88, 0xA9, 0xCB, 0xED], // add esi, 0xEDCBA988
    &[0x41, 0x5C],                         // pop r12
    &[0x5B],                               // pop rbx
    &[0x0F, 0x94, 0xC0],                   // sete al
    &[0x48, 0x0F, 0xAF, 0xC2],             // imul rax, rdx
    &[0x4C, 0x29, 0xD0],                   // sub rax, r10
    &[0xEB, 0x00],                         // jmp to the next
];

fn program() -> Vec<u8> {
    let mut code = Vec::new();
    for page in 1..=PAGES {
        let end = page * 4096;
        let mut mix = MIX.iter().cycle();
        // The last bytes jump to the next page.
        while let Some(insn) = mix.next()
            && code.len() + insn.len() + 5 <= end
        {
            code.extend(*insn);
        }
        code.push(0xE9);
        let rest = (end - code.len() - 4) as u32;
        code.extend(rest.to_le_bytes());
        code.resize(end, 0xCC);
    }
    // CPUID exits.
    code.extend([0x0F, 0xA2]);
    code
}

/// Time of the first run and of the second, and the instructions of each.
fn measure(kind: EngineKind, code: &[u8]) -> ([Duration; 2], u64) {
    let mut guest = FlatGuest::new(MEMORY);
    let mut engine = Engine::with(kind);
    assert_eq!(engine.refused(), None);
    engine.translate_after(0);
    let mut times = [Duration::MAX; 2];
    let mut retired = 0;
    let mut vcpu = long_vcpu(&mut guest, 0x1000, 3);
    guest.put(CODE, code);
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[4] = DATA + 0x800;
    vcpu.regs.gpr[7] = DATA;
    vcpu.regs.gpr[3] = DATA + 0x400;
    for time in &mut times {
        let mut vcpu = vcpu.clone();
        let start = cpu_time();
        let ran = engine.run(&mut vcpu, &mut guest, u64::MAX);
        *time = cpu_time() - start;
        assert_eq!(ran.stop, Stop::Exit);
        assert_eq!(vcpu.regs.rip, CODE + (code.len() - 2) as u64);
        retired = ran.retired;
    }
    (times, retired)
}

fn main() {
    let code = program();
    let mut instructions = 0;
    let mut best = [[Duration::MAX; 2]; 2];
    for _ in 0..ROUNDS {
        let kinds = [EngineKind::Interpreter, EngineKind::Translator];
        for (kind, best) in kinds.into_iter().zip(&mut best) {
            let (times, retired) = measure(kind, &code);
            *best = [times[0].min(best[0]), times[1].min(best[1])];
            instructions = retired;
        }
    }
    let each = |[first, second]: [Duration; 2]| {
        first.saturating_sub(second).as_secs_f64() * 1e6 / instructions as f64
    };
    let (decoding, both) = (each(best[0]), each(best[1]));
    println!("{instructions} instructions, microseconds for each:");
    println!("decoding for the interpreter {decoding:.3}");
    println!("translation                  {:.3}", both - decoding);
}

/// Time this thread spent on a processor, so that a busy machine disturbs less.
fn cpu_time() -> Duration {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_nanos)
}
