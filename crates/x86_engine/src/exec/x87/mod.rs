//! x87: checks, dispatch, and when a result is written.
//!
//! FOP is always 0 (processors with the current FOP rule write it only with an unmasked exception); FIP and FDP follow
//! every instruction that is not a control instruction.

mod arithmetic;
mod compare;
mod control;
mod load_store;
mod stack;
mod transcendental;

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

use crate::cpu::{Cpu, bits};
use crate::exec::simd::Handler;
use crate::fault::Fault;

/// The handler of `instruction`, or `None` when it is no x87 instruction.
pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Fld | Fild | Fbld | Fst | Fstp | Fstpnce | Fist | Fistp | Fisttp | Fbstp | Fxch
        | Fcmovb | Fcmove | Fcmovbe | Fcmovu | Fcmovnb | Fcmovne | Fcmovnbe | Fcmovnu | Fld1
        | Fldl2t | Fldl2e | Fldpi | Fldlg2 | Fldln2 | Fldz => {
            |cpu, insn| operate(cpu, insn, load_store::execute)
        }
        Fadd | Faddp | Fiadd | Fsub | Fsubp | Fisub | Fsubr | Fsubrp | Fisubr | Fmul | Fmulp
        | Fimul | Fdiv | Fdivp | Fidiv | Fdivr | Fdivrp | Fidivr | Fabs | Fchs | Fsqrt
        | Frndint | Fscale | Fxtract | Fprem | Fprem1 => {
            |cpu, insn| operate(cpu, insn, arithmetic::execute)
        }
        Fcom | Fcomp | Fcompp | Ficom | Ficomp | Fucom | Fucomp | Fucompp | Fcomi | Fcomip
        | Fucomi | Fucomip | Ftst | Fxam => |cpu, insn| operate(cpu, insn, compare::execute),
        F2xm1 | Fyl2x | Fyl2xp1 | Fptan | Fpatan | Fsin | Fcos | Fsincos => {
            |cpu, insn| operate(cpu, insn, transcendental::execute)
        }
        Ffree | Ffreep | Fincstp | Fdecstp | Fnop | Wait | Fldcw | Fnstcw | Fnstsw | Fnclex
        | Fninit | Fldenv | Fnstenv | Fnsave | Frstor | Emms => control::execute,
        _ => return None,
    })
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// #NM unless the system lets x87 be used; #MF when an exception is pending and `waits`.
    fn need_x87(&self, waits: bool) -> Result<(), Fault> {
        if self.cr0() & (bits::CR0_EM | bits::CR0_TS) != 0 {
            return Err(Fault::NM);
        }
        self.no_pending_x87(waits)
    }

    fn no_pending_x87(&self, waits: bool) -> Result<(), Fault> {
        if waits && self.vcpu.regs.fpu.fsw & stack::ES != 0 {
            Err(Fault::MF)
        } else {
            Ok(())
        }
    }
}

/// Checks, the operation, and the pointers to it.
fn operate<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
    f: Handler<P>,
) -> Result<(), Fault> {
    cpu.need_x87(true)?;
    f(cpu, instruction)?;
    cpu.vcpu.regs.fpu.fip = cpu.rip;
    if (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory) {
        cpu.vcpu.regs.fpu.fdp = cpu.effective(instruction);
    }
    Ok(())
}
