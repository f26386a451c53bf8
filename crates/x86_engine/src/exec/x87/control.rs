//! Control instructions: words, environment, whole state, tags.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86_arch::vmx::Fpu;
use x86_arch::{Access, RamPage};

use super::stack::Stack;
use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::float::{Format, Value};

pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    let mnemonic = insn.mnemonic();
    if mnemonic == Wait {
        // Only CR0.MP together with TS makes it #NM.
        let both = bits::CR0_MP | bits::CR0_TS;
        if cpu.cr0() & both == both {
            return Err(Fault::NM);
        }
        return cpu.no_pending_x87(true);
    }
    if mnemonic == Emms && cpu.cr0() & bits::CR0_EM != 0 {
        return Err(Fault::UD);
    }
    let waits = !matches!(
        mnemonic,
        Fnstcw | Fnstsw | Fnclex | Fninit | Fnstenv | Fnsave
    );
    cpu.need_x87(waits)?;
    match mnemonic {
        Ffree | Ffreep => {
            let i = insn.op_register(0).number() as u8;
            let fpu = cpu.fpu();
            fpu.ftw &= !(1 << fpu.physical(i));
            fpu.set_conditions(super::stack::C1, 0);
            if mnemonic == Ffreep {
                fpu.pop();
            }
        }
        Fincstp | Fdecstp => {
            let fpu = cpu.fpu();
            let step = if mnemonic == Fincstp { 1 } else { 7 };
            fpu.set_top(fpu.top().wrapping_add(step));
            fpu.set_conditions(super::stack::C1, 0);
        }
        Fldcw => {
            let word = cpu.read_memory(insn, 2)? as u16;
            let fpu = cpu.fpu();
            fpu.fcw = control_word(word);
            fpu.update_summary();
        }
        Fnstcw => {
            let word = cpu.fpu().fcw;
            cpu.write_memory(insn, 2, word.into())?;
        }
        Fnstsw => {
            let word = cpu.fpu().fsw;
            if insn.op_kind(0) == OpKind::Register {
                cpu.set_reg(0, word);
            } else {
                cpu.write_memory(insn, 2, word.into())?;
            }
        }
        Fnclex => cpu.fpu().fsw &= 0x7F00,
        Fninit => initialise(cpu.fpu()),
        Fldenv => {
            let len = insn.memory_size().size();
            let mut image = [0; 28];
            let at = cpu.address(insn, len, Access::Read)?;
            cpu.load_bytes(at.linear, &mut image[..len], at.stack)?;
            load_environment(cpu.fpu(), &image[..len]);
        }
        Fnstenv => {
            let len = insn.memory_size().size();
            let at = cpu.address(insn, len, Access::Write)?;
            let image = environment(cpu.fpu(), len);
            cpu.store_bytes(at.linear, &image[..len], at.stack)?;
            let fpu = cpu.fpu();
            fpu.fcw |= 0x3F;
            fpu.update_summary();
        }
        Fnsave => {
            let len = insn.memory_size().size();
            let at = cpu.address(insn, len, Access::Write)?;
            let header = len - 80;
            let fpu = cpu.fpu();
            let mut image = [0; 108];
            image[..28].copy_from_slice(&environment(fpu, header));
            for i in 0..8 {
                let bytes = fpu.raw(i as u8).to_le_bytes();
                image[header + 10 * i..header + 10 * i + 10].copy_from_slice(&bytes[..10]);
            }
            cpu.store_bytes(at.linear, &image[..len], at.stack)?;
            initialise(cpu.fpu());
        }
        Frstor => {
            let len = insn.memory_size().size();
            let mut image = [0; 108];
            let at = cpu.address(insn, len, Access::Read)?;
            cpu.load_bytes(at.linear, &mut image[..len], at.stack)?;
            let header = len - 80;
            let fpu = cpu.fpu();
            load_environment(fpu, &image[..header]);
            for i in 0..8 {
                let mut bytes = [0; 16];
                bytes[..10].copy_from_slice(&image[header + 10 * i..header + 10 * i + 10]);
                let n = fpu.physical(i as u8);
                fpu.st[n] = u128::from_le_bytes(bytes);
            }
        }
        Emms => {
            cpu.fpu().ftw = 0;
            cpu.fpu().set_top(0);
        }
        _ => {}
    }
    Ok(())
}

/// Bit 6 reads as one; bits 7 and 13 to 15 do not exist.
fn control_word(word: u16) -> u16 {
    word & 0x1F3F | 0x40
}

fn initialise(fpu: &mut Fpu) {
    // The registers keep their contents; the tags say empty.
    *fpu = Fpu {
        st: fpu.st,
        ymm: fpu.ymm,
        mxcsr: fpu.mxcsr,
        ..Fpu::default()
    };
}

/// Two bits for each physical register: 0 valid, 1 zero, 2 special, 3 empty.
fn full_tags(fpu: &Fpu) -> u16 {
    (0..8).fold(0, |tags, n| {
        let tag = if fpu.ftw >> n & 1 == 0 {
            3
        } else {
            match Format::EXTENDED.unpack(fpu.st[n], false) {
                Value::Zero(_) => 1,
                Value::Finite(number) if !number.denormal => 0,
                _ => 2,
            }
        };
        tags | tag << (2 * n)
    })
}

/// The environment in 32-bit (28 bytes) or 16-bit (14 bytes) protected-mode format. Selectors are stored as zero.
fn environment(fpu: &Fpu, len: usize) -> [u8; 28] {
    let words = [fpu.fcw, fpu.fsw, full_tags(fpu)];
    let mut image = [0; 28];
    if len == 14 {
        let rest = [fpu.fip as u16, 0, fpu.fdp as u16, 0];
        for (to, word) in image.chunks_exact_mut(2).zip(words.into_iter().chain(rest)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    } else {
        let head = words.map(|word| 0xFFFF_0000 | u32::from(word));
        let rest = [
            fpu.fip as u32,
            u32::from(fpu.fop) << 16,
            fpu.fdp as u32,
            0xFFFF_0000,
        ];
        for (to, word) in image.chunks_exact_mut(4).zip(head.into_iter().chain(rest)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    image
}

fn load_environment(fpu: &mut Fpu, image: &[u8]) {
    let step = if image.len() == 14 { 2 } else { 4 };
    let word = |n: usize| u16::from_le_bytes([image[step * n], image[step * n + 1]]);
    let double = |n: usize| {
        let mut bytes = [0; 4];
        bytes[..step].copy_from_slice(&image[step * n..step * n + step]);
        u64::from(u32::from_le_bytes(bytes))
    };
    fpu.fcw = control_word(word(0));
    fpu.fsw = word(1);
    let tags = word(2);
    fpu.ftw = (0..8).fold(0, |valid, n| {
        valid | u8::from(tags >> (2 * n) & 3 != 3) << n
    });
    fpu.fip = double(3);
    fpu.fdp = double(5);
    fpu.fop = if step == 4 {
        (double(4) >> 16) as u16 & 0x7FF
    } else {
        0
    };
    fpu.update_summary();
}
