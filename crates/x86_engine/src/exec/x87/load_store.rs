//! Loads, stores, exchanges, conditional moves and constants.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::{Access, RamPage};

use super::stack::{C1, INDEFINITE, Stack, finish_store};
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::float::{self, Context, Format, Number, Rounding, Value, decimal, flag};
use crate::operand::Address;

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    match insn.mnemonic() {
        Fld if insn.op_kind(insn.op_count() - 1) == OpKind::Register => load_register(cpu, insn),
        Fld | Fild | Fbld => load(cpu, insn),
        Fst | Fstp | Fstpnce if insn.op_kind(0) == OpKind::Register => store_register(cpu, insn),
        Fst | Fstp | Fist | Fistp | Fisttp | Fbstp => store(cpu, insn),
        Fxch => exchange(cpu, insn),
        Fcmovb | Fcmove | Fcmovbe | Fcmovu | Fcmovnb | Fcmovne | Fcmovnbe | Fcmovnu => {
            conditional(cpu, insn)
        }
        _ => constant(cpu, insn),
    }
}

/// The ST(i) of the last register operand.
pub fn last_register(insn: &Instruction) -> u8 {
    insn.op_register(insn.op_count() - 1).number() as u8
}

fn load_register<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let fpu = cpu.fpu();
    let (i, context) = (last_register(insn), fpu.context());
    if fpu.is_empty(i) {
        if fpu.stack_fault(false) {
            fpu.set_top(fpu.top().wrapping_sub(1));
            fpu.set_raw(0, INDEFINITE);
        }
        return Ok(());
    }
    let value = fpu.raw(i);
    fpu.push(value, &context);
    Ok(())
}

/// A floating-point memory operand; anything raised goes into the context.
pub fn read_float<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<Value, Fault> {
    let bytes = insn.memory_size().size();
    let address = cpu.address(insn, bytes, Access::Read)?;
    let bits = cpu.load_wide(address, bytes)?;
    Ok(match bytes {
        4 => Format::SINGLE.unpack(bits, false),
        8 => Format::DOUBLE.unpack(bits, false),
        _ => Format::EXTENDED.unpack(bits, false),
    })
}

/// An integer memory operand of 2, 4 or 8 bytes: exact in the 80-bit format.
pub fn read_integer<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<Value, Fault> {
    let bytes = insn.memory_size().size();
    let raw = cpu.read_memory(insn, bytes)?;
    let value = match bytes {
        2 => i64::from(raw as i16),
        4 => i64::from(raw as i32),
        _ => raw as i64,
    };
    Ok(float::from_integer(
        value,
        Format::EXTENDED,
        &mut Context::from_fcw(0x37F),
    ))
}

fn load<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let mut context = cpu.fpu().context();
    // Widening is exact whatever the precision control says.
    context.precision = 64;
    let value = match insn.mnemonic() {
        Mnemonic::Fild => Format::EXTENDED.pack(read_integer(cpu, insn)?),
        Mnemonic::Fbld => {
            let address = cpu.address(insn, 10, Access::Read)?;
            decimal::load(cpu.load_wide(address, 10)?)
        }
        _ if insn.memory_size().size() == 10 => {
            // The 80-bit format is moved as it is.
            let address = cpu.address(insn, 10, Access::Read)?;
            cpu.load_wide(address, 10)?
        }
        _ => {
            let value = read_float(cpu, insn)?;
            if cpu.fpu().is_empty(7) {
                Format::EXTENDED.pack(float::to_format(value, Format::EXTENDED, &mut context))
            } else {
                0
            }
        }
    };
    // Widening a denormal is exact: neither underflow nor rounding happens.
    context.raised &= flag::INVALID | flag::DENORMAL;
    cpu.fpu().push(value, &context);
    Ok(())
}

fn store_register<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    let pops = insn.mnemonic() != Mnemonic::Fst;
    let i = insn.op_register(0).number() as u8;
    let fpu = cpu.fpu();
    if insn.mnemonic() == Mnemonic::Fstpnce && fpu.is_empty(0) {
        // The undocumented spelling only pops an empty register, without a fault.
        fpu.set_conditions(C1, 0);
        fpu.pop();
        return Ok(());
    }
    if fpu.is_empty(0) {
        if !fpu.stack_fault(false) {
            return Ok(());
        }
        fpu.set_raw(i, INDEFINITE);
    } else {
        fpu.set_conditions(C1, 0);
        let value = fpu.raw(0);
        fpu.set_raw(i, value);
    }
    if pops {
        fpu.pop();
    }
    Ok(())
}

/// What goes to memory, or `None` when an unmasked exception keeps it back; flags are in the context.
fn stored(insn: &Instruction, raw: u128, context: &mut Context) -> u128 {
    use Mnemonic::*;
    let bytes = insn.memory_size().size();
    let value = Format::EXTENDED.unpack(raw, false);
    match insn.mnemonic() {
        Fist | Fistp | Fisttp => {
            let bits = 8 * bytes as u32;
            let rounding = if insn.mnemonic() == Fisttp {
                Rounding::Zero
            } else {
                context.rounding
            };
            match float::to_integer(value, bits, rounding, context) {
                Some(integer) => u128::from(integer as u64),
                None => 1 << (bits - 1),
            }
        }
        Fbstp => decimal::store(value, context),
        _ if bytes == 10 => raw,
        _ => {
            let format = if bytes == 4 {
                Format::SINGLE
            } else {
                Format::DOUBLE
            };
            format.pack(float::to_format(value, format, context))
        }
    }
}

fn store<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    use Mnemonic::*;
    let bytes = insn.memory_size().size();
    let address: Address = cpu.address(insn, bytes, Access::Write)?;
    cpu.probe_write(address.linear, bytes, address.stack)?;
    let mut fpu = cpu.fpu().clone();
    let written = if fpu.is_empty(0) {
        let value = match insn.mnemonic() {
            Fist | Fistp | Fisttp => 1 << (8 * bytes - 1),
            Fbstp => decimal::INDEFINITE,
            _ => match bytes {
                4 => Format::SINGLE.pack(Value::INDEFINITE),
                8 => Format::DOUBLE.pack(Value::INDEFINITE),
                _ => INDEFINITE,
            },
        };
        fpu.stack_fault(false).then_some(value)
    } else {
        let mut context = fpu.context();
        let value = stored(insn, fpu.raw(0), &mut context);
        // A denormal operand raises nothing in stores.
        context.raised &= !flag::DENORMAL;
        finish_store(&mut fpu, &context).then_some(value)
    };
    if let Some(value) = written {
        cpu.store_bytes(address.linear, &value.to_le_bytes()[..bytes], address.stack)?;
        if !matches!(insn.mnemonic(), Fst | Fist) {
            fpu.pop();
        }
    }
    *cpu.fpu() = fpu;
    Ok(())
}

fn exchange<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    let i = last_register(insn);
    let fpu = cpu.fpu();
    let (empty0, emptyi) = (fpu.is_empty(0), fpu.is_empty(i));
    if empty0 || emptyi {
        if !fpu.stack_fault(false) {
            return Ok(());
        }
        if empty0 {
            fpu.set_raw(0, INDEFINITE);
        }
        if emptyi {
            fpu.set_raw(i, INDEFINITE);
        }
    } else {
        fpu.set_conditions(C1, 0);
    }
    let (a, b) = (fpu.raw(0), fpu.raw(i));
    fpu.set_raw(0, b);
    fpu.set_raw(i, a);
    Ok(())
}

fn conditional<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    let (cf, zf, pf) = (cpu.flags.cf(), cpu.flags.zf(), cpu.flags.pf());
    let moves = match insn.mnemonic() {
        Fcmovb => cf,
        Fcmove => zf,
        Fcmovbe => cf || zf,
        Fcmovu => pf,
        Fcmovnb => !cf,
        Fcmovne => !zf,
        Fcmovnbe => !(cf || zf),
        _ => !pf,
    };
    let i = last_register(insn);
    let fpu = cpu.fpu();
    if fpu.is_empty(0) || fpu.is_empty(i) {
        if fpu.stack_fault(false) {
            fpu.set_raw(0, INDEFINITE);
        }
        return Ok(());
    }
    if moves {
        let value = fpu.raw(i);
        fpu.set_raw(0, value);
    }
    Ok(())
}

/// Constants are held with 128 bits and rounded by the rounding control, not by the precision control.
fn constant<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, insn: &Instruction) -> Result<(), Fault> {
    use Mnemonic::*;
    let (exponent, significand): (i32, u128) = match insn.mnemonic() {
        Fldl2t => (1, float::wide::LOG2_10),
        Fldl2e => (0, float::wide::LOG2_E),
        Fldpi => (1, float::wide::PI),
        Fldlg2 => (-2, float::wide::LOG10_2),
        Fldln2 => (-1, float::wide::LN_2),
        Fld1 => (0, 1 << 127),
        _ => (0, 0),
    };
    let fpu = cpu.fpu();
    let mut context = fpu.context();
    context.precision = 64;
    let value = if significand == 0 {
        Value::Zero(false)
    } else {
        float::round(false, exponent, significand, Format::EXTENDED, &mut context)
    };
    debug_assert!(!matches!(
        value,
        Value::Finite(Number { denormal: true, .. })
    ));
    // Loading a constant raises nothing and clears C1.
    let quiet = fpu.context();
    fpu.push(Format::EXTENDED.pack(value), &quiet);
    Ok(())
}
