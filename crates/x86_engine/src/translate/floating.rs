//! MXCSR in translated code: the guest's is the host's from the first instruction of a run that needs it until
//! translated code is left or calls a function of ours.
//!
//! An exception that is unmasked in the guest's MXCSR is never unmasked on the host: then the interpreter takes all
//! instructions that could raise it.

use crate::translate::asm::{Asm, EQUAL, NOT_EQUAL, RAX, RBP, RCX};
use crate::translate::block::{Builder, Done};
use crate::translate::entry::at;
use crate::translate::select::{emit, point_at_r15};
use crate::translate::vectors::FLOATING;
use iced_x86::Instruction;

/// MXCSR's exception masks, and the bits that do not exist.
const MASKS: u32 = 0x1F80;
const RESERVED: u32 = 0xFFFF_0000;

/// LDMXCSR and STMXCSR by their number in the opcode's group.
const LOAD: u8 = 2;
const STORE: u8 = 3;

fn guest(asm: &mut Asm, operation: u8, pointer: u8) {
    asm.get(pointer, at::VECTORS);
    asm.control(operation, pointer, at::MXCSR_BEHIND);
}

/// The fixed code that makes the guest's MXCSR the host's. Afterwards the flags say "equal", unless the guest has
/// unmasked exceptions, or bits that do not exist because something outside the processor wrote them: then nothing
/// has changed. RAX is lost.
pub fn emit_enter(asm: &mut Asm) -> u64 {
    let here = asm.here();
    asm.get(RAX, at::VECTORS);
    asm.load_half(RAX, RAX, at::MXCSR_BEHIND);
    emit_check(asm);
    let refused = asm.jump_forward_if(NOT_EQUAL);
    asm.control(STORE, RBP, at::HOST_MXCSR);
    guest(asm, LOAD, RAX);
    asm.field_bits(0x80, 1, at::USABLE, FLOATING); // or
    asm.bytes(&[0x31, 0xC0]); // xor eax, eax
    asm.bind(refused);
    asm.bytes(&[0xC3]);
    here
}

/// The flags say "equal" when the value in EAX may be the host's. EAX is lost.
fn emit_check(asm: &mut Asm) {
    asm.bytes(&[0x35]); // xor eax, MASKS
    asm.u32(MASKS);
    asm.bytes(&[0xA9]); // test eax, MASKS | RESERVED
    asm.u32(MASKS | RESERVED);
}

/// Puts the guest's MXCSR back and restores the host's. RAX and the flags are lost.
pub fn emit_leave(asm: &mut Asm) {
    asm.field_bits(0xF6, 0, at::USABLE, FLOATING); // test
    let host = asm.jump_forward_if(EQUAL);
    asm.field_bits(0x80, 4, at::USABLE, !FLOATING); // and
    guest(asm, STORE, RAX);
    asm.control(LOAD, RBP, at::HOST_MXCSR);
    asm.bind(host);
}

/// Around a call of a function that leaves the guest's MXCSR alone. RAX before it, RCX behind it, and the flags are
/// lost.
pub fn emit_around(asm: &mut Asm, call: impl FnOnce(&mut Asm)) {
    asm.field_bits(0xF6, 0, at::USABLE, FLOATING);
    let before = asm.jump_forward_if(EQUAL);
    guest(asm, STORE, RAX);
    asm.control(LOAD, RBP, at::HOST_MXCSR);
    asm.bind(before);
    call(asm);
    asm.field_bits(0xF6, 0, at::USABLE, FLOATING);
    let behind = asm.jump_forward_if(EQUAL);
    guest(asm, LOAD, RCX);
    asm.bind(behind);
}

/// LDMXCSR, unless it faults or unmasks an exception.
pub fn load(b: &mut Builder<'_>, insn: &Instruction) -> Done {
    b.need_floating();
    b.operand(insn, false, 4)?;
    // Read once: another processor may write there.
    b.asm.bytes(&[0x41, 0x8B, 0x07]); // mov eax, [r15]
    b.asm.put(at::SPARE, RAX);
    emit_check(&mut b.asm);
    b.leave_if(NOT_EQUAL);
    b.asm.control(LOAD, RBP, at::SPARE);
    // Not so when the interpreter did it.
    b.checked &= !FLOATING;
    Ok(())
}

/// STMXCSR.
pub fn store(b: &mut Builder<'_>, insn: &Instruction) -> Done {
    b.need_floating();
    b.operand(insn, true, 4)?;
    let mut new = *insn;
    point_at_r15(&mut new);
    emit(b, &new)
}
