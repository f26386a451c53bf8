//! x87 arithmetic with register and memory operands.

use core::cmp::Ordering;

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use super::load_store::{read_float, read_integer};
use super::stack::{C0, C1, C2, C3, INDEFINITE, Stack, finish};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::float::{self, Context, Format, Value, remainder};

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Fabs | Fchs => sign(cpu, insn),
        Fsqrt | Frndint => unary(cpu, insn),
        Fscale => scale(cpu),
        Fxtract => extract(cpu),
        Fprem | Fprem1 => partial_remainder(cpu, insn),
        _ => binary(cpu, insn),
    }
}

type Operation = fn(Value, Value, Format, &mut Context) -> Value;

/// The operation and whether the destination is its second operand.
fn operation(mnemonic: Mnemonic) -> (Operation, bool) {
    use Mnemonic::*;
    match mnemonic {
        Fadd | Faddp | Fiadd => (float::add, false),
        Fmul | Fmulp | Fimul => (float::multiply, false),
        Fsub | Fsubp | Fisub => (float::subtract, false),
        Fsubr | Fsubrp | Fisubr => (float::subtract, true),
        Fdiv | Fdivp | Fidiv => (float::divide, false),
        _ => (float::divide, true),
    }
}

fn binary<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    use Mnemonic::*;
    let mnemonic = insn.mnemonic();
    let (f, reversed) = operation(mnemonic);
    let (destination, source) = if insn.op_kind(0) == OpKind::Memory {
        let value = if matches!(mnemonic, Fiadd | Fisub | Fisubr | Fimul | Fidiv | Fidivr) {
            read_integer(cpu, insn)?
        } else {
            read_float(cpu, insn)?
        };
        (0, Some(value))
    } else {
        let (d, s) = (
            insn.op_register(0).number() as u8,
            insn.op_register(1).number() as u8,
        );
        let fpu = cpu.fpu();
        (d, (!fpu.is_empty(s)).then(|| fpu.value(s)))
    };
    let pops = matches!(mnemonic, Faddp | Fsubp | Fsubrp | Fmulp | Fdivp | Fdivrp);
    let fpu = cpu.fpu();
    let written = match source {
        Some(source) if !fpu.is_empty(destination) => {
            let mut context = fpu.context();
            let own = fpu.value(destination);
            let (a, b) = if reversed {
                (source, own)
            } else {
                (own, source)
            };
            let result = f(a, b, Format::EXTENDED, &mut context);
            let written = finish(fpu, &context);
            if written {
                fpu.set(destination, result);
            }
            written
        }
        _ => {
            let masked = fpu.stack_fault(false);
            if masked {
                fpu.set_raw(destination, INDEFINITE);
            }
            masked
        }
    };
    if written && pops {
        fpu.pop();
    }
    Ok(())
}

fn sign<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    if fpu.is_empty(0) {
        if fpu.stack_fault(false) {
            fpu.set_raw(0, INDEFINITE);
        }
        return Ok(());
    }
    let (value, bit) = (fpu.raw(0), 1 << 79);
    fpu.set_conditions(C1, 0);
    fpu.set_raw(
        0,
        if insn.mnemonic() == Mnemonic::Fabs {
            value & !bit
        } else {
            value ^ bit
        },
    );
    Ok(())
}

fn unary<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    if fpu.is_empty(0) {
        if fpu.stack_fault(false) {
            fpu.set_raw(0, INDEFINITE);
        }
        return Ok(());
    }
    let mut context = fpu.context();
    let value = fpu.value(0);
    let result = if insn.mnemonic() == Mnemonic::Fsqrt {
        float::square_root(value, Format::EXTENDED, &mut context)
    } else {
        if !value.is_nan() && value != Value::Unsupported {
            context.note_denormals(&[value]);
        }
        let rounding = context.rounding;
        float::to_integral(value, rounding, false, &mut context)
    };
    if finish(fpu, &context) {
        fpu.set(0, result);
    }
    Ok(())
}

/// Both operands, or `None` after a stack fault that is dealt with.
fn two_operands(fpu: &mut x86_arch::vmx::Fpu) -> Option<(Value, Value)> {
    if fpu.is_empty(0) || fpu.is_empty(1) {
        if fpu.stack_fault(false) {
            fpu.set_raw(0, INDEFINITE);
        }
        return None;
    }
    Some((fpu.value(0), fpu.value(1)))
}

fn scale<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    let Some((a, b)) = two_operands(fpu) else {
        return Ok(());
    };
    let mut context = fpu.context();
    // The precision control does not act here.
    context.precision = 64;
    let result = remainder::scale(a, b, &mut context);
    if finish(fpu, &context) {
        fpu.set(0, result);
    }
    Ok(())
}

/// Splits ST(0) into exponent (which replaces it) and significand (which is pushed).
fn extract<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    let (empty, full) = (fpu.is_empty(0), !fpu.is_empty(7));
    if empty || full {
        if fpu.stack_fault(full && !empty) {
            fpu.set_raw(0, INDEFINITE);
            fpu.set_top(fpu.top().wrapping_sub(1));
            fpu.set_raw(0, INDEFINITE);
        }
        return Ok(());
    }
    let mut context = fpu.context();
    let (exponent, significand) = remainder::extract(fpu.value(0), &mut context);
    if finish(fpu, &context) {
        fpu.set(0, exponent);
        fpu.set_top(fpu.top().wrapping_sub(1));
        fpu.set(0, significand);
    }
    Ok(())
}

fn partial_remainder<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    fpu.set_conditions(C2, 0);
    let Some((a, b)) = two_operands(fpu) else {
        return Ok(());
    };
    let mut context = fpu.context();
    context.precision = 64;
    let nearest = insn.mnemonic() == Mnemonic::Fprem1;
    let (result, quotient) = remainder::partial(a, b, nearest, &mut context);
    if finish(fpu, &context) {
        let bit = |n: u32, condition: u16| match quotient {
            Some(q) if q >> n & 1 != 0 => condition,
            _ => 0,
        };
        // Incomplete: C2 alone. Else the quotient's low bits, in C0, C3, C1.
        let conditions = if quotient.is_none() {
            C2
        } else {
            bit(2, C0) | bit(1, C3) | bit(0, C1)
        };
        // A NaN says nothing about the quotient.
        let told = if result.is_nan() {
            C1 | C2
        } else {
            C0 | C1 | C2 | C3
        };
        fpu.set_conditions(told, conditions);
        fpu.set(0, result);
    }
    Ok(())
}

/// The order as C3, C2, C0.
pub fn conditions(order: Option<Ordering>) -> u16 {
    match order {
        None => C3 | C2 | C0,
        Some(Ordering::Less) => C0,
        Some(Ordering::Equal) => C3,
        Some(Ordering::Greater) => 0,
    }
}
