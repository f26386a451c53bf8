//! MMX, SSE to SSE4.2, AVX, AVX2, FMA3, F16C, AES, SHA, PCLMULQDQ and GFNI: operands, checks and dispatch.
//!
//! What is computed stands in [`crate::simd`]. EVEX forms and AMD's own extensions are not implemented:
//! they raise #UD.

mod convert;
mod float;
mod gather;
mod lanes;
mod memory_forms;
mod mmx;
mod moves;
pub(crate) mod operand;
mod scalar;
mod strings;
mod xsave;

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use crate::cpu::Cpu;
use crate::fault::Fault;

/// Executes one instruction.
pub type Handler<P> = fn(&mut Cpu<'_, P>, &Instruction) -> Result<(), Fault>;

/// The modules that these instructions stand in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Mmx,
    Lanes,
    Moves,
    Scalar,
    /// Floating-point arithmetic: it reads and writes MXCSR, and so do conversions.
    Float,
    Convert,
    Memory,
    Gather,
    Strings,
    State,
    X87,
}

/// The family and the handler of `instruction`, or `None` when it is no vector instruction.
pub(crate) fn family<P: RamPage + 'static>(
    instruction: &Instruction,
) -> Option<(Family, Handler<P>)> {
    let encoding = instruction.code().encoding();
    let mmx = (0..instruction.op_count())
        .any(|i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_mm());
    if !matches!(encoding, EncodingKind::Legacy | EncodingKind::VEX) {
        return None;
    }
    let of = |family: Family| move |handler: Handler<P>| (family, handler);
    if mmx
        || instruction.mnemonic() == Mnemonic::Cvtpi2ps
        || instruction.mnemonic() == Mnemonic::Cvtpi2pd
    {
        return mmx::handler(instruction).map(of(Family::Mmx));
    }
    let x87 = crate::exec::x87::handler;
    None.or_else(|| lanes::handler(instruction).map(of(Family::Lanes)))
        .or_else(|| moves::handler(instruction).map(of(Family::Moves)))
        .or_else(|| scalar::handler(instruction).map(of(Family::Scalar)))
        .or_else(|| float::handler(instruction).map(of(Family::Float)))
        .or_else(|| convert::handler(instruction).map(of(Family::Convert)))
        .or_else(|| memory_forms::handler(instruction).map(of(Family::Memory)))
        .or_else(|| gather::handler(instruction).map(of(Family::Gather)))
        .or_else(|| strings::handler(instruction).map(of(Family::Strings)))
        .or_else(|| xsave::handler(instruction).map(of(Family::State)))
        .or_else(|| x87(instruction).map(of(Family::X87)))
}

/// The handler of `instruction`, or `None` when it is of no vector family.
pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    family(instruction).map(|(_, handler)| handler)
}

/// Executes an instruction of these families; #UD for any other.
pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    match handler(instruction) {
        Some(run) => run(cpu, instruction),
        None => Err(Fault::UD),
    }
}
