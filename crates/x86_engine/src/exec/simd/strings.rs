//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM.

use iced_x86::{Instruction, Mnemonic};
use x86_arch::RamPage;

use super::Handler;
use super::operand::is_vex;
use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::flags::{ARITHMETIC, CF, OF, SF, ZF};
use crate::simd::string_compare;

pub fn handler<P: RamPage + 'static>(instruction: &Instruction) -> Option<Handler<P>> {
    use Mnemonic::*;
    Some(match instruction.mnemonic() {
        Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm | Vpcmpestri | Vpcmpestrm | Vpcmpistri
        | Vpcmpistrm => compare,
        Pcmpestri64 | Pcmpestrm64 | Vpcmpestri64 | Vpcmpestrm64 => compare,
        _ => return None,
    })
}

fn compare<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    cpu.need_vectors(instruction)?;
    let control = instruction.immediate8();
    let b = cpu.read_vector(instruction, 1)?[0];
    let a = cpu.vector(instruction.op_register(0))[0];
    let mnemonic = instruction.mnemonic();
    let implicit = matches!(mnemonic, Pcmpistri | Pcmpistrm | Vpcmpistri | Vpcmpistrm);
    let comparison = if implicit {
        string_compare::implicit(a, b, control)
    } else {
        let wide = matches!(
            mnemonic,
            Pcmpestrm64 | Pcmpestri64 | Vpcmpestrm64 | Vpcmpestri64
        );
        let length = |register: u64| {
            if wide {
                register as i64
            } else {
                i64::from(register as i32)
            }
        };
        string_compare::explicit(a, length(cpu.gpr[0]), b, length(cpu.gpr[2]), control)
    };
    let flag = |holds: bool, bit| if holds { bit } else { 0 };
    cpu.flags.set(
        ARITHMETIC,
        flag(comparison.result != 0, CF)
            | flag(comparison.second_ends, ZF)
            | flag(comparison.first_ends, SF)
            | flag(comparison.result & 1 != 0, OF),
    );
    if matches!(
        mnemonic,
        Pcmpestri | Pcmpistri | Vpcmpestri | Vpcmpistri | Pcmpestri64 | Vpcmpestri64
    ) {
        cpu.gpr[1] = comparison.index(control).into();
    } else {
        let xmm0 = &mut cpu.vcpu.regs.fpu.ymm[0];
        xmm0[0] = comparison.mask(control);
        if is_vex(instruction) {
            xmm0[1] = 0;
        }
    }
    Ok(())
}
