//! Comparisons, FTST and FXAM.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::arithmetic::conditions;
use super::load_store::{last_register, read_float, read_integer};
use super::stack::{C0, C1, C2, C3, Stack, finish};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::ARITHMETIC;
use crate::float::{self, Value};

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    let mnemonic = insn.mnemonic();
    if mnemonic == Fxam {
        return examine(cpu);
    }
    let other = match mnemonic {
        Ftst => Some(Value::Zero(false)),
        Ficom | Ficomp => Some(read_integer(cpu, insn)?),
        _ if insn.op_count() > 0 && insn.op_kind(0) == OpKind::Memory => {
            Some(read_float(cpu, insn)?)
        }
        _ => {
            let i = if insn.op_count() == 0 {
                1
            } else {
                last_register(insn)
            };
            let fpu = cpu.fpu();
            (!fpu.is_empty(i)).then(|| fpu.value(i))
        }
    };
    let quiet = matches!(mnemonic, Fucom | Fucomp | Fucompp | Fucomi | Fucomip);
    let into_flags = matches!(mnemonic, Fcomi | Fcomip | Fucomi | Fucomip);
    let fpu = cpu.fpu();
    // Unordered after a stack fault. The result is written even when an unmasked exception is raised, but then
    // nothing is popped.
    let written;
    let order = match other {
        Some(other) if !fpu.is_empty(0) => {
            let mut context = fpu.context();
            let order = float::compare(fpu.value(0), other, !quiet, &mut context);
            let c1 = fpu.fsw & C1;
            written = finish(fpu, &context);
            if into_flags {
                fpu.set_conditions(C1, c1);
            }
            order
        }
        _ => {
            written = fpu.stack_fault(false);
            None
        }
    };
    let bits = conditions(order);
    if !into_flags {
        fpu.set_conditions(C0 | C2 | C3, bits);
    }
    match mnemonic {
        _ if !written => {}
        Fcomp | Ficomp | Fucomp | Fcomip | Fucomip => fpu.pop(),
        Fcompp | Fucompp => {
            fpu.pop();
            fpu.pop();
        }
        _ => {}
    }
    if into_flags {
        // C0, C2 and C3 are where CF, PF and ZF are, eight bits up.
        cpu.flags.set(ARITHMETIC, u64::from(bits >> 8));
    }
    Ok(())
}

fn examine<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    let sign = if fpu.raw(0) >> 79 & 1 != 0 { C1 } else { 0 };
    let class = if fpu.is_empty(0) {
        C3 | C0
    } else {
        match fpu.value(0) {
            Value::Unsupported => 0,
            Value::Nan { .. } => C0,
            Value::Infinity(_) => C2 | C0,
            Value::Zero(_) => C3,
            Value::Finite(n) if n.denormal => C3 | C2,
            Value::Finite(_) => C2,
        }
    };
    fpu.set_conditions(C0 | C1 | C2 | C3, sign | class);
    Ok(())
}
