//! Transcendental instructions: operands, stack movements, C2.

use iced_x86::{Instruction, Mnemonic};
use x86_arch::RamPage;

use super::stack::{C1, C2, INDEFINITE, Stack, finish};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::float::transcendental::{
    arctangent, exp2_minus_1, rounded, sine_cosine, trigonometric_special, y_log2_x,
    y_log2_x_plus_1,
};
use crate::float::{Context, Value};

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Fsin | Mnemonic::Fcos | Mnemonic::Fsincos | Mnemonic::Fptan => {
            trigonometric(cpu, insn)
        }
        Mnemonic::F2xm1 => {
            let fpu = cpu.fpu();
            if fpu.is_empty(0) {
                if fpu.stack_fault(false) {
                    fpu.set_raw(0, INDEFINITE);
                }
                return Ok(());
            }
            let mut context = context_of(fpu.context());
            let result = exp2_minus_1(fpu.value(0), &mut context);
            if finish(fpu, &context) {
                fpu.set(0, result);
            }
            Ok(())
        }
        _ => two_operands(cpu, insn),
    }
}

/// The precision control does not act on these.
fn context_of(context: Context) -> Context {
    Context {
        precision: 64,
        ..context
    }
}

/// The result replaces ST(1), and ST(0) is popped.
fn two_operands<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    if fpu.is_empty(0) || fpu.is_empty(1) {
        if fpu.stack_fault(false) {
            fpu.set_raw(1, INDEFINITE);
            fpu.pop();
        }
        return Ok(());
    }
    let mut context = context_of(fpu.context());
    let (x, y) = (fpu.value(0), fpu.value(1));
    let result = match insn.mnemonic() {
        Mnemonic::Fyl2x => y_log2_x(x, y, &mut context),
        Mnemonic::Fyl2xp1 => y_log2_x_plus_1(x, y, &mut context),
        _ => arctangent(y, x, &mut context),
    };
    if finish(fpu, &context) {
        fpu.set(1, result);
        fpu.pop();
    }
    Ok(())
}

/// FSIN, FCOS, FSINCOS, FPTAN: an argument of 2^63 or more is left alone, with C2 set.
fn trigonometric<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let mnemonic = insn.mnemonic();
    let pushes = matches!(mnemonic, Mnemonic::Fsincos | Mnemonic::Fptan);
    let fpu = cpu.fpu();
    let (empty, full) = (fpu.is_empty(0), !fpu.is_empty(7));
    if empty || pushes && full {
        fpu.set_conditions(C2, 0);
        if fpu.stack_fault(!empty) {
            fpu.set_raw(0, INDEFINITE);
            if pushes {
                fpu.set_top(fpu.top().wrapping_sub(1));
                fpu.set_raw(0, INDEFINITE);
            }
        }
        return Ok(());
    }
    let argument = fpu.value(0);
    if let Value::Finite(n) = argument
        && n.exponent >= 63
    {
        fpu.set_conditions(C1 | C2, C2);
        return Ok(());
    }
    let mut context = context_of(fpu.context());
    let at_zero = if mnemonic == Mnemonic::Fcos {
        Value::ONE
    } else {
        argument
    };
    // The first result stays in place, the second is pushed.
    let (first, second) = match trigonometric_special(argument, at_zero, &mut context) {
        Some(value) if value.is_nan() => (value, value),
        Some(value) => (value, Value::ONE),
        None => {
            let Some((s, c)) = sine_cosine(argument, &mut context) else {
                return Ok(());
            };
            match mnemonic {
                Mnemonic::Fsin => (rounded(s, &mut context), Value::ONE),
                Mnemonic::Fcos => (rounded(c, &mut context), Value::ONE),
                Mnemonic::Fptan => (rounded(s.divide(c), &mut context), Value::ONE),
                _ => (rounded(s, &mut context), rounded(c, &mut context)),
            }
        }
    };
    fpu.set_conditions(C2, 0);
    if finish(fpu, &context) {
        fpu.set(0, first);
        if pushes {
            fpu.set_top(fpu.top().wrapping_sub(1));
            fpu.set(0, second);
        }
    }
    Ok(())
}
