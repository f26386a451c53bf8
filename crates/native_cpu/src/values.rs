//! Register and memory contents for an encoded instruction: interesting values, operands that mostly lie in the data
//! pages, branch targets that land on an INT3.

use iced_x86::{Code, FlowControl, Mnemonic, OpKind, Register};
use x86_arch::vmx::Fpu;

use crate::form::{Encoded, landing};
use crate::random::Random;
use crate::state::{CODE, CODE_OFFSET, Case, DATA, DATA_LEN, State};

pub fn case(encoded: &Encoded, random: &mut Random) -> Case {
    let mut state = State {
        rip: CODE + CODE_OFFSET as u64,
        ..State::default()
    };
    for register in &mut state.gpr {
        *register = integer(random);
    }
    // IF is on, as always in ring 3; the six arithmetic flags and DF are free.
    state.rflags = 0x202 | random.word() & 0x8D5;
    if random.chance(15) {
        state.rflags |= 0x400;
    }
    state.fpu = fpu(random);
    let mut memory = Box::new([0u8; DATA_LEN]);
    for chunk in memory.chunks_exact_mut(16) {
        let value = vector(random);
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    let mut case = Case {
        bytes: encoded.bytes.clone(),
        state,
        memory,
    };
    point(encoded, &mut case, random);
    case
}

/// An integer: small, a boundary, or anything.
fn integer(random: &mut Random) -> u64 {
    const EDGES: [u64; 12] = [
        0,
        1,
        u64::MAX,
        0x80,
        0x7F,
        0x8000,
        0x7FFF,
        0x8000_0000,
        0x7FFF_FFFF,
        0xFFFF_FFFF,
        1 << 63,
        u64::MAX >> 1,
    ];
    match random.below(10) {
        0..=1 => random.pick(&EDGES),
        2..=3 => random.below(256),
        4 => random.below(256).wrapping_neg(),
        5 => random.word() >> 32,
        _ => random.word(),
    }
}

/// 128 bits: anything, or elements that mean something as numbers.
pub fn vector(random: &mut Random) -> u128 {
    match random.below(10) {
        0..=2 => u128::from(random.word()) | u128::from(random.word()) << 64,
        3..=5 => (0..4).fold(0, |v, i| v | u128::from(single(random)) << (32 * i)),
        6..=8 => (0..2).fold(0, |v, i| v | u128::from(double(random)) << (64 * i)),
        _ => (0..16).fold(0, |v, i| {
            v | u128::from(random.pick(&[0u8, 1, 0x7F, 0x80, 0xFF, b'a', b'b', b'c'])) << (8 * i)
        }),
    }
}

fn single(random: &mut Random) -> u32 {
    let sign = (random.word() as u32) & 1 << 31;
    let fraction = random.word() as u32 & 0x7F_FFFF;
    sign | match random.below(16) {
        0 => 0,
        1 => 0x7F80_0000,
        2 => 0x7FC0_0000 | fraction,
        3 => 0x7F80_0000 | fraction & 0x3F_FFFF | 1,
        4 => fraction,
        5 => random.pick(&[
            1,
            0x7F_FFFF,
            0x80_0000,
            0x7F7F_FFFF,
            0x3F80_0000,
            0x4F00_0000,
            0x3F00_0000,
        ]),
        6 => 0x80_0000 + (random.below(30) as u32) << 23 | fraction,
        7 => (random.below(40) as u32 + 107) << 23 | fraction & 0x7F_0000,
        8..=11 => (random.below(64) as u32 + 96) << 23 | fraction,
        12 => (random.below(20) as u32 + 235) << 23 | fraction,
        13 => (random.below(30) as u32 + 1) << 23 | fraction,
        _ => (random.below(8) as u32 + 124) << 23 | fraction,
    }
}

fn double(random: &mut Random) -> u64 {
    let sign = random.word() & 1 << 63;
    let fraction = random.word() & 0xF_FFFF_FFFF_FFFF;
    let fraction = if random.chance(20) {
        fraction & !0xFFFF_FFFF
    } else {
        fraction
    };
    sign | match random.below(16) {
        0 => 0,
        1 => 0x7FF << 52,
        2 => 0x7FF8 << 48 | fraction,
        3 => 0x7FF << 52 | fraction & 0x7_FFFF_FFFF_FFFF | 1,
        4 => fraction,
        5 => random.pick(&[
            1,
            0xF_FFFF_FFFF_FFFF,
            1 << 52,
            0x7FEF_FFFF_FFFF_FFFF,
            0x3FF << 52,
            0x43E << 52,
            0x3FE << 52,
        ]),
        6 => (random.below(40) + 1003) << 52 | fraction & 0xF_FF00_0000_0000,
        7 => (random.below(300) + 870) << 52 | fraction,
        8..=11 => (random.below(128) + 960) << 52 | fraction,
        12 => (random.below(40) + 2000) << 52 | fraction,
        13 => (random.below(70) + 1) << 52 | fraction,
        _ => (random.below(8) + 1020) << 52 | fraction,
    }
}

/// An 80-bit value, sometimes one that x87 has no meaning for.
fn extended(random: &mut Random) -> u128 {
    let sign = u128::from(random.word() & 1) << 79;
    let fraction = random.word() & (u64::MAX >> 1);
    let fraction = match random.below(4) {
        0 => fraction & !0x7FF,
        1 => fraction & 0xFFFF << 47,
        _ => fraction,
    };
    let leading = 1u64 << 63;
    let (exponent, significand) = match random.below(20) {
        0 => (0, 0),
        1 => (0x7FFF, leading),
        2 => (0x7FFF, leading | 1 << 62 | fraction),
        3 => (0x7FFF, leading | fraction & (u64::MAX >> 2) | 1),
        4 => (0, fraction),
        5 => (0, leading | fraction),
        6 => (random.below(0x7FFF), fraction),
        7 => (0x7FFF, fraction),
        8 => (0x3FFF, leading),
        9 => (random.below(0x7FFE) + 1, leading | fraction),
        10 => (random.below(70) + 1, leading | fraction),
        11 => (0x7FFE - random.below(70), leading | fraction),
        12 => (0x3FFF + random.below(64), leading | fraction),
        13 => (0x3FFF - random.below(64), leading | fraction),
        14 => (0x3C00 + random.below(16), leading | fraction),
        _ => (0x3FFF - 4 + random.below(8), leading | fraction),
    };
    sign | u128::from(exponent) << 64 | u128::from(significand)
}

fn fpu(random: &mut Random) -> Fpu {
    let mut fpu = Fpu::default();
    for ymm in &mut fpu.ymm {
        *ymm = [vector(random), vector(random)];
    }
    let control = (random.word() & 0xE040) as u32;
    let control = if random.chance(40) { 0 } else { control };
    let masks = if random.chance(80) {
        0x1F80
    } else {
        (random.word() & 0x1F80) as u32
    };
    fpu.mxcsr = control
        | masks
        | if random.chance(20) {
            random.word() as u32 & 0x3F
        } else {
            0
        };

    for register in &mut fpu.st {
        *register = extended(random);
    }
    fpu.ftw = if random.chance(70) {
        0xFF
    } else {
        random.word() as u8
    };
    let masks = if random.chance(85) {
        0x3F
    } else {
        random.word() as u16 & 0x3F
    };
    let precision = random.pick(&[3u16, 3, 3, 3, 2, 0]);
    let rounding = if random.chance(50) {
        0
    } else {
        random.word() as u16 & 3
    };
    fpu.fcw = 0x40 | masks | precision << 8 | rounding << 10;
    let conditions = random.word() as u16 & 0x4700;
    let flags = if random.chance(20) {
        random.word() as u16 & 0x7F
    } else {
        0
    };
    fpu.fsw = (random.below(8) as u16) << 11 | conditions | flags;
    // Pending unmasked exceptions now and then; ES and B tell.
    if fpu.fsw & !fpu.fcw & 0x3F != 0 {
        if random.chance(70) {
            fpu.fsw &= !0x3F | fpu.fcw & 0x3F;
        } else {
            fpu.fsw |= 0x8080;
        }
    }
    fpu
}

fn gpr_index(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

/// Makes the instruction's addresses fall where they should.
fn point(encoded: &Encoded, case: &mut Case, random: &mut Random) {
    let insn = &encoded.instruction;
    let mnemonic = insn.mnemonic();
    let gpr = &mut case.state.gpr;
    // The stack, the frame and the string registers point into the data pages.
    let middle = |random: &mut Random| DATA + 0x800 + random.below(0x100) * 8;
    gpr[4] = if random.chance(10) {
        middle(random) + random.below(8)
    } else {
        middle(random)
    };
    if random.chance(70) {
        gpr[5] = middle(random);
    }
    if insn.is_string_instruction()
        || matches!(
            mnemonic,
            Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu | Mnemonic::Maskmovq
        )
    {
        gpr[6] = DATA + 0x600 + random.below(0x1000);
        gpr[7] = DATA + 0x600 + random.below(0x1000);
        if random.chance(5) {
            let edge = random.pick(&[DATA, DATA + DATA_LEN as u64]);
            gpr[6 + random.below(2) as usize] =
                edge.wrapping_add(random.below(40)).wrapping_sub(20);
        }
        gpr[1] = random.below(24);
        if random.chance(30)
            && matches!(insn.op0_kind(), OpKind::MemorySegESI | OpKind::MemoryESEDI)
        {
            gpr[1] |= random.word() << 32;
        }
    }

    let has_memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
    if has_memory || insn.memory_base() != Register::None {
        memory_operand(encoded, case, random);
        save_area_contents(encoded, case, random);
    }
    let gpr = &mut case.state.gpr;
    let fixed = [
        gpr_index(insn.memory_base()),
        gpr_index(insn.memory_index()),
    ];
    let free = |i: usize| has_memory && fixed.contains(&Some(i));

    if matches!(
        mnemonic,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    ) && insn.op0_kind() == OpKind::Memory
        && insn.op1_kind() == OpKind::Register
    {
        let i = insn.op1_register().full_register().number();
        if !free(i) {
            gpr[i] = random.below(8000).wrapping_sub(4000);
        }
    }
    if matches!(mnemonic, Mnemonic::Div | Mnemonic::Idiv) && random.chance(70) {
        // A quotient that fits needs a small upper half.
        let low = gpr[0];
        let upper = if mnemonic == Mnemonic::Idiv {
            (low as i64 >> 63) as u64
        } else {
            0
        };
        if !free(2) && insn.op0_register().full_register() != Register::RDX {
            gpr[2] = if random.chance(70) {
                upper
            } else {
                random.below(300)
            };
        }
    }
    branch_targets(encoded, case, random);
    match mnemonic {
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
            // Without TF, NT, AC and ID, which the runner cannot carry.
            let at = (case.state.gpr[4].wrapping_sub(DATA)) as usize;
            if let Some(bytes) = case.memory.get_mut(at..at + 8) {
                let flags = random.word() & !(1 << 8 | 1 << 14 | 1 << 18 | 1 << 21);
                bytes.copy_from_slice(&flags.to_le_bytes());
            }
        }
        _ => {}
    }
}

/// Returns and indirect branches land in the code page.
fn branch_targets(encoded: &Encoded, case: &mut Case, random: &mut Random) {
    let insn = &encoded.instruction;
    let target = landing(random);
    match insn.flow_control() {
        FlowControl::Return => write(case, case.state.gpr[4], target),
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            if insn.op0_kind() == OpKind::Register {
                case.state.gpr[insn.op0_register().full_register().number()] = target;
            } else if let Some(address) = effective(encoded, &case.state) {
                write(case, address, target);
            }
        }
        _ => {}
    }
}

fn write(case: &mut Case, address: u64, value: u64) {
    let at = address.wrapping_sub(DATA) as usize;
    if let Some(bytes) = at
        .checked_add(8)
        .and_then(|end| case.memory.get_mut(at..end))
    {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

/// The memory operand's address with the state's registers (first element for vector indices).
pub fn effective(encoded: &Encoded, state: &State) -> Option<u64> {
    let operand = (0..encoded.instruction.op_count())
        .find(|&i| encoded.instruction.op_kind(i) == OpKind::Memory)?;
    encoded
        .instruction
        .virtual_address(operand, 0, |register, _, _| {
            Some(if register.is_segment_register() {
                0
            } else if register.is_gpr() {
                let value = state.gpr[register.full_register().number()];
                match register.size() {
                    1 => value & 0xFF,
                    4 => value & 0xFFFF_FFFF,
                    _ => value,
                }
            } else {
                state.fpu.ymm[register.number()][0] as u64
            })
        })
}

/// Sets base and index so that the operand lies in the data pages, mostly aligned and mostly inside.
fn memory_operand(encoded: &Encoded, case: &mut Case, random: &mut Random) {
    let insn = &encoded.instruction;
    let size = insn.memory_size().size().max(1) as u64;
    let save_area = insn.mnemonic_name_is_save();
    let align = if save_area {
        64
    } else {
        size.next_power_of_two().min(32)
    };
    let address = match random.below(100) {
        0..=1 => DATA + DATA_LEN as u64 - random.below(size + 1),
        2 => DATA.wrapping_sub(random.below(size + 1)),
        3 if !insn.memory_base().size().eq(&4) => random.word() | 1 << 63,
        4..=20 => DATA + 0x400 + random.below(0x1000),
        _ => DATA + 0x400 + random.below(0x1000) & !(align - 1),
    };
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let displacement = insn.memory_displacement64();
    let scale = u64::from(insn.memory_index_scale());
    let state = &mut case.state;
    if index.is_vector_register() {
        // Small indices around the base, and few set masks that fault.
        let wide = matches!(
            insn.mnemonic(),
            Mnemonic::Vpgatherqd
                | Mnemonic::Vgatherqps
                | Mnemonic::Vpgatherqq
                | Mnemonic::Vgatherqpd
        );
        for lane in &mut state.fpu.ymm[index.number()] {
            *lane = (0..if wide { 2 } else { 4 }).fold(0, |v, i| {
                let value = random.below(200) as i64 - 100;
                v | if wide {
                    u128::from(value as u64) << (64 * i)
                } else {
                    u128::from(value as u32) << (32 * i)
                }
            });
        }
        if let Some(i) = gpr_index(base) {
            state.gpr[i] = address.wrapping_sub(displacement);
        }
        return;
    }
    let mut wanted = address.wrapping_sub(displacement);
    match (gpr_index(base), gpr_index(index)) {
        (Some(b), Some(i)) if b == i => state.gpr[b] = wanted / (1 + scale),
        (Some(b), Some(i)) => {
            if random.chance(70) {
                state.gpr[i] = random.below(64).wrapping_sub(32);
            }
            if index.size() == 1 {
                wanted = wanted.wrapping_sub(state.gpr[i] & 0xFF);
            } else {
                wanted = wanted.wrapping_sub(state.gpr[i].wrapping_mul(scale));
            }
            state.gpr[b] = wanted;
        }
        (Some(b), None) => state.gpr[b] = wanted,
        (None, Some(i)) => state.gpr[i] = wanted / scale,
        (None, None) => {}
    }
    if base.size() == 4
        && random.chance(50)
        && base != Register::ESP
        && let Some(b) = gpr_index(base)
    {
        state.gpr[b] = state.gpr[b] & 0xFFFF_FFFF | random.word() << 32;
    }
}

/// A plausible image for FXRSTOR and XRSTOR, and a request for components that host and engine both have.
fn save_area_contents(encoded: &Encoded, case: &mut Case, random: &mut Random) {
    if !encoded.instruction.mnemonic_name_is_save() {
        return;
    }
    case.state.gpr[0] = case.state.gpr[0] & !0xFFFF_FFFF | random.below(8);
    let Some(address) = effective(encoded, &case.state) else {
        return;
    };
    case.state.gpr[2] &= !0xFFFF_FFFF;
    let Some(address) = effective(encoded, &case.state).filter(|a| *a == address) else {
        return;
    };
    let at = address.wrapping_sub(DATA) as usize;
    let Some(area) = at
        .checked_add(832)
        .and_then(|end| case.memory.get_mut(at..end))
    else {
        return;
    };
    let image = fpu(random);
    area[0..2].copy_from_slice(&image.fcw.to_le_bytes());
    area[2..4].copy_from_slice(&image.fsw.to_le_bytes());
    area[4] = image.ftw;
    area[24..28].copy_from_slice(&image.mxcsr.to_le_bytes());
    if random.chance(4) {
        area[26] = 0x80;
    }
    for i in 0..8 {
        area[32 + 16 * i..48 + 16 * i].copy_from_slice(&image.st[i].to_le_bytes());
    }
    area[512..576].fill(0);
    area[512] = random.below(8) as u8;
    if random.chance(35) {
        area[527] = 0x80;
        area[520] = 7;
    }
    if random.chance(6) {
        // Anywhere but in the masks of components, of which the host has more than the engine.
        let at = 512 + random.below(64) as usize;
        if !matches!(at, 512 | 513 | 520 | 521) {
            area[at] ^= 1 << random.below(8);
        }
    }
}

trait SaveArea {
    fn mnemonic_name_is_save(&self) -> bool;
}

impl SaveArea for iced_x86::Instruction {
    fn mnemonic_name_is_save(&self) -> bool {
        use Mnemonic::*;
        matches!(
            self.mnemonic(),
            Fxsave
                | Fxsave64
                | Fxrstor
                | Fxrstor64
                | Xsave
                | Xsave64
                | Xsaveopt
                | Xsaveopt64
                | Xsavec
                | Xsavec64
                | Xrstor
                | Xrstor64
        ) && self.code() != Code::INVALID
    }
}
