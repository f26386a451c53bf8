//! From a decoded instruction to the op that the run loop executes: the common forms get handlers of their own with
//! their operands taken apart; all others keep the family's handler.
//!
//! A hot form behaves exactly as the family's handler does (`tests/forms.rs` runs both on random code). Memory
//! operands are hot in 64-bit mode with 64-bit addresses, where an address is one sum without checks.

use crate::cpu::{Mode, REG_PAGE, REG_SEG, REG_ZERO};
use crate::exec::{block_flags, condition_of};
use crate::hot::{self, Base, Full, source};
use crate::op::{BRANCH, Handler, Op, STACK, STORES, cold};
use crate::operand::{gpr_of, is_immediate, segment_of};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use x86_arch::RamPage;

/// How an operand is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Register(u8),
    Immediate(u64),
    Memory,
}

/// The op of an instruction.
pub fn lower<P: RamPage + 'static>(insn: &Instruction, mode: Mode) -> Op<P> {
    let mut op = cold(insn);
    if insn.has_lock_prefix() {
        return op;
    }
    if uses_memory(insn) && !take_address(insn, mode, &mut op) {
        return op;
    }
    if let Some(handler) = select(insn, mode, &mut op) {
        op.run = handler;
        op.insn = None;
    }
    op
}

fn uses_memory(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory)
}

/// Takes the memory operand apart; false when its address is not a plain sum of 64 bits.
fn take_address<P: RamPage + 'static>(insn: &Instruction, mode: Mode, op: &mut Op<P>) -> bool {
    if mode != Mode::Bits64 {
        return false;
    }
    let seg = segment_of(insn.memory_segment());
    op.seg = REG_SEG + seg as u8;
    if seg == x86_arch::vmx::Seg::Ss {
        op.flags |= STACK;
    }
    if insn.is_ip_rel_memory_operand() {
        if insn.memory_base() != Register::RIP {
            return false;
        }
        op.base = REG_PAGE;
        op.disp = insn.ip_rel_memory_address();
        return true;
    }
    op.disp = insn.memory_displacement64();
    let (base, index) = (insn.memory_base(), insn.memory_index());
    for (register, place) in [(base, &mut op.base), (index, &mut op.index)] {
        if register == Register::None {
            *place = REG_ZERO;
        } else if register.is_gpr64() {
            *place = gpr_of(register).0;
        } else {
            return false;
        }
    }
    if base == Register::None && index == Register::None && insn.memory_displ_size() != 8 {
        return false;
    }
    op.scale = insn.memory_index_scale().trailing_zeros() as u8;
    true
}

/// An integer operand that a hot form can use.
fn place(insn: &Instruction, n: u32) -> Option<Place> {
    match insn.op_kind(n) {
        OpKind::Register => {
            let register = insn.op_register(n);
            let (number, shift) = gpr_of(register);
            (register.is_gpr() && shift == 0).then_some(Place::Register(number))
        }
        OpKind::Memory => Some(Place::Memory),
        kind if is_immediate(kind) => Some(Place::Immediate(insn.immediate(n))),
        _ => None,
    }
}

fn bytes(insn: &Instruction, n: u32) -> usize {
    match insn.op_kind(n) {
        OpKind::Register => insn.op_register(n).size(),
        _ => insn.memory_size().size(),
    }
}

/// `handler::<P, first, W, rest…>` for the operand width.
macro_rules! by_width {
    ($bytes:expr, $name:ident, $($before:ty),* ; $($after:ty),*) => {
        match $bytes {
            1 => Some(hot::$name::<P, $($before,)* u8 $(, $after)*> as Handler<P>),
            2 => Some(hot::$name::<P, $($before,)* u16 $(, $after)*> as Handler<P>),
            4 => Some(hot::$name::<P, $($before,)* u32 $(, $after)*> as Handler<P>),
            8 => Some(hot::$name::<P, $($before,)* u64 $(, $after)*> as Handler<P>),
            _ => None,
        }
    };
}

/// Whether base and displacement are the whole address.
fn is_base<P: RamPage + 'static>(op: &Op<P>) -> bool {
    // The bases of FS and GS alone count in 64-bit mode, the only mode whose memory operands are hot.
    op.index == REG_ZERO && op.seg < REG_SEG + x86_arch::vmx::Seg::Fs as u8
}

fn select<P: RamPage + 'static>(
    insn: &Instruction,
    mode: Mode,
    op: &mut Op<P>,
) -> Option<Handler<P>> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Add => binary::<P, hot::Add>(insn, op),
        Adc => binary::<P, hot::Adc>(insn, op),
        Sub => binary::<P, hot::Sub>(insn, op),
        Sbb => binary::<P, hot::Sbb>(insn, op),
        And => binary::<P, hot::And>(insn, op),
        Or => binary::<P, hot::Or>(insn, op),
        Xor => binary::<P, hot::Xor>(insn, op),
        Cmp => binary::<P, hot::Cmp>(insn, op),
        Test => binary::<P, hot::Test>(insn, op),
        Shl | Sal => binary::<P, hot::Shl>(insn, op),
        Shr => binary::<P, hot::Shr>(insn, op),
        Sar => binary::<P, hot::Sar>(insn, op),
        Rol => binary::<P, hot::Rol>(insn, op),
        Ror => binary::<P, hot::Ror>(insn, op),
        Inc => unary::<P, hot::Inc>(insn, op),
        Dec => unary::<P, hot::Dec>(insn, op),
        Neg => unary::<P, hot::Neg>(insn, op),
        Not => unary::<P, hot::Not>(insn, op),
        Mov => mov(insn, op),
        Movzx | Movsx | Movsxd => extend(insn, op),
        Lea => lea(insn, op),
        Imul if insn.op_count() > 1 => imul(insn, op),
        Nop | Endbr64 | Endbr32 if !uses_memory(insn) || insn.mnemonic() == Nop => {
            op.flags &= !STORES;
            Some(hot::nop::<P>)
        }
        Cdqe => Some(hot::cdqe::<P>),
        Cdq => Some(hot::cdq::<P>),
        Cqo => Some(hot::cqo::<P>),
        Bswap if bytes(insn, 0) != 2 => {
            let Place::Register(a) = place(insn, 0)? else {
                return None;
            };
            op.a = a;
            Some(if bytes(insn, 0) == 8 {
                hot::bswap64::<P>
            } else {
                hot::bswap32::<P>
            })
        }
        Shlx | Shrx | Sarx | Rorx => without_flags(insn, op),
        Push | Pop | Call | Ret | Jmp if mode == Mode::Bits64 => stack_and_branch(insn, op),
        _ => {
            let code = condition_of(insn)?;
            if insn.is_jcc_short_or_near() {
                if mode != Mode::Bits64 {
                    return None;
                }
                op.imm = insn.near_branch64();
                return jcc(code);
            }
            conditional(insn, op, code)
        }
    }
}

fn binary<P: RamPage + 'static, O: hot::Binary>(
    insn: &Instruction,
    op: &mut Op<P>,
) -> Option<Handler<P>> {
    let (to, from) = (place(insn, 0)?, place(insn, 1)?);
    let size = bytes(insn, 0);
    if !O::WRITES || matches!(to, Place::Register(_)) {
        op.flags &= !STORES;
    }
    match (to, from) {
        (Place::Register(a), Place::Register(b)) => {
            op.a = a;
            op.b = b;
            by_width!(size, binary_register, O; source::Register)
        }
        (Place::Register(a), Place::Immediate(imm)) => {
            op.a = a;
            op.imm = imm;
            by_width!(size, binary_register, O; source::Immediate)
        }
        (Place::Register(a), Place::Memory) => {
            op.a = a;
            if is_base(op) {
                by_width!(size, binary_register, O; source::Memory<Base>)
            } else {
                by_width!(size, binary_register, O; source::Memory<Full>)
            }
        }
        (Place::Memory, Place::Register(b)) => {
            op.b = b;
            if is_base(op) {
                by_width!(size, binary_memory, O; source::Register, Base)
            } else {
                by_width!(size, binary_memory, O; source::Register, Full)
            }
        }
        (Place::Memory, Place::Immediate(imm)) => {
            op.imm = imm;
            if is_base(op) {
                by_width!(size, binary_memory, O; source::Immediate, Base)
            } else {
                by_width!(size, binary_memory, O; source::Immediate, Full)
            }
        }
        _ => None,
    }
}

fn unary<P: RamPage + 'static, O: hot::Binary>(
    insn: &Instruction,
    op: &mut Op<P>,
) -> Option<Handler<P>> {
    let size = bytes(insn, 0);
    match place(insn, 0)? {
        Place::Register(a) => {
            op.a = a;
            by_width!(size, binary_register, O; source::Immediate)
        }
        Place::Memory if is_base(op) => {
            by_width!(size, binary_memory, O; source::Immediate, Base)
        }
        Place::Memory => by_width!(size, binary_memory, O; source::Immediate, Full),
        Place::Immediate(_) => None,
    }
}

fn mov<P: RamPage + 'static>(insn: &Instruction, op: &mut Op<P>) -> Option<Handler<P>> {
    let (to, from) = (place(insn, 0)?, place(insn, 1)?);
    let size = bytes(insn, 0);
    match (to, from) {
        (Place::Register(a), Place::Register(b)) => {
            op.a = a;
            op.b = b;
            by_width!(size, mov_to_register, ; source::Register)
        }
        (Place::Register(a), Place::Immediate(imm)) => {
            op.a = a;
            op.imm = imm;
            by_width!(size, mov_to_register, ; source::Immediate)
        }
        (Place::Register(a), Place::Memory) => {
            op.a = a;
            op.flags &= !STORES;
            if is_base(op) {
                by_width!(size, mov_to_register, ; source::Memory<Base>)
            } else {
                by_width!(size, mov_to_register, ; source::Memory<Full>)
            }
        }
        (Place::Memory, Place::Register(b)) => {
            op.b = b;
            if is_base(op) {
                by_width!(size, mov_to_memory, ; source::Register, Base)
            } else {
                by_width!(size, mov_to_memory, ; source::Register, Full)
            }
        }
        (Place::Memory, Place::Immediate(imm)) => {
            op.imm = imm;
            if is_base(op) {
                by_width!(size, mov_to_memory, ; source::Immediate, Base)
            } else {
                by_width!(size, mov_to_memory, ; source::Immediate, Full)
            }
        }
        _ => None,
    }
}

fn extend<P: RamPage + 'static>(insn: &Instruction, op: &mut Op<P>) -> Option<Handler<P>> {
    let Place::Register(a) = place(insn, 0)? else {
        return None;
    };
    op.a = a;
    op.flags &= !STORES;
    let signed = insn.mnemonic() != Mnemonic::Movzx;
    let from = bytes(insn, 1);
    let to = bytes(insn, 0);
    let memory = match place(insn, 1)? {
        Place::Register(b) => {
            op.b = b;
            false
        }
        _ => true,
    };
    Some(match (signed, from, to, memory) {
        (false, 1, 4 | 8, false) => hot::zero_extend::<P, u8, source::Register>,
        (false, 1, 4 | 8, true) if is_base(op) => hot::zero_extend::<P, u8, source::Memory<Base>>,
        (false, 1, 4 | 8, true) => hot::zero_extend::<P, u8, source::Memory<Full>>,
        (false, 2, 4 | 8, false) => hot::zero_extend::<P, u16, source::Register>,
        (false, 2, 4 | 8, true) => hot::zero_extend::<P, u16, source::Memory<Full>>,
        (true, 1, 4, false) => hot::sign_extend::<P, u8, u32, source::Register>,
        (true, 1, 4, true) => hot::sign_extend::<P, u8, u32, source::Memory<Full>>,
        (true, 2, 4, false) => hot::sign_extend::<P, u16, u32, source::Register>,
        (true, 2, 4, true) => hot::sign_extend::<P, u16, u32, source::Memory<Full>>,
        (true, 1, 8, false) => hot::sign_extend::<P, u8, u64, source::Register>,
        (true, 1, 8, true) => hot::sign_extend::<P, u8, u64, source::Memory<Full>>,
        (true, 2, 8, false) => hot::sign_extend::<P, u16, u64, source::Register>,
        (true, 2, 8, true) => hot::sign_extend::<P, u16, u64, source::Memory<Full>>,
        (true, 4, 8, false) => hot::sign_extend::<P, u32, u64, source::Register>,
        (true, 4, 8, true) => hot::sign_extend::<P, u32, u64, source::Memory<Full>>,
        _ => return None,
    })
}

fn lea<P: RamPage + 'static>(insn: &Instruction, op: &mut Op<P>) -> Option<Handler<P>> {
    let Place::Register(a) = place(insn, 0)? else {
        return None;
    };
    op.a = a;
    op.seg = REG_ZERO;
    op.flags &= !STORES;
    match bytes(insn, 0) {
        8 => Some(hot::lea::<P, u64>),
        4 => Some(hot::lea::<P, u32>),
        _ => None,
    }
}

fn imul<P: RamPage + 'static>(insn: &Instruction, op: &mut Op<P>) -> Option<Handler<P>> {
    let Place::Register(a) = place(insn, 0)? else {
        return None;
    };
    op.flags &= !STORES;
    op.a = a;
    let wide = bytes(insn, 0) == 8;
    if bytes(insn, 0) == 2 {
        return None;
    }
    let source = place(insn, 1)?;
    if insn.op_count() == 3 {
        let Place::Immediate(imm) = place(insn, 2)? else {
            return None;
        };
        op.imm = imm;
        return match source {
            Place::Register(b) => {
                op.b = b;
                Some(if wide {
                    hot::imul_immediate::<P, u64, source::Register>
                } else {
                    hot::imul_immediate::<P, u32, source::Register>
                })
            }
            Place::Memory => Some(if wide {
                hot::imul_immediate::<P, u64, source::Memory<Full>>
            } else {
                hot::imul_immediate::<P, u32, source::Memory<Full>>
            }),
            Place::Immediate(_) => None,
        };
    }
    match source {
        Place::Register(b) => {
            op.b = b;
            Some(if wide {
                hot::binary_register::<P, hot::Imul, u64, source::Register>
            } else {
                hot::binary_register::<P, hot::Imul, u32, source::Register>
            })
        }
        Place::Memory => Some(if wide {
            hot::binary_register::<P, hot::Imul, u64, source::Memory<Full>>
        } else {
            hot::binary_register::<P, hot::Imul, u32, source::Memory<Full>>
        }),
        Place::Immediate(_) => None,
    }
}

fn without_flags<P: RamPage + 'static>(insn: &Instruction, op: &mut Op<P>) -> Option<Handler<P>> {
    let Place::Register(a) = place(insn, 0)? else {
        return None;
    };
    let Place::Register(b) = place(insn, 1)? else {
        return None;
    };
    op.a = a;
    op.b = b;
    match place(insn, 2)? {
        Place::Register(c) => op.base = c,
        Place::Immediate(imm) => {
            op.base = REG_ZERO;
            op.imm = imm;
        }
        Place::Memory => return None,
    }
    let wide = bytes(insn, 0) == 8;
    Some(match (insn.mnemonic(), wide) {
        (Mnemonic::Shlx, true) => hot::shlx::<P, u64>,
        (Mnemonic::Shlx, false) => hot::shlx::<P, u32>,
        (Mnemonic::Shrx, true) => hot::shrx::<P, u64>,
        (Mnemonic::Shrx, false) => hot::shrx::<P, u32>,
        (Mnemonic::Sarx, true) => hot::sarx::<P, u64>,
        (Mnemonic::Sarx, false) => hot::sarx::<P, u32>,
        (_, true) => hot::rorx::<P, u64>,
        (_, false) => hot::rorx::<P, u32>,
    })
}

/// 64-bit mode only.
fn stack_and_branch<P: RamPage + 'static>(
    insn: &Instruction,
    op: &mut Op<P>,
) -> Option<Handler<P>> {
    match insn.code() {
        Code::Push_r64 => {
            let Place::Register(b) = place(insn, 0)? else {
                return None;
            };
            op.b = b;
            Some(hot::push::<P, source::Register>)
        }
        Code::Push_rm64 => match place(insn, 0)? {
            Place::Register(b) => {
                op.b = b;
                Some(hot::push::<P, source::Register>)
            }
            _ => Some(hot::push::<P, source::Memory<Full>>),
        },
        Code::Pushq_imm8 | Code::Pushq_imm32 => {
            op.imm = insn.immediate(0);
            Some(hot::push::<P, source::Immediate>)
        }
        Code::Pop_r64 => {
            let Place::Register(a) = place(insn, 0)? else {
                return None;
            };
            op.a = a;
            op.flags &= !STORES;
            Some(hot::pop::<P>)
        }
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
            op.imm = insn.near_branch64();
            Some(hot::jmp_relative::<P>)
        }
        Code::Call_rel32_64 => {
            op.imm = insn.near_branch64();
            Some(hot::call_relative::<P>)
        }
        Code::Retnq => {
            op.flags &= !STORES;
            Some(hot::ret::<P>)
        }
        Code::Jmp_rm64 => match place(insn, 0)? {
            Place::Register(b) => {
                op.b = b;
                Some(hot::jmp_to::<P, source::Register>)
            }
            _ => Some(hot::jmp_to::<P, source::Memory<Full>>),
        },
        Code::Call_rm64 => match place(insn, 0)? {
            Place::Register(b) => {
                op.b = b;
                Some(hot::call_to::<P, source::Register>)
            }
            _ => Some(hot::call_to::<P, source::Memory<Full>>),
        },
        _ => None,
    }
}

fn jcc<P: RamPage + 'static>(code: u8) -> Option<Handler<P>> {
    let table: [Handler<P>; 16] = [
        hot::jcc::<P, 0>,
        hot::jcc::<P, 1>,
        hot::jcc::<P, 2>,
        hot::jcc::<P, 3>,
        hot::jcc::<P, 4>,
        hot::jcc::<P, 5>,
        hot::jcc::<P, 6>,
        hot::jcc::<P, 7>,
        hot::jcc::<P, 8>,
        hot::jcc::<P, 9>,
        hot::jcc::<P, 10>,
        hot::jcc::<P, 11>,
        hot::jcc::<P, 12>,
        hot::jcc::<P, 13>,
        hot::jcc::<P, 14>,
        hot::jcc::<P, 15>,
    ];
    table.get(usize::from(code)).copied()
}

/// CMOVcc and SETcc.
fn conditional<P: RamPage + 'static>(
    insn: &Instruction,
    op: &mut Op<P>,
    code: u8,
) -> Option<Handler<P>> {
    if !insn.op_register(0).is_gpr() || op.flags & BRANCH != 0 {
        return None;
    }
    let Place::Register(a) = place(insn, 0)? else {
        return None;
    };
    op.a = a;
    op.disp = if insn.op_count() == 1 {
        u64::from(code)
    } else {
        op.disp
    };
    if insn.op_count() == 1 {
        return Some(hot::setcc::<P>);
    }
    op.flags = block_flags(insn) & !STORES | op.flags & STACK;
    op.imm = u64::from(code);
    match (place(insn, 1)?, bytes(insn, 0)) {
        (Place::Register(b), 4) => {
            op.b = b;
            Some(hot::cmov::<P, u32, source::Register>)
        }
        (Place::Register(b), 8) => {
            op.b = b;
            Some(hot::cmov::<P, u64, source::Register>)
        }
        (Place::Memory, 4) => Some(hot::cmov::<P, u32, source::Memory<Full>>),
        (Place::Memory, 8) => Some(hot::cmov::<P, u64, source::Memory<Full>>),
        _ => None,
    }
}
