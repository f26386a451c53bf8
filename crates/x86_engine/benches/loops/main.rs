//! Guest MIPS of the interpreter and the translator on seven loops, and of QEMU's user-mode translator on the same
//! machine code when `qemu-x86_64` is installed.
//!
//! `cargo bench -p x86_engine` — each loop runs three times, alternating with QEMU; the best of each is printed. Ours
//! is counted in processor time, QEMU's by the clock with its start-up.

mod floating;

use std::process::Command;
use std::time::{Duration, Instant};
use x86_engine::flat::{FlatGuest, long_vcpu};
use x86_engine::{Engine, EngineKind, Stop};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;
const MEMORY: u64 = 0x100_0000;
const ROUNDS: usize = 3;

struct Program {
    name: &'static str,
    code: Vec<u8>,
    /// A value in RBX at the end that shows that the work was done, when it is known beforehand.
    check: Option<u64>,
}

fn main() {
    let qemu = Command::new("qemu-x86_64")
        .arg("--version")
        .output()
        .is_ok();
    println!(
        "{:<14} {:>14} {:>12} {:>12} {:>12}",
        "loop", "instructions", "interpreter", "translator", "QEMU (MIPS)"
    );
    for program in [
        alu(),
        sieve(),
        chase(),
        sha256(),
        syscalls(),
        floating::mandelbrot(),
        floating::saxpy(),
    ] {
        let mut ours = [Duration::MAX; 2];
        let mut theirs = Duration::MAX;
        let mut retired = 0;
        for _ in 0..ROUNDS {
            for (kind, best) in [EngineKind::Interpreter, EngineKind::Translator]
                .into_iter()
                .zip(&mut ours)
            {
                let (count, time) = run(&program, kind);
                retired = count;
                *best = time.min(*best);
            }
            if qemu {
                theirs = theirs.min(run_qemu(&program));
            }
        }
        let mips = |time: Duration| retired as f64 / 1e6 / time.as_secs_f64();
        let other = if qemu {
            format!("{:.0}", mips(theirs))
        } else {
            "-".into()
        };
        println!(
            "{:<14} {retired:>14} {:>12.0} {:>12.0} {other:>12}",
            program.name,
            mips(ours[0]),
            mips(ours[1])
        );
    }
    if !qemu {
        println!("SKIPPED QEMU's side: qemu-x86_64 is not installed");
    }
}

/// Runs until the program's `exit` system call, which here is a CPUID behind LSTAR.
fn run(program: &Program, kind: EngineKind) -> (u64, Duration) {
    let mut guest = FlatGuest::new(MEMORY);
    let mut vcpu = long_vcpu(&mut guest, 0x1000, 3);
    guest.put(CODE, &program.code);
    // Kernel entry: `cmp eax, 60; je exit; sysretq; exit: cpuid`.
    guest.put(
        0x8000,
        &[0x83, 0xF8, 60, 0x74, 3, 0x48, 0x0F, 0x07, 0x0F, 0xA2],
    );
    vcpu.regs.msr.star = 0x0018_0008 << 32;
    vcpu.regs.msr.lstar = 0x8000;
    vcpu.regs.rip = CODE;
    vcpu.regs.gpr[4] = MEMORY - 0x1000;
    let mut engine = Engine::with(kind);
    assert_eq!(engine.refused(), None);
    let start = cpu_time();
    let ran = engine.run(&mut vcpu, &mut guest, u64::MAX);
    let time = cpu_time() - start;
    assert_eq!(ran.stop, Stop::Exit);
    assert_eq!(
        vcpu.exit.basic_reason(),
        x86_arch::ExitReason::CPUID_INSTRUCTION,
        "{}",
        program.name
    );
    if let Some(check) = program.check {
        assert_eq!(vcpu.regs.gpr[3], check, "{}", program.name);
    }
    (ran.retired, time)
}

/// Time this thread spent on a processor, so that a busy machine disturbs less; the clock where Linux does not say.
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .map_or_else(|| START.elapsed(), Duration::from_nanos)
}

fn run_qemu(program: &Program) -> Duration {
    let path = std::env::temp_dir().join(format!(
        "x86_engine-{}-{}",
        program.name,
        std::process::id()
    ));
    std::fs::write(&path, elf(&program.code)).expect("a file in the temporary directory");
    let mut permissions = std::fs::metadata(&path).expect("the file").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&path, permissions).expect("the file");
    let start = Instant::now();
    let status = Command::new("qemu-x86_64")
        .arg(&path)
        .status()
        .expect("QEMU");
    let time = start.elapsed();
    let _ = std::fs::remove_file(&path);
    assert!(status.success(), "{} in QEMU: {status}", program.name);
    time
}

/// A static ELF of one segment, code and data.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = vec![
        0x7F, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0,
    ];
    file.extend(CODE.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [4096, CODE, CODE, code.len() as u64, 0xB0_0000, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.resize(4096, 0);
    file.extend(code);
    file
}

fn imm32(value: u64) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

/// `mov eax, 60; xor edi, edi; syscall`
fn exit(code: &mut Vec<u8>) {
    code.extend([0xB8, 60, 0, 0, 0, 0x31, 0xFF, 0x0F, 0x05]);
}

/// `dec ecx; jnz start`
fn count_down(code: &mut Vec<u8>, start: usize) {
    code.extend([0xFF, 0xC9]);
    jump_back(code, 0x75, start);
}

fn jump_back(code: &mut Vec<u8>, opcode: u8, target: usize) {
    let distance = target as i64 - (code.len() as i64 + 2);
    if let Ok(short) = i8::try_from(distance) {
        code.extend([opcode, short as u8]);
    } else {
        code.extend([0x0F, opcode + 0x10]);
        let distance = target as i64 - (code.len() as i64 + 4);
        code.extend((distance as i32).to_le_bytes());
    }
}

/// Ten register instructions, 200 million in all.
fn alu() -> Program {
    let mut code = vec![0xB9];
    code.extend(imm32(20_000_000));
    let start = code.len();
    code.extend([0x48, 0x01, 0xC8]); // add rax, rcx
    code.extend([0x48, 0x31, 0xC2]); // xor rdx, rax
    code.extend([0x48, 0xC1, 0xC0, 7]); // rol rax, 7
    code.extend([0x48, 0x8D, 0x5C, 0x50, 5]); // lea rbx, [rax+rdx*2+5]
    code.extend([0x48, 0x0F, 0xAF, 0xF3]); // imul rsi, rbx
    code.extend([0x48, 0x29, 0xF7]); // sub rdi, rsi
    code.extend([0x49, 0x21, 0xF8]); // and r8, rdi
    code.extend([0x48, 0xC1, 0xEB, 3]); // shr rbx, 3
    count_down(&mut code, start);
    exit(&mut code);
    Program {
        name: "ALU",
        code,
        check: None,
    }
}

/// The sieve of Eratosthenes over 4 MiB of bytes.
fn sieve() -> Program {
    let mut code = vec![0xBB, 2, 0, 0, 0]; // mov ebx, 2
    let outer = code.len();
    code.extend([0x80, 0xBB]); // cmp byte [rbx+DATA], 0
    code.extend(imm32(DATA));
    code.extend([0, 0x75, 0]); // jne next
    let patch = code.len() - 1;
    code.extend([0x48, 0x89, 0xD8, 0x48, 0x0F, 0xAF, 0xC0]); // mov rax, rbx; imul rax, rax
    let inner = code.len();
    code.extend([0xC6, 0x80]); // mov byte [rax+DATA], 1
    code.extend(imm32(DATA));
    code.extend([1, 0x48, 0x01, 0xD8, 0x48, 0x3D, 0, 0, 0x40, 0]); // add rax, rbx; cmp rax, 4M
    jump_back(&mut code, 0x72, inner);
    code[patch] = (code.len() - patch - 1) as u8;
    code.extend([0xFF, 0xC3, 0x81, 0xFB, 0, 8, 0, 0]); // inc ebx; cmp ebx, 2048
    jump_back(&mut code, 0x72, outer);
    exit(&mut code);
    Program {
        name: "sieve",
        code,
        check: Some(2048),
    }
}

/// 50 million dependent loads over 512 KiB.
fn chase() -> Program {
    let mut code = vec![0x31, 0xC9]; // xor ecx, ecx
    let fill = code.len();
    code.extend([0x8D, 0x44, 0x89, 1, 0x0F, 0xB7, 0xC0]); // lea eax, [rcx+rcx*4+1]; movzx eax, ax
    code.extend([0x48, 0x8D, 0x04, 0xC5]); // lea rax, [rax*8+DATA]
    code.extend(imm32(DATA));
    code.extend([0x48, 0x89, 0x04, 0xCD]); // mov [rcx*8+DATA], rax
    code.extend(imm32(DATA));
    code.extend([0xFF, 0xC1, 0x81, 0xF9, 0, 0, 1, 0]); // inc ecx; cmp ecx, 65536
    jump_back(&mut code, 0x72, fill);
    code.extend([0xB8]); // mov eax, DATA
    code.extend(imm32(DATA));
    code.push(0xB9);
    code.extend(imm32(50_000_000));
    let start = code.len();
    code.extend([0x48, 0x8B, 0x00]); // mov rax, [rax]
    count_down(&mut code, start);
    exit(&mut code);
    Program {
        name: "pointer chase",
        code,
        check: None,
    }
}

/// Two million system calls that return at once.
fn syscalls() -> Program {
    let mut code = vec![0x41, 0xBC]; // mov r12d, n
    code.extend(imm32(2_000_000));
    let start = code.len();
    code.extend([0xB8, 39, 0, 0, 0, 0x0F, 0x05]); // mov eax, 39 (getpid); syscall
    code.extend([0x41, 0xFF, 0xCC]); // dec r12d
    jump_back(&mut code, 0x75, start);
    exit(&mut code);
    Program {
        name: "syscall",
        code,
        check: None,
    }
}

/// SHA-256 compression of one block ("abc"), again and again; the first digest word is checked.
fn sha256() -> Program {
    const K: [u32; 64] = round_constants();
    const H: [u32; 8] = [
        0x6A09_E667,
        0xBB67_AE85,
        0x3C6E_F372,
        0xA54F_F53A,
        0x510E_527F,
        0x9B05_688C,
        0x1F83_D9AB,
        0x5BE0_CD19,
    ];
    // ModRM forms on 32-bit registers; 0 to 7 are EAX to EDI, 8 to 15 R8D to R15D.
    fn rr(code: &mut Vec<u8>, opcode: u8, rm: u8, reg: u8) {
        let rex = 0x40 | (reg >> 3) << 2 | rm >> 3;
        code.extend([rex, opcode, 0xC0 | (reg & 7) << 3 | rm & 7]);
    }
    fn ror(code: &mut Vec<u8>, rm: u8, n: u8) {
        code.extend([0x40 | rm >> 3, 0xC1, 0xC8 | rm & 7, n]);
    }
    fn shr(code: &mut Vec<u8>, rm: u8, n: u8) {
        code.extend([0x40 | rm >> 3, 0xC1, 0xE8 | rm & 7, n]);
    }
    fn load(code: &mut Vec<u8>, opcode: u8, reg: u8, address: u64) {
        code.extend([0x40 | (reg >> 3) << 2, opcode, (reg & 7) << 3 | 4, 0x25]);
        code.extend(imm32(address));
    }
    const MOV: u8 = 0x89;
    const ADD: u8 = 0x01;
    const XOR: u8 = 0x31;
    const AND: u8 = 0x21;
    let mut code = vec![];
    // The message block: "abc", a one bit, the length.
    for (n, word) in [(0u64, 0x6162_6380u32), (15, 24)] {
        code.extend([0xC7, 0x04, 0x25]);
        code.extend(imm32(DATA + n * 4));
        code.extend(word.to_le_bytes());
    }
    code.push(0xB9);
    code.extend(imm32(20_000));
    let start = code.len();
    for t in 16..64u64 {
        let word = |n: u64| DATA + n * 4;
        let sigma = |code: &mut Vec<u8>, from: u64, a: u8, b: u8, c: u8| {
            load(code, 0x8B, 0, from);
            rr(code, MOV, 2, 0);
            rr(code, MOV, 6, 0);
            ror(code, 0, a);
            ror(code, 2, b);
            shr(code, 6, c);
            rr(code, XOR, 0, 2);
            rr(code, XOR, 0, 6);
        };
        sigma(&mut code, word(t - 15), 7, 18, 3);
        rr(&mut code, MOV, 7, 0);
        sigma(&mut code, word(t - 2), 17, 19, 10);
        rr(&mut code, ADD, 7, 0);
        load(&mut code, 0x03, 7, word(t - 7));
        load(&mut code, 0x03, 7, word(t - 16));
        load(&mut code, 0x89, 7, word(t));
    }
    let mut v: [u8; 8] = [8, 9, 10, 11, 12, 13, 14, 15];
    for (register, value) in v.into_iter().zip(H) {
        code.extend([0x41, 0xB8 | register & 7]);
        code.extend(value.to_le_bytes());
    }
    for (t, k) in K.into_iter().enumerate() {
        let [a, b, c, d, e, f, g, h] = v;
        let code = &mut code;
        let sigma = |code: &mut Vec<u8>, from: u8, x: u8, y: u8, z: u8| {
            for (temporary, n) in [(0, x), (2, y), (6, z)] {
                rr(code, MOV, temporary, from);
                ror(code, temporary, n);
            }
            rr(code, XOR, 0, 2);
            rr(code, XOR, 0, 6);
        };
        sigma(code, e, 6, 11, 25);
        rr(code, ADD, h, 0);
        rr(code, MOV, 2, f); // ch = g ^ (e & (f ^ g))
        rr(code, XOR, 2, g);
        rr(code, AND, 2, e);
        rr(code, XOR, 2, g);
        rr(code, ADD, h, 2);
        load(code, 0x03, h, DATA + t as u64 * 4);
        code.extend([0x41, 0x81, 0xC0 | h & 7]); // add h, k
        code.extend(k.to_le_bytes());
        rr(code, ADD, d, h);
        sigma(code, a, 2, 13, 22);
        rr(code, ADD, h, 0);
        rr(code, MOV, 2, a); // maj = (a & b) | (c & (a | b))
        rr(code, MOV, 6, a);
        rr(code, AND, 2, b);
        rr(code, 0x09, 6, b);
        rr(code, AND, 6, c);
        rr(code, 0x09, 2, 6);
        rr(code, ADD, h, 2);
        v.rotate_right(1);
    }
    rr(&mut code, MOV, 3, v[0]); // ebx = a + H0
    code.extend([0x81, 0xC3]);
    code.extend(H[0].to_le_bytes());
    count_down(&mut code, start);
    exit(&mut code);
    Program {
        name: "SHA-256",
        code,
        check: Some(0xBA78_16BF),
    }
}

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const fn round_constants() -> [u32; 64] {
    let mut constants = [0; 64];
    let mut found = 0;
    let mut candidate: u128 = 2;
    while found < 64 {
        let mut divisor = 2;
        let mut prime = true;
        while divisor * divisor <= candidate {
            if candidate.is_multiple_of(divisor) {
                prime = false;
            }
            divisor += 1;
        }
        if prime {
            // The integer cube root of candidate << 96 has 32 fractional bits.
            let target = candidate << 96;
            let mut root: u128 = 0;
            let mut bit = 36;
            while bit > 0 {
                bit -= 1;
                let next = root | 1 << bit;
                if next * next * next <= target {
                    root = next;
                }
            }
            constants[found] = root as u32;
            found += 1;
        }
        candidate += 1;
    }
    constants
}
