//! Instruction forms from iced's opcode tables, and one encoding of a form with random operands.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction, Mnemonic,
    OpCodeOperandKind as Kind, OpKind, Register,
};

use crate::random::Random;
use crate::state::{CODE, CODE_OFFSET, DATA};

/// The forms that ring 3 may execute in 64-bit mode and that make sense as single instructions here.
pub fn all() -> Vec<Code> {
    Code::values().filter(|code| candidate(*code)).collect()
}

/// Why a ring-3 form of the architecture is not compared.
pub fn left_out(mnemonic: Mnemonic) -> Option<&'static str> {
    use Mnemonic::*;
    Some(match mnemonic {
        Rdtsc | Rdtscp | Rdrand | Rdseed | Rdpid | Rdpmc | Cpuid | Xgetbv | Rdpru => {
            "the result is the machine's, not the instruction's"
        }
        Syscall | Sysenter | Sysret | Sysexit | Int | Int1 | Int3 | Into | Iret | Iretd | Iretq => {
            "enters the host's kernel or collides with the runner's traps; tested by system cases"
        }
        Call | Jmp => return None,
        Retf | Lar | Lsl | Verr | Verw | Lss | Lfs | Lgs => {
            "depends on the host's descriptor tables; tested by system cases"
        }
        Wrfsbase | Wrgsbase | Rdfsbase | Rdgsbase | Swapgs => {
            "the runner needs its own FS base; tested by system cases"
        }
        Sgdt | Sidt | Sldt | Str | Smsw => {
            "the host's kernel emulates them under UMIP; tested by system cases"
        }
        Monitor | Monitorx | Mwait | Mwaitx | Umonitor | Umwait | Tpause | Hlt => "waits",
        Xbegin | Xend | Xabort | Xtest => "transactional memory is not offered",
        Wrpkru | Rdpkru => "changes the host's protection keys; tested by system cases",
        Serialize | Ptwrite | Enqcmd | Enqcmds | Movdir64b | Clzero | Clui | Stui | Testui
        | Uiret | Senduipi => "needs a device, a core feature or a page that the runner has not",
        Vmcall | Vmmcall | Vmgexit | Vmfunc | Tdcall | Seamcall | Seamops | Seamret | Pconfig
        | Enclu | Encls | Enclv | Getsec => {
            "virtualization and enclave instructions; tested by system cases"
        }
        In | Insb | Insw | Insd | Out | Outsb | Outsw | Outsd => "I/O; tested by system cases",
        Cli | Sti => "depends on IOPL; tested by system cases",
        _ => return None,
    })
}

fn candidate(code: Code) -> bool {
    let info = code.op_code();
    if !info.is_instruction() || !info.mode64() || !info.cpl3() {
        return false;
    }
    if !matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return false;
    }
    let kinds = info.op_kinds();
    // Descriptor loads, control and debug registers, far branches, MPX, AMX and AVX-512's mask registers.
    let foreign = |kind: &Kind| {
        matches!(
            kind,
            Kind::farbr2_2
                | Kind::farbr4_2
                | Kind::seg_reg
                | Kind::k_reg
                | Kind::k_rm
                | Kind::k_vvvv
                | Kind::kp1_reg
                | Kind::k_or_mem
                | Kind::cr_reg
                | Kind::dr_reg
                | Kind::tr_reg
                | Kind::bnd_reg
                | Kind::bnd_or_mem_mpx
                | Kind::mem_mpx
                | Kind::mem_mib
                | Kind::tmm_reg
                | Kind::tmm_rm
                | Kind::tmm_vvvv
                | Kind::sibmem
                | Kind::es
                | Kind::cs
                | Kind::ss
                | Kind::ds
                | Kind::fs
                | Kind::gs
                | Kind::xbegin_2
                | Kind::xbegin_4
                | Kind::brdisp_2
                | Kind::brdisp_4
                | Kind::br16_1
                | Kind::br16_2
                | Kind::br32_1
                | Kind::br32_4
        )
    };
    if kinds.iter().any(foreign) {
        return false;
    }
    if matches!(
        code,
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    ) {
        return false;
    }
    // Other processors' instructions, and spellings of two instructions (FWAIT and another).
    let name = format!("{code:?}");
    if name.starts_with("VEX_KNC")
        || matches!(
            code,
            Code::Retnw | Code::Retnw_imm16 | Code::Call_rm16 | Code::Jmp_rm16
        )
    {
        return false;
    }
    left_out(code.mnemonic()).is_none()
}

/// An encoded instruction of the form, with what the values must take care of.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub instruction: Instruction,
    pub bytes: Vec<u8>,
}

/// One encoding with random operands; `None` when the dice gave one that cannot be encoded.
pub fn encode(code: Code, random: &mut Random) -> Option<Encoded> {
    let info = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let narrow = random.chance(8);
    for (i, kind) in info.op_kinds().iter().enumerate() {
        operand(&mut instruction, i as u32, *kind, narrow, random)?;
    }
    let memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    if info.can_use_lock_prefix()
        && memory
        && instruction.op_kind(0) == OpKind::Memory
        && random.chance(25)
    {
        instruction.set_has_lock_prefix(true);
    }
    if instruction.is_string_instruction() {
        if info.can_use_rep_prefix() && random.chance(60) {
            instruction.set_has_rep_prefix(true);
        } else if info.can_use_repne_prefix() && random.chance(60) {
            instruction.set_has_repne_prefix(true);
        }
    }
    let ip = CODE + CODE_OFFSET as u64;
    let mut encoder = Encoder::new(64);
    encoder.encode(&instruction, ip).ok()?;
    let bytes = encoder.take_buffer();
    let decoded = Decoder::with_ip(64, &bytes, ip, DecoderOptions::NONE).decode();
    (decoded.code() == code && decoded.len() == bytes.len()).then_some(Encoded {
        instruction: decoded,
        bytes,
    })
}

/// A place in the code page that is not the instruction itself.
pub fn landing(random: &mut Random) -> u64 {
    let offset = random.below(0x700);
    CODE + if random.chance(50) {
        offset
    } else {
        0x880 + offset
    }
}

fn operand(
    insn: &mut Instruction,
    i: u32,
    kind: Kind,
    narrow: bool,
    random: &mut Random,
) -> Option<()> {
    let register = |insn: &mut Instruction, register: Register| {
        insn.set_op_kind(i, OpKind::Register);
        insn.set_op_register(i, register);
        Some(())
    };
    let any = |base: Register, count: u64, random: &mut Random| base + random.below(count) as u32;
    match kind {
        Kind::r8_or_mem
        | Kind::r16_or_mem
        | Kind::r32_or_mem
        | Kind::r64_or_mem
        | Kind::mm_or_mem
        | Kind::xmm_or_mem
        | Kind::ymm_or_mem
            if random.chance(50) =>
        {
            memory(insn, i, None, narrow, random)
        }
        Kind::mem => memory(insn, i, None, narrow, random),
        Kind::mem_vsib32x | Kind::mem_vsib64x => {
            memory(insn, i, Some(Register::XMM0), narrow, random)
        }
        Kind::mem_vsib32y | Kind::mem_vsib64y => {
            memory(insn, i, Some(Register::YMM0), narrow, random)
        }
        Kind::mem_offs => {
            insn.set_op_kind(i, OpKind::Memory);
            insn.set_memory_displ_size(8);
            insn.set_memory_displacement64(DATA + 0x800 + random.below(0x800));
            Some(())
        }
        Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
            let reg = if random.chance(20) {
                any(Register::AH, 4, random)
            } else {
                random.pick(&BYTES)
            };
            register(insn, reg)
        }
        Kind::r16_or_mem | Kind::r16_reg | Kind::r16_reg_mem | Kind::r16_rm | Kind::r16_opcode => {
            register(insn, any(Register::AX, 16, random))
        }
        Kind::r32_or_mem
        | Kind::r32_reg
        | Kind::r32_reg_mem
        | Kind::r32_rm
        | Kind::r32_opcode
        | Kind::r32_vvvv => register(insn, any(Register::EAX, 16, random)),
        Kind::r64_or_mem
        | Kind::r64_reg
        | Kind::r64_reg_mem
        | Kind::r64_rm
        | Kind::r64_opcode
        | Kind::r64_vvvv => register(insn, any(Register::RAX, 16, random)),
        Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => {
            register(insn, any(Register::MM0, 8, random))
        }
        Kind::xmm_or_mem
        | Kind::xmm_reg
        | Kind::xmm_rm
        | Kind::xmm_vvvv
        | Kind::xmm_is4
        | Kind::xmm_is5 => register(insn, any(Register::XMM0, 16, random)),
        Kind::ymm_or_mem
        | Kind::ymm_reg
        | Kind::ymm_rm
        | Kind::ymm_vvvv
        | Kind::ymm_is4
        | Kind::ymm_is5 => register(insn, any(Register::YMM0, 16, random)),
        Kind::al => register(insn, Register::AL),
        Kind::cl => register(insn, Register::CL),
        Kind::ax => register(insn, Register::AX),
        Kind::dx => register(insn, Register::DX),
        Kind::eax => register(insn, Register::EAX),
        Kind::rax => register(insn, Register::RAX),
        Kind::st0 => register(insn, Register::ST0),
        Kind::sti_opcode => register(insn, any(Register::ST0, 8, random)),
        Kind::imm8_const_1 => {
            insn.set_op_kind(i, OpKind::Immediate8);
            insn.set_immediate8(1);
            Some(())
        }
        Kind::imm4_m2z | Kind::imm8 => {
            let second = (0..i).any(|k| {
                insn.op_kind(k) == OpKind::Immediate8 || insn.op_kind(k) == OpKind::Immediate16
            });
            let value = random.word() as u8;
            if second {
                insn.set_op_kind(i, OpKind::Immediate8_2nd);
                // ENTER's nesting level: large ones only walk off the stack.
                insn.set_immediate8_2nd(value & 31);
            } else {
                insn.set_op_kind(i, OpKind::Immediate8);
                insn.set_immediate8(if kind == Kind::imm4_m2z {
                    value & 15
                } else {
                    value
                });
            }
            Some(())
        }
        Kind::imm8sex16 | Kind::imm8sex32 | Kind::imm8sex64 => {
            let value = i64::from(random.word() as i8);
            match kind {
                Kind::imm8sex16 => {
                    insn.set_op_kind(i, OpKind::Immediate8to16);
                    insn.set_immediate8to16(value as i16);
                }
                Kind::imm8sex32 => {
                    insn.set_op_kind(i, OpKind::Immediate8to32);
                    insn.set_immediate8to32(value as i32);
                }
                _ => {
                    insn.set_op_kind(i, OpKind::Immediate8to64);
                    insn.set_immediate8to64(value);
                }
            }
            Some(())
        }
        Kind::imm16 => {
            insn.set_op_kind(i, OpKind::Immediate16);
            let value = random.word() as u16;
            // Stack adjustments of RET and ENTER stay near the data pages.
            let stack =
                insn.flow_control() == FlowControl::Return || insn.mnemonic() == Mnemonic::Enter;
            insn.set_immediate16(if stack { value & 0x1FF } else { value });
            Some(())
        }
        Kind::imm32 => {
            insn.set_op_kind(i, OpKind::Immediate32);
            insn.set_immediate32(random.word() as u32);
            Some(())
        }
        Kind::imm32sex64 => {
            insn.set_op_kind(i, OpKind::Immediate32to64);
            insn.set_immediate32to64(i64::from(random.word() as i32));
            Some(())
        }
        Kind::imm64 => {
            insn.set_op_kind(i, OpKind::Immediate64);
            insn.set_immediate64(random.word());
            Some(())
        }
        Kind::seg_rSI => string(
            insn,
            i,
            if narrow {
                OpKind::MemorySegESI
            } else {
                OpKind::MemorySegRSI
            },
        ),
        Kind::es_rDI => string(
            insn,
            i,
            if narrow {
                OpKind::MemoryESEDI
            } else {
                OpKind::MemoryESRDI
            },
        ),
        Kind::seg_rDI => string(
            insn,
            i,
            if narrow {
                OpKind::MemorySegEDI
            } else {
                OpKind::MemorySegRDI
            },
        ),
        Kind::seg_rBX_al => {
            insn.set_op_kind(i, OpKind::Memory);
            insn.set_memory_base(if narrow { Register::EBX } else { Register::RBX });
            insn.set_memory_index(Register::AL);
            Some(())
        }
        Kind::br64_1 | Kind::br64_4 => {
            insn.set_op_kind(i, OpKind::NearBranch64);
            let near = CODE + CODE_OFFSET as u64 + 0x20 + random.below(0x50);
            insn.set_near_branch64(if kind == Kind::br64_1 {
                near
            } else {
                landing(random)
            });
            Some(())
        }
        _ => None,
    }
}

fn string(insn: &mut Instruction, i: u32, kind: OpKind) -> Option<()> {
    insn.set_op_kind(i, kind);
    Some(())
}

const BYTES: [Register; 16] = [
    Register::AL,
    Register::CL,
    Register::DL,
    Register::BL,
    Register::SPL,
    Register::BPL,
    Register::SIL,
    Register::DIL,
    Register::R8L,
    Register::R9L,
    Register::R10L,
    Register::R11L,
    Register::R12L,
    Register::R13L,
    Register::R14L,
    Register::R15L,
];

fn memory(
    insn: &mut Instruction,
    i: u32,
    vector_index: Option<Register>,
    narrow: bool,
    random: &mut Random,
) -> Option<()> {
    insn.set_op_kind(i, OpKind::Memory);
    let first = if narrow { Register::EAX } else { Register::RAX };
    if vector_index.is_none() && random.chance(10) {
        // Relative to the instruction: the encoder wants the target.
        insn.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
        insn.set_memory_displ_size(8);
        insn.set_memory_displacement64(DATA + 0x800 + random.below(0x800));
        return Some(());
    }
    insn.set_memory_base(first + random.below(16) as u32);
    if let Some(index) = vector_index {
        insn.set_memory_index(index + random.below(16) as u32);
    } else if random.chance(40) {
        let index = first + random.below(16) as u32;
        if index != first + 4 {
            insn.set_memory_index(index);
        }
    }
    insn.set_memory_index_scale(1 << random.below(4));
    match random.below(3) {
        0 => {}
        1 => {
            insn.set_memory_displ_size(1);
            insn.set_memory_displacement64(random.word() as i8 as u64);
        }
        _ => {
            insn.set_memory_displ_size(if narrow { 4 } else { 8 });
            let displacement = random.word() as i32;
            insn.set_memory_displacement64(if narrow {
                u64::from(displacement as u32)
            } else {
                displacement as u64
            });
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_every_form_can_be_encoded() {
        let forms = all();
        assert!(forms.len() > 1500, "{} forms", forms.len());
        let mut random = Random::new(1);
        let missing: Vec<_> = forms
            .iter()
            .filter(|code| !(0..200).any(|_| encode(**code, &mut random).is_some()))
            .collect();
        assert!(
            missing.len() < 40,
            "{} of {} cannot be encoded: {missing:?}",
            missing.len(),
            forms.len()
        );
    }
}
