//! Guest instructions as host instructions: most are themselves with other operands.
//!
//! Here it is decided what becomes of an instruction, and what it does to the flags; the families are below.

mod arithmetic;
mod branch;
mod copy;
mod shift;
mod stack;

use crate::exec::condition_of;
use crate::operand::gpr_of;
use crate::translate::asm::R15;
use crate::translate::block::{Builder, Step, Unsupported};
use crate::translate::vectors;
use arithmetic::*;
pub use branch::leads_to_target;
use branch::{conditional_branch, counted_branch, transfer};
use copy::copy;
pub use copy::{emit, part, point_at_r15};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use shift::{double_shift, rotate_through_carry, shift};
use stack::{leave, pop, push};

/// How an instruction deals with the arithmetic flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    Keeps,
    Reads,
    /// Writes all six, whatever they were.
    Writes,
    /// Writes some, or none in some cases, or depends on them.
    Changes,
}

type Known<'a> = &'a dyn Fn(u16) -> Option<u64>;

type Result = core::result::Result<Step, Unsupported>;

/// The flags of instructions that are copied; `None` for all others.
fn flags_of(insn: &Instruction) -> Option<Flags> {
    use Mnemonic::*;
    Some(match insn.mnemonic() {
        Add | Sub | And | Or | Xor | Cmp | Test | Neg | Xadd => Flags::Writes,
        Bt | Bts | Btr | Btc
            if insn.op_kind(0) == OpKind::Memory && insn.op_kind(1) == OpKind::Register =>
        {
            return None;
        }
        Adc | Sbb | Inc | Dec | Bt | Bts | Btr | Btc | Rol | Ror | Clc | Stc | Cmc => {
            Flags::Changes
        }
        Adcx | Adox if std::is_x86_feature_detected!("adx") => Flags::Changes,
        // What the others do to OF is up to the processor.
        Rcl | Rcr if operand_size(insn, 0) >= 4 => Flags::Changes,
        Mov | Movzx | Movsx | Movsxd | Movnti | Not | Xchg | Bswap | Movbe | Rorx | Sarx | Shlx
        | Shrx | Pdep | Pext | Mulx | Crc32 => Flags::Keeps,
        Andn | Blsi | Blsmsk | Blsr | Bzhi | Popcnt => Flags::Writes,
        _ => match condition_of(insn) {
            Some(_) if insn.is_jcc_short_or_near() => return None,
            Some(_) if insn.op_count() == 1 || insn.op_register(0).is_gpr() => Flags::Reads,
            _ => return None,
        },
    })
}

/// Whether nobody will see the flags that come before `rest`: they are overwritten before anything reads them,
/// faults or leaves the block.
fn flags_die(rest: &[Instruction]) -> bool {
    for insn in rest {
        // An instruction that may be left to the interpreter ends the block.
        let plain = insn.op_count() < 3
            && (0..insn.op_count()).all(|n| match insn.op_kind(n) {
                OpKind::Memory => false,
                OpKind::Register => {
                    // Control, debug and segment registers are the interpreter's.
                    let register = insn.op_register(n);
                    register.is_gpr() && gpr_of(register).1 == 0
                }
                _ => true,
            });
        match flags_of(insn) {
            _ if !plain => return false,
            Some(Flags::Keeps) => {}
            Some(Flags::Writes) => return true,
            _ if insn.mnemonic() == Mnemonic::Lea => {}
            _ => return false,
        }
    }
    false
}

/// Translates one instruction, behind which `rest` may come.
pub fn instruction(
    b: &mut Builder<'_>,
    insn: &Instruction,
    rest: &[Instruction],
    known: Known<'_>,
) -> Result {
    use Mnemonic::*;
    if let Some(flags) = flags_of(insn) {
        copy(b, insn, flags)?;
        return Ok(Step::Next);
    }
    match insn.mnemonic() {
        Shl | Sal | Shr | Sar => return shift(b, insn),
        Bsf | Bsr => return count(b, insn, rest, 0x40),
        Tzcnt | Lzcnt => return count(b, insn, rest, 0x41),
        Imul if insn.op_count() > 1 => {
            copy(b, insn, Flags::Writes)?;
            if !flags_die(rest) {
                let guest = gpr_of(insn.op_register(0)).0;
                let low = b.value(guest, R15);
                product_flags(b, low, operand_size(insn, 0));
            }
            return Ok(Step::Next);
        }
        Lea => return lea(b, insn),
        Lfence => return Ok(Step::Next),
        Mfence | Sfence => {
            emit(b, insn)?;
            return Ok(Step::Next);
        }
        Rcl | Rcr => return rotate_through_carry(b, insn),
        Shld | Shrd => return double_shift(b, insn, rest),
        Div => return divide(b, insn),
        Idiv => return divide_signed(b, insn),
        Nop | Endbr64 | Endbr32 | Prefetch | Prefetchw | Prefetchwt1 | Prefetchnta | Prefetcht0
        | Prefetcht1 | Prefetcht2 | Cldemote | Reservednop => return Ok(Step::Next),
        // They check the address as a load of one byte does.
        Clflush | Clflushopt | Clwb => {
            b.operand(insn, false, 1)?;
            return Ok(Step::Next);
        }
        Cdqe | Cwde | Cbw | Cdq | Cqo | Cwd => return convert(b, insn),
        Mul | Imul => return multiply(b, insn, rest),
        Cmpxchg => return compare_exchange(b, insn),
        Cmpxchg8b | Cmpxchg16b => return compare_exchange_wide(b, insn),
        Bt | Bts | Btr | Btc => return bit_of_memory(b, insn),
        Lahf => return load_flags(b),
        Sahf => return store_flags(b),
        Xlatb => return look_up_byte(b, insn),
        Loop | Jrcxz | Jecxz => return counted_branch(b, insn, known),
        Push => return push(b, insn),
        Pop => return pop(b, insn),
        Leave if insn.code() == Code::Leaveq => return leave(b),
        Call | Jmp | Ret => return transfer(b, insn, rest, known),
        _ => {}
    }
    match condition_of(insn) {
        Some(code) if insn.is_jcc_short_or_near() => conditional_branch(b, insn, rest, code, known),
        _ => {
            vectors::instruction(b, insn)?;
            Ok(Step::Next)
        }
    }
}

fn operand_size(insn: &Instruction, n: u32) -> usize {
    match insn.op_kind(n) {
        OpKind::Register => insn.op_register(n).size(),
        _ => insn.memory_size().size(),
    }
}
