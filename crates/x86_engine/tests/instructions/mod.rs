//! Random instructions and the state they start from, for the tests that compare ways to run them.

use proptest::prelude::*;
use x86_arch::vmx::Vcpu;
use x86_engine::flat::{FlatGuest, long_vcpu};

pub const CODE: u64 = 0x8000;
pub const DATA: u64 = 0x1_0000;
/// Bytes behind [`DATA`] that programs work on.
pub const DATA_LEN: usize = 0x2_0000;
pub const MEMORY: u64 = 0x4_0000;

/// Instructions that mostly run: register and memory forms of the common families, their operands random.
pub fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        2 => Just(vec![]),
        4 => (0x40u8..0x50).prop_map(|r| vec![r]),
        1 => Just(vec![0x66]),
        1 => (0x40u8..0x50).prop_map(|r| vec![0x66, r]),
    ];
    let opcode = prop_oneof![
        4 => (0u8..8, 0u8..4).prop_map(|(op, form)| vec![op << 3 | form]),
        2 => prop::sample::select(vec![0x63u8, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8D]).prop_map(|b| vec![b]),
        2 => prop_oneof![0x40u8..0x50, 0x90u8..0xA0, 0xB6u8..0xB8, 0xBEu8..0xC0, Just(0xAF), Just(0xA3), Just(0xAB), Just(0xB3), Just(0xBB), Just(0xB1), Just(0xC1), Just(0xA5), Just(0xAD), Just(0xBC), Just(0xBD)]
            .prop_map(|b| vec![0x0F, b]),
        2 => prop::sample::select(vec![0xD0u8, 0xD1, 0xD2, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF]).prop_map(|b| vec![b]),
    ];
    let general = (
        prefix,
        opcode,
        0u8..64,
        prop_oneof![Just(0xC0u8), Just(0), Just(0x40)],
        any::<[u8; 2]>(),
    )
        .prop_map(|(mut bytes, opcode, low, mode, tail)| {
            bytes.extend(opcode);
            operand(&mut bytes, mode | low, tail);
            bytes
        });
    let shift = (0x40u8..0x50, any::<bool>(), 0u8..64, any::<u8>())
        .prop_map(|(rex, wide, low, count)| vec![rex, 0xC0 | u8::from(wide), 0xC0 | low, count]);
    let immediate = (0x40u8..0x50, 0u8..64, any::<u8>())
        .prop_map(|(rex, low, value)| vec![rex, 0x83, 0xC0 | low, value]);
    let accumulator = (0u8..8, any::<u8>()).prop_map(|(op, value)| vec![op << 3 | 4, value]);
    // VEX forms of BMI1 and BMI2, register operands.
    let vex = (
        prop::sample::select(vec![0xF2u8, 0xF3, 0xF5, 0xF6, 0xF7]),
        0u8..8,
        any::<u8>(),
        0u8..4,
        0u8..64,
    )
        .prop_map(|(opcode, rxb, second, pp, low)| {
            vec![0xC4, rxb << 5 | 2, second & 0xF8 | pp, opcode, 0xC0 | low]
        });
    let rorx = (0u8..8, any::<bool>(), 0u8..64, any::<u8>()).prop_map(|(rxb, wide, low, n)| {
        vec![
            0xC4,
            rxb << 5 | 3,
            u8::from(wide) << 7 | 0x7B,
            0xF0,
            0xC0 | low,
            n,
        ]
    });
    let stack = prop_oneof![
        (0x50u8..0x60).prop_map(|b| vec![b]),
        (0x50u8..0x60).prop_map(|b| vec![0x41, b]),
        any::<u8>().prop_map(|b| vec![0x6A, b]),
        Just(vec![0xC9]),
        Just(vec![0xFF, 0x34, 0x24]),
    ];
    let convert = prop::sample::select(vec![
        vec![0x98],
        vec![0x99],
        vec![0x48, 0x98],
        vec![0x48, 0x99],
        vec![0x66, 0x98],
        vec![0x66, 0x99],
        vec![0xF8],
        vec![0xF9],
        vec![0xF5],
        vec![0x9F],
    ]);
    let locked = (
        0x48u8..0x50,
        prop_oneof![
            (0u8..8).prop_map(|op| vec![op << 3 | 1]),
            Just(vec![0x0F, 0xB1]),
            Just(vec![0x0F, 0xC1]),
            Just(vec![0x0F, 0xAB]),
        ],
        0u8..64,
    )
        .prop_filter("a SIB byte", |(_, _, low)| low & 7 != 4 && low & 7 != 5)
        .prop_map(|(rex, op, low)| {
            let mut bytes = vec![0xF0, rex];
            bytes.extend(op);
            bytes.push(low);
            bytes
        });
    // Vector instructions: 66/F3/F2/none 0F xx, and the same with a VEX prefix of either length.
    let vector = (
        prop::sample::select(vec![0x66u8, 0xF3, 0xF2, 0x2E]),
        prop::sample::select(vec![
            0x10u8, 0x11, 0x12, 0x14, 0x16, 0x17, 0x28, 0x29, 0x50, 0x54, 0x55, 0x57, 0x60, 0x61,
            0x62, 0x63, 0x64, 0x66, 0x67, 0x68, 0x6A, 0x6C, 0x6D, 0x6E, 0x6F, 0x74, 0x76, 0x7E,
            0x7F, 0xC4, 0xC6, 0xD2, 0xD4, 0xD6, 0xD7, 0xDA, 0xDB, 0xDF, 0xE7, 0xEB, 0xEF, 0xF4,
            0xF6, 0xFA, 0xFE, 0x70, 0xC5,
        ]),
        0u8..8,
        0u8..64,
        prop_oneof![Just(0xC0u8), Just(0), Just(0x40)],
        any::<[u8; 3]>(),
        0u8..3,
    )
        .prop_map(|(prefix, opcode, rex, low, mode, tail, form)| {
            let pp = [0x66u8, 0xF3, 0xF2].iter().position(|p| *p == prefix);
            let pp = pp.map_or(0, |p| p as u8 + 1);
            let mut bytes = match form {
                0 => vec![prefix, 0x40 | rex, 0x0F, opcode],
                _ => vec![
                    0xC4,
                    rex << 5 | 1,
                    tail[2] & 0x78 | (form - 1) << 2 | pp,
                    opcode,
                ],
            };
            operand(&mut bytes, mode | low, [tail[0], tail[1] & 0xF0]);
            if matches!(opcode, 0x70 | 0xC4 | 0xC5 | 0xC6) {
                bytes.push(tail[0]);
            }
            bytes
        });
    let divide = (0x40u8..0x50, 0u8..64).prop_map(|(rex, low)| vec![rex, 0xF7, 0xF0 | low & 7]);
    let double =
        (0x40u8..0x50, 0u8..64, any::<u8>(), any::<bool>()).prop_map(|(rex, low, n, right)| {
            vec![rex, 0x0F, 0xA4 | u8::from(right) << 3, 0xC0 | low, n]
        });
    prop_oneof![
        10 => general,
        6 => vector,
        1 => divide,
        1 => double,
        2 => shift,
        2 => immediate,
        1 => accumulator,
        2 => vex,
        1 => rorx,
        2 => stack,
        1 => convert,
        1 => locked,
    ]
}

/// A ModRM byte and what belongs to it: the SIB byte and the displacement of one byte that it asks for.
fn operand(bytes: &mut Vec<u8>, modrm: u8, tail: [u8; 2]) {
    bytes.push(modrm);
    if modrm < 0xC0 && modrm & 7 == 4 {
        bytes.push(tail[0]);
    }
    if modrm & 0xC0 == 0x40 {
        bytes.push(tail[1]);
    }
}

/// A processor at [`CODE`] with these registers; those that `in_data` names, and RSP, point into the data. Every
/// exception and HLT exit.
pub fn state(guest: &mut FlatGuest, registers: [u64; 16], rflags: u64, in_data: u16) -> Vcpu {
    let mut vcpu = long_vcpu(guest, 0x1000, 0);
    vcpu.regs.gpr = registers;
    for (n, register) in vcpu.regs.gpr.iter_mut().enumerate() {
        if in_data >> n & 1 != 0 || n == 4 {
            *register = DATA + *register % 0x1_0000;
        }
    }
    vcpu.regs.rflags = rflags & 0xCD5 | 2;
    for (n, vector) in vcpu.regs.fpu.ymm.iter_mut().enumerate() {
        let low = u128::from(registers[n]) << 64 | u128::from(registers[15 - n]);
        *vector = [low, low.rotate_left(40)];
    }
    vcpu.regs.rip = CODE;
    vcpu.controls.primary = 1 << 7 | 1 << 24;
    vcpu.controls.exception_bitmap = u32::MAX;
    vcpu
}

/// Writes the data's pattern, and the code unless it is there already: self-modifying programs begin anew, others
/// keep their translation.
pub fn fill(guest: &mut FlatGuest, code: &[u8]) {
    let pattern: Vec<u8> = (0..DATA_LEN as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    guest.put(DATA, &pattern);
    if guest.get(CODE, code.len()) != code {
        guest.put(CODE, code);
    }
}
