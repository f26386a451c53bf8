//! TDG.VP.VMCALL: what the guest asks of the VMM (GHCI).

use super::tdcall::{Registers, VP_VMCALL, tdcall};

/// RCX of a call that shows R10 to R15.
const SHOW_R10_TO_R15: u64 = 0xFC00;

const CPUID: u64 = 10;
const HLT: u64 = 12;
const IO: u64 = 30;
const RDMSR: u64 = 31;
const WRMSR: u64 = 32;
const MAP_GPA: u64 = 0x10001;
const REPORT_FATAL_ERROR: u64 = 0x10003;

/// What the VMM answered: R10 and R11 to R15.
#[derive(Clone, Copy)]
pub struct Answer {
    pub status: u64,
    pub values: [u64; 5],
}

fn call(function: u64, arguments: [u64; 4]) -> Answer {
    let [r12, r13, r14, r15] = arguments;
    let mut regs = Registers {
        rcx: SHOW_R10_TO_R15,
        r11: function,
        r12,
        r13,
        r14,
        r15,
        ..Default::default()
    };
    let rax = tdcall(VP_VMCALL, &mut regs);
    let status = if rax != 0 { rax } else { regs.r10 };
    Answer {
        status,
        values: [regs.r11, regs.r12, regs.r13, regs.r14, regs.r15],
    }
}

/// EAX, EBX, ECX, EDX as the VMM says.
pub fn cpuid(leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
    let answer = call(CPUID, [leaf.into(), subleaf.into(), 0, 0]);
    let [_, eax, ebx, ecx, edx] = answer.values.map(|v| v as u32);
    (answer.status == 0).then_some([eax, ebx, ecx, edx])
}

/// Waits for an interrupt; `blocked` says whether interrupts are off.
pub fn hlt(blocked: bool) {
    call(HLT, [blocked.into(), 0, 0, 0]);
}

pub fn out(port: u16, size: u8, value: u32) {
    call(IO, [size.into(), 1, port.into(), value.into()]);
}

pub fn input(port: u16, size: u8) -> u32 {
    let answer = call(IO, [size.into(), 0, port.into(), 0]);
    if answer.status == 0 {
        answer.values[0] as u32
    } else {
        u32::MAX
    }
}

pub fn rdmsr(msr: u32) -> Option<u64> {
    let answer = call(RDMSR, [msr.into(), 0, 0, 0]);
    (answer.status == 0).then_some(answer.values[0])
}

pub fn wrmsr(msr: u32, value: u64) -> bool {
    call(WRMSR, [msr.into(), value, 0, 0]).status == 0
}

/// Asks the VMM to map `size` bytes from `gpa`, whose shared bit says which way. Retries where the VMM stopped.
pub fn map_gpa(gpa: u64, size: u64) -> Result<(), u64> {
    const RETRY: u64 = 1;
    let end = gpa + size;
    let mut at = gpa;
    loop {
        let answer = call(MAP_GPA, [at, end - at, 0, 0]);
        match answer.status {
            0 => return Ok(()),
            RETRY if answer.values[0] > at && answer.values[0] < end => at = answer.values[0],
            RETRY => {}
            status => return Err(status),
        }
    }
}

/// The guest's last words, up to 64 bytes of them.
pub fn report_fatal_error(code: u64, message: &[u8]) -> ! {
    let mut words = [0u64; 8];
    for (i, byte) in message.iter().take(64).enumerate() {
        words[i / 8] |= u64::from(*byte) << (8 * (i % 8));
    }
    // GHCI, ReportFatalError: the message in R14 R15 RBX RDI RSI R8 R9 RDX.
    let [r14, r15, rbx, rdi, rsi, r8, r9, rdx] = words;
    loop {
        let mut regs = Registers {
            rcx: 0xFFCC,
            r11: REPORT_FATAL_ERROR,
            r12: code,
            r14,
            r15,
            rbx,
            rdi,
            rsi,
            r8,
            r9,
            rdx,
            ..Default::default()
        };
        tdcall(VP_VMCALL, &mut regs);
    }
}
