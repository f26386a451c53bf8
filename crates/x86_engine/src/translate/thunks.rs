//! The fixed code at the start of the buffer: entering, leaving, and the call for a miss.

use crate::translate::HOST;
use crate::translate::asm::{Asm, R12, R15, RAX, RBP, RBX, RDI, RSI};
use crate::translate::entry::at;
use crate::translate::{floating, vectors};

/// Why translated code left; the value of `Frame::exit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Exit {
    /// The guest goes on at `rip`, for which no code was known.
    Continue,
    /// The instruction at `rip` is the interpreter's.
    Interpret,
    /// The budget does not suffice for the block at `rip`.
    Budget,
    /// The instruction at `rip` did not complete, for the reason in the frame.
    Fault,
}

/// Addresses of the fixed code.
#[derive(Clone, Copy)]
pub struct Thunks {
    /// By [`Exit`]; RAX holds the guest's RIP.
    pub exits: [u64; 3],
    /// R15 holds the linear address; EAX is 0 afterwards when the interpreter has to take over.
    pub fill_read: u64,
    pub fill_write: u64,
    /// RAX holds the address of the [`Site`](super::site::Site) of an instruction that the interpreter executes.
    pub step: u64,
    /// Leaves; `rip` and `exit` are in the frame.
    pub leave: u64,
    /// Makes the guest's MXCSR the host's ([`floating::emit_enter`]).
    pub floating: u64,
    /// VZEROUPPER and VZEROALL, when no guest register is in a host register ([`vectors::emit_clear`]).
    pub clear_upper: u64,
    pub clear_all: u64,
}

/// Host registers that a call does not keep, among those that hold guest registers.
const CALLER_SAVED: [u8; 8] = [1, 2, 6, 7, 8, 9, 10, 11];

/// The registers that hold guest registers, with the guest register's place in the frame.
fn homes() -> impl Iterator<Item = (u8, i32)> {
    HOST.into_iter()
        .enumerate()
        .filter_map(|(guest, host)| Some((host?, at::gpr(guest as u8))))
}

/// Writes the fixed code, which begins with the entry sequence: `extern "C" fn(frame, code)`. Calls follow the System V
/// ABI, which is C's on x86-64 Linux; by its own name no other processor's compiler knows it.
pub fn emit(asm: &mut Asm) -> Thunks {
    asm.bytes(&[0x50 | RBX, 0x50 | RBP]);
    for register in R12..=R15 {
        asm.bytes(&[0x41, 0x50 | register & 7]);
    }
    asm.alu_imm(5, 4, 8); // sub rsp, 8: 16-byte aligned
    asm.mov(RBP, RDI);
    asm.mov(RAX, RSI);
    for (host, field) in homes() {
        asm.get(host, field);
    }
    asm.bytes(&[0xFF, 0xE0]); // jmp rax

    let with_reason = asm.here();
    asm.put(at::EXIT, RAX);
    let leave = asm.here();
    floating::emit_leave(asm);
    for (host, field) in homes() {
        asm.put(field, host);
    }
    asm.alu_imm(0, 4, 8);
    for register in (R12..=R15).rev() {
        asm.bytes(&[0x41, 0x58 | register & 7]);
    }
    asm.bytes(&[0x58 | RBP, 0x58 | RBX, 0xC3]);

    let mut exit = |reason: Exit| {
        let here = asm.here();
        asm.put(at::RIP, RAX);
        asm.mov_imm(RAX, reason as u64);
        asm.jump(with_reason);
        here
    };
    let exits = [
        exit(Exit::Continue),
        exit(Exit::Interpret),
        exit(Exit::Budget),
    ];
    let mut fill = |function: i32| {
        let here = asm.here();
        for (host, field) in homes().filter(|(host, _)| CALLER_SAVED.contains(host)) {
            asm.put(field, host);
        }
        floating::emit_around(asm, |asm| {
            asm.lea(RDI, Some(RBP), None, -at::BASE);
            asm.mov(RSI, R15);
            asm.alu_imm(5, 4, 8);
            asm.bytes(&[0xFF, 0x95]); // call [rbp + function]
            asm.bytes(&function.to_le_bytes());
            asm.alu_imm(0, 4, 8);
        });
        for (host, field) in homes().filter(|(host, _)| CALLER_SAVED.contains(host)) {
            asm.get(host, field);
        }
        asm.bytes(&[0xC3]);
        here
    };
    let [fill_read, fill_write] = [fill(at::FILL_READ), fill(at::FILL_WRITE)];
    let step = asm.here();
    for (host, field) in homes() {
        asm.put(field, host);
    }
    asm.lea(RDI, Some(RBP), None, -at::BASE);
    asm.mov(RSI, RAX);
    floating::emit_leave(asm);
    asm.bytes(&[0xFF, 0x95]); // call [rbp + STEP]
    asm.bytes(&at::STEP.to_le_bytes());
    for (host, field) in homes() {
        asm.get(host, field);
    }
    asm.bytes(&[0xFF, 0xE0]); // jmp rax
    Thunks {
        exits,
        fill_read,
        fill_write,
        step,
        leave,
        floating: floating::emit_enter(asm),
        clear_upper: vectors::emit_clear(asm, true),
        clear_all: vectors::emit_clear(asm, false),
    }
}
