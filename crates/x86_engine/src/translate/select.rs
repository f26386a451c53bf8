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
        Adcx | Adox if host_has!("adx") => Flags::Changes,
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

#[cfg(test)]
mod tests {
    use crate::flat::FlatPage;
    use crate::translate::asm::Asm;
    use crate::translate::block::{Source, Tools, translate};
    use crate::translate::host::Host;
    use crate::translate::thunks;
    use crate::translate::vectors::Copying;

    /// Whether the host's code for the first instruction is more than a way to the interpreter.
    fn is_translated(bytes: &[u8]) -> bool {
        let mut page = [0xF4; 64];
        page[..bytes.len()].copy_from_slice(bytes);
        let source = Source {
            bytes: &page,
            page: 0x1000,
            offset: 0,
            version: 1,
            version_address: 0,
        };
        let thunks = thunks::emit(&mut Asm::new(0, Vec::new()));
        let vectors = Copying::new::<FlatPage>(Host::complete());
        let mut tools = Tools::new();
        translate(
            &source,
            0x1_0000,
            thunks,
            &mut tools,
            &|_| None,
            true,
            vectors,
        )
        .is_some()
    }

    #[test]
    fn the_rarer_integer_forms_are_translated() {
        let translated: [(&str, &[u8]); 34] = [
            ("shld rax, rcx, 3", &[0x48, 0x0F, 0xA4, 0xC8, 3]),
            ("shrd r9, r10, cl", &[0x4D, 0x0F, 0xAD, 0xD1]),
            ("rcl ax, 3", &[0x66, 0xC1, 0xD0, 3]),
            ("rcr cl, 1", &[0xD0, 0xD9]),
            ("idiv rcx", &[0x48, 0xF7, 0xF9]),
            ("idiv word [rbx]", &[0x66, 0xF7, 0x3B]),
            ("div bh", &[0xF6, 0xF7]),
            ("div word [rbx]", &[0x66, 0xF7, 0x33]),
            ("bt [rbx], rcx", &[0x48, 0x0F, 0xA3, 0x0B]),
            ("lock bts [rbx], ecx", &[0xF0, 0x0F, 0xAB, 0x0B]),
            ("cmpxchg r9, r10", &[0x4D, 0x0F, 0xB1, 0xD1]),
            ("cmpxchg [rbx], r15", &[0x4C, 0x0F, 0xB1, 0x3B]),
            ("cmpxchg8b [rsi]", &[0x0F, 0xC7, 0x0E]),
            ("lock cmpxchg16b [rsi]", &[0xF0, 0x48, 0x0F, 0xC7, 0x0E]),
            ("mov bh, [rsi]", &[0x8A, 0x3E]),
            ("add ah, bl", &[0x00, 0xDC]),
            ("mulx r9, r10, r11", &[0xC4, 0x42, 0xAB, 0xF6, 0xCB]),
            ("andn r9, r10, [rsi]", &[0xC4, 0x62, 0xA8, 0xF2, 0x0E]),
            ("mov eax, [esi]", &[0x67, 0x8B, 0x06]),
            ("lea ax, [rsi + 1]", &[0x66, 0x8D, 0x46, 1]),
            ("push ax", &[0x66, 0x50]),
            ("pop r9w", &[0x66, 0x41, 0x59]),
            ("pop [rsp + 8]", &[0x8F, 0x44, 0x24, 8]),
            ("push word [rsi]", &[0x66, 0xFF, 0x36]),
            ("xlatb", &[0xD7]),
            ("lahf", &[0x9F]),
            ("sahf", &[0x9E]),
            ("cmc", &[0xF5]),
            ("clflushopt [rsi]", &[0x66, 0x0F, 0xAE, 0x3E]),
            ("clwb [rsi]", &[0x66, 0x0F, 0xAE, 0x36]),
            ("jrcxz", &[0xE3, 0]),
            ("jecxz", &[0x67, 0xE3, 0]),
            ("loop", &[0xE2, 0]),
            ("prefetchwt1 [rsi]", &[0x0F, 0x0D, 0x16]),
        ];
        for (name, bytes) in translated {
            assert!(is_translated(bytes), "{name}");
        }
        for (name, bytes) in [
            ("cpuid", &[0x0F, 0xA2][..]),
            ("shld [rsi], eax, 3", &[0x0F, 0xA4, 0x06, 3]),
            ("enter", &[0xC8, 0, 0, 0]),
        ] {
            assert!(!is_translated(bytes), "{name}");
        }
    }
}
