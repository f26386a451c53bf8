//! The rarer integer forms, each with what lets it run: dividends that fit, bit offsets near the operand, operands that
//! compare equal.

use proptest::prelude::*;

/// ModRM, SIB and displacement: a register, or memory in one of the plain forms.
fn operand() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => register(), 3 => memory()]
}

fn register() -> impl Strategy<Value = Vec<u8>> {
    (0xC0u8..).prop_map(|byte| vec![byte])
}

fn memory() -> impl Strategy<Value = Vec<u8>> {
    (0u8..64, any::<[u8; 2]>(), any::<bool>()).prop_map(|(low, tail, displaced)| {
        let mut bytes = vec![low | u8::from(displaced) << 6];
        if low & 7 == 4 {
            bytes.push(tail[0]);
            if !displaced && tail[0] & 7 == 5 {
                bytes.extend([tail[1], 0, 1, 0]);
            }
        }
        if displaced {
            bytes.push(tail[1]);
        } else if low & 7 == 5 {
            bytes.extend([tail[1], 0x80, 0, 0]);
        }
        bytes
    })
}

/// Operand size, address size and REX prefixes.
fn prefix() -> impl Strategy<Value = Vec<u8>> {
    (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.7, 0x40u8..0x50),
    )
        .prop_map(|(operand, address, rex)| {
            let mut bytes = vec![];
            if operand {
                bytes.push(0x66);
            }
            if address {
                bytes.push(0x67);
            }
            bytes.extend(rex);
            bytes
        })
}

fn with(
    opcode: impl Strategy<Value = Vec<u8>>,
    operand: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    (prefix(), opcode, operand).prop_map(|parts| [parts.0, parts.1, parts.2].concat())
}

fn opcodes(all: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(all).prop_map(<[u8]>::to_vec)
}

/// The operation in ModRM's middle field.
fn numbered(
    operand: impl Strategy<Value = Vec<u8>>,
    numbers: std::ops::Range<u8>,
) -> impl Strategy<Value = Vec<u8>> {
    (operand, numbers).prop_map(|(mut bytes, number)| {
        bytes[0] = bytes[0] & 0xC7 | number << 3;
        bytes
    })
}

fn before(
    first: &'static [&'static [u8]],
    then: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    (opcodes(first), then).prop_map(|parts| [parts.0, parts.1].concat())
}

fn shifts() -> impl Strategy<Value = Vec<u8>> {
    let immediate = (
        with(opcodes(&[&[0x0F, 0xA4], &[0x0F, 0xAC]]), operand()),
        any::<u8>(),
    );
    let double_by_immediate = immediate.prop_map(|(mut bytes, count)| {
        bytes.push(count);
        bytes
    });
    let double_by_cl = with(opcodes(&[&[0x0F, 0xA5], &[0x0F, 0xAD]]), operand());
    let by_one_or_cl = with(
        opcodes(&[&[0xD0], &[0xD1], &[0xD2], &[0xD3]]),
        numbered(operand(), 0..8),
    );
    let by_immediate = (
        with(
            opcodes(&[&[0xC0], &[0xC0], &[0xC1]]),
            numbered(operand(), 0..8),
        ),
        any::<u8>(),
    );
    let by_immediate = by_immediate.prop_map(|(mut bytes, count)| {
        bytes.push(count);
        bytes
    });
    // Half of the counts in CL small.
    let counts: &[&[u8]] = &[&[], &[0x83, 0xE1, 7]];
    let by_cl = prop_oneof![double_by_cl, by_one_or_cl];
    prop_oneof![double_by_immediate, by_immediate, before(counts, by_cl)]
}

fn divisions() -> impl Strategy<Value = Vec<u8>> {
    // CQO, CDQ, CWD, xor edx, edx; movsx ax, al; movzx eax, al; or none.
    let dividends: &[&[u8]] = &[
        &[],
        &[0x48, 0x99],
        &[0x99],
        &[0x66, 0x99],
        &[0x31, 0xD2],
        &[0x66, 0x98],
        &[0x0F, 0xB6, 0xC0],
        &[0x0F, 0xB6, 0xC0, 0x31, 0xD2],
    ];
    let divisor = numbered(operand(), 4..8);
    before(dividends, with(opcodes(&[&[0xF6], &[0xF7]]), divisor))
}

fn bits() -> impl Strategy<Value = Vec<u8>> {
    let opcode = || opcodes(&[&[0x0F, 0xA3], &[0x0F, 0xAB], &[0x0F, 0xB3], &[0x0F, 0xBB]]);
    // movsx of RCX's low byte into RCX and R9, whose offsets then are near.
    let near: &[&[u8]] = &[
        &[],
        &[0x48, 0x0F, 0xBE, 0xC9],
        &[0x4C, 0x0F, 0xBE, 0xC9],
        &[0x48, 0x0F, 0xBF, 0xC9],
    ];
    let by_rcx = (memory(), any::<bool>()).prop_map(|(mut bytes, r9)| {
        bytes[0] = bytes[0] & 0xC7 | 1 << 3;
        (bytes, r9)
    });
    let near_ones = (opcodes(near), opcode(), by_rcx, any::<bool>(), 0u8..4).prop_map(
        |(first, opcode, (operand, r9), locked, size)| {
            let mut bytes = first;
            if locked && opcode[1] != 0xA3 {
                bytes.push(0xF0);
            }
            if size == 1 {
                bytes.push(0x66);
            }
            if size == 2 {
                bytes.push(0x67);
            }
            bytes.push(0x40 | u8::from(size > 1) << 3 | u8::from(r9) << 2);
            bytes.extend(opcode);
            bytes.extend(operand);
            bytes
        },
    );
    prop_oneof![with(opcode(), operand()), near_ones]
}

fn exchanges() -> impl Strategy<Value = Vec<u8>> {
    let plain = with(
        opcodes(&[
            &[0x0F, 0xB0],
            &[0x0F, 0xB1],
            &[0x0F, 0xC0],
            &[0x0F, 0xC1],
            &[0x86],
            &[0x87],
        ]),
        operand(),
    );
    // mov rax, rcx or the like before.
    let same: &[&[u8]] = &[
        &[],
        &[0x48, 0x89, 0xC8],
        &[0x4C, 0x89, 0xC8],
        &[0x88, 0xE0],
        &[0x48, 0x8B, 0x06],
    ];
    // and rsi, -16; mov rax, [rsi]; mov rdx, [rsi + 8]
    let aligned: &[&[u8]] = &[
        &[],
        &[0x48, 0x83, 0xE6, 0xF0],
        &[
            0x48, 0x83, 0xE6, 0xF0, 0x48, 0x8B, 0x06, 0x48, 0x8B, 0x56, 8,
        ],
        &[0x8B, 0x06, 0x8B, 0x56, 4],
    ];
    let wide = (any::<bool>(), 0u8..2).prop_map(|(locked, wide)| {
        let mut bytes = if locked { vec![0xF0] } else { vec![] };
        bytes.extend([0x40 | wide << 3, 0x0F, 0xC7, 0x0E]);
        bytes
    });
    prop_oneof![before(same, plain), before(aligned, wide)]
}

fn stack() -> impl Strategy<Value = Vec<u8>> {
    let short = (0x50u8..0x60, any::<bool>()).prop_map(|(opcode, extended)| {
        let mut bytes = vec![0x66];
        if extended {
            bytes.push(0x41);
        }
        bytes.push(opcode);
        bytes
    });
    prop_oneof![
        2 => short,
        1 => with(opcodes(&[&[0x8F]]), numbered(operand(), 0..1)),
        1 => with(opcodes(&[&[0xFF]]), numbered(operand(), 6..7)),
        1 => opcodes(&[
            // push imm32, imm16, imm8 as 16 bits; pop [rsp], pop [rsp - 8], pop [rsp + rsi], pop [esp + 8]
            &[0x68, 0x78, 0x56, 0x34, 0x92],
            &[0x66, 0x68, 0x34, 0x92],
            &[0x66, 0x6A, 0x92],
            &[0x8F, 0x04, 0x24],
            &[0x8F, 0x44, 0x24, 0xF8],
            &[0x8F, 0x04, 0x34],
            &[0x66, 0x8F, 0x44, 0x24, 0xF8],
            &[0x67, 0x8F, 0x44, 0x24, 8],
        ]),
    ]
}

fn others() -> impl Strategy<Value = Vec<u8>> {
    let chains = (
        prop_oneof![Just(0x66u8), Just(0xF3)],
        prop::bool::weighted(0.2),
        0x40u8..0x50,
        operand(),
    );
    // ADCX and ADOX.
    let chains = chains.prop_map(|(kind, narrow, rex, operand)| {
        let mut bytes = vec![kind];
        if narrow {
            bytes.push(0x67);
        }
        bytes.extend([rex, 0x0F, 0x38, 0xF6]);
        bytes.extend(operand);
        bytes
    });
    // VEX forms of three general registers, memory among them.
    let vex = (
        prop::sample::select(vec![0xF2u8, 0xF5, 0xF6, 0xF7]),
        0u8..8,
        any::<u8>(),
        0u8..4,
        operand(),
    )
        .prop_map(|(opcode, rxb, second, pp, operand)| {
            let mut bytes = vec![0xC4, rxb << 5 | 2, second & 0xF8 | pp, opcode];
            bytes.extend(operand);
            bytes
        });
    let flush = (prop::bool::ANY, memory(), 6u8..8).prop_map(|(opt, mut operand, number)| {
        operand[0] = operand[0] & 0xC7 | number << 3;
        let mut bytes = if opt || number == 6 {
            vec![0x66]
        } else {
            vec![]
        };
        bytes.extend([0x0F, 0xAE]);
        bytes.extend(operand);
        bytes
    });
    let plain: &[&[u8]] = &[
        &[0x9E],
        &[0x9F],
        &[0xF5],
        &[0xF8],
        &[0xF9],
        &[0xFC],
        &[0xD7],
        &[0x64, 0xD7],
        &[0x67, 0xD7],
        // JRCXZ, JECXZ, LOOP, LOOPE, LOOPNE over a CMC.
        &[0xE3, 1, 0xF5],
        &[0x67, 0xE3, 1, 0xF5],
        &[0xE2, 1, 0xF5],
        &[0x67, 0xE2, 1, 0xF5],
        &[0xE1, 1, 0xF5],
        &[0xE0, 1, 0xF5],
        // mov ecx, 0 or 1 before.
        &[0xB9, 0, 0, 0, 0, 0xE3, 1, 0xF5],
        &[0xB9, 1, 0, 0, 0, 0xE2, 1, 0xF5],
        &[0xB9, 0, 0, 0, 0, 0x67, 0xE2, 1, 0xF5],
        // leave, 16-bit return address pushes and flags.
        &[0xC9],
        &[0x9C],
        &[0x66, 0x9C],
    ];
    prop_oneof![
        chains,
        vex,
        flush,
        opcodes(plain),
        with(opcodes(&[&[0x8D]]), memory())
    ]
}

/// One or a few instructions.
pub fn rarer() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        shifts(),
        divisions(),
        bits(),
        exchanges(),
        stack(),
        others()
    ]
}

/// Accesses near one base register, at times across the end of a page, with a little between.
pub fn neighbours() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let base = prop::sample::select(vec![3u8, 4, 4, 4, 6, 7, 9, 12, 15]);
    let one = (0u8..20, any::<u8>(), 0u8..8, 0u8..16);
    let near_the_end = prop::option::weighted(0.5, 0u8..0x80);
    (base, near_the_end, prop::collection::vec(one, 2..14)).prop_map(|(base, end, all)| {
        let mut code = vec![];
        if let Some(end) = end {
            // or r16, 0xF80 + end
            let number = 0xC8 | base & 7;
            code.push(vec![0x66, 0x40 | base >> 3, 0x81, number, 0x80 | end, 0x0F]);
        }
        code.extend(all.into_iter().map(|(kind, displacement, wide, register)| {
            let rex = 0x40 | (wide & 1) << 3 | (register >> 3) << 2 | base >> 3;
            let mut modrm = vec![0x40 | (register & 7) << 3 | base & 7];
            if base & 7 == 4 {
                modrm.push(0x24);
            }
            modrm.push(displacement);
            let near = |opcode: &[u8]| [&[rex], opcode, &modrm].concat();
            let to_base = 0x48 | base >> 3;
            match kind {
                0..3 => near(&[0x8B]),
                3..6 => near(&[0x89]),
                6 => near(&[0x03]),
                7 => near(&[0x39]),
                8 => near(&[0x11]),
                9 => near(&[0x0F, 0xB6]),
                10 => near(&[0x0F, 0x94]),
                11 => vec![0x50 | register & 7],
                12 => vec![0x41, 0x50 | register & 7],
                13 => vec![0x58 | register & 7],
                14 => vec![0x41, 0x58 | register & 7],
                // add or sub base, imm8; lea base, [base + disp8]; mov, shl and cmp between
                15 => vec![
                    to_base,
                    0x83,
                    0xC0 | (wide & 5) << 3 | base & 7,
                    displacement & 0x1F,
                ],
                16 => {
                    modrm[0] = 0x40 | (base & 7) << 3 | base & 7;
                    [&[to_base | (base >> 3) << 2, 0x8D], &modrm[..]].concat()
                }
                17 => vec![0x48, 0x89, 0xC0 | wide << 3 | register & 3],
                18 => vec![0x48, 0xC1, 0xE0 | register & 3, displacement],
                _ => vec![0x49, 0x39, 0xC0 | wide << 3 | register & 7],
            }
        }));
        code
    })
}
