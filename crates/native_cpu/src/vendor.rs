//! Where processors may differ from each other, and so from the engine, with the reason.

use core::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::form::Encoded;
use crate::state::{Case, DATA, DATA_LEN};
use crate::values::effective;

/// One row for the documentation.
pub struct Difference {
    pub what: &'static str,
    pub why: &'static str,
}

/// The rows that `tolerance` acts on.
pub const KNOWN: &[Difference] = &[
    Difference {
        what: "BSF, BSR of zero",
        why: "the destination is undefined on Intel and unchanged on AMD; the engine leaves it unchanged",
    },
    Difference {
        what: "OF after RCL and RCR by more than one",
        why: "undefined; iced's table counts some of them (9 or 17 bits less) as defined",
    },
    Difference {
        what: "SHLD, SHRD of 16 bits by more than 16",
        why: "result and flags are undefined; not compared",
    },
    Difference {
        what: "CMPXCHG of 32-bit registers that differ",
        why: "the destination's upper half stays on the AMD hosts compared with, and in the engine",
    },
    Difference {
        what: "RCPPS, RCPSS, RSQRTPS, RSQRTSS",
        why: "approximations: compared to a relative error of 1.5 * 2^-12 of each other, not bit by bit",
    },
    Difference {
        what: "FOP, FIP, FDP in FXSAVE, XSAVE, FNSAVE and FNSTENV images",
        why: "AMD stores them only with a pending exception; not compared",
    },
    Difference {
        what: "LDMXCSR and MXCSR in images: bit 17",
        why: "AMD has misaligned-SSE mode there; Intel and the engine raise #GP. MXCSR_MASK differs likewise",
    },
    Difference {
        what: "bytes 416 to 511 of FXSAVE and XSAVE images, and reserved bytes",
        why: "some processors leave them, some write zeros; not compared",
    },
    Difference {
        what: "MASKMOVDQU and MASKMOVQ at the end of a mapped page",
        why: "AMD faults for bytes that are not stored, Intel may for an all-zero mask; the engine does not",
    },
    Difference {
        what: "MOVSXD of 16 bits from memory",
        why: "Intel and the engine read 16 bits, AMD reads 32: operands at the end of a page are not compared",
    },
    Difference {
        what: "FLD of a single or double denormal with that exception unmasked",
        why: "AMD pushes it all the same; the engine leaves the stack alone, as for the other exceptions found first",
    },
    Difference {
        what: "SHA-NI with a memory operand that is not aligned",
        why: "#GP(0) on Intel and in the engine; AMD accepts it",
    },
    Difference {
        what: "the address that #PF reports for FXSAVE, FXRSTOR, XSAVE, FNSAVE, FNSTENV, FLDENV and FRSTOR",
        why: "processors touch the operand in different orders; any address inside it is accepted",
    },
    Difference {
        what: "x87 transcendental functions",
        why: "no two vendors agree in the last bit: compared to 4 units in the last place, C1 not compared",
    },
];

/// What of a case is not compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tolerance {
    Exact,
    Skip,
    /// A register whose value is undefined.
    Register(usize),
    /// OF is undefined.
    Overflow,
    Approximate,
    SaveArea,
    LoadArea,
    Environment,
    Transcendental,
}

pub fn tolerance(instruction: &Instruction, case: &Case) -> Tolerance {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Bsf | Bsr => {
            let source_zero = match instruction.op1_kind() {
                OpKind::Register => {
                    let register = instruction.op1_register();
                    let value = case.state.gpr[register.full_register().number()];
                    let bits = register.size() as u32 * 8;
                    bits < 64 && value & ((1 << bits) - 1) == 0 || value == 0
                }
                _ => operand_offset(instruction, case)
                    .and_then(|at| case.memory.get(at..at + instruction.memory_size().size()))
                    .is_some_and(|bytes| bytes.iter().all(|b| *b == 0)),
            };
            if source_zero {
                Tolerance::Register(instruction.op0_register().full_register().number())
            } else {
                Tolerance::Exact
            }
        }
        Rcl | Rcr => {
            let count = match instruction.op1_kind() {
                OpKind::Register => case.state.gpr[1] as u8,
                _ => instruction.immediate8(),
            };
            if count & 31 > 1 {
                Tolerance::Overflow
            } else {
                Tolerance::Exact
            }
        }
        Shld | Shrd if instruction.op1_register().size() == 2 => {
            let count = match instruction.op2_kind() {
                OpKind::Register => case.state.gpr[1] as u8,
                _ => instruction.immediate8(),
            };
            if count & 31 > 16 {
                Tolerance::Skip
            } else {
                Tolerance::Exact
            }
        }
        Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss => {
            Tolerance::Approximate
        }
        Ldmxcsr | Vldmxcsr => {
            match operand_offset(instruction, case).and_then(|at| case.memory.get(at + 2)) {
                Some(byte) if byte & 2 != 0 => Tolerance::Skip,
                _ => Tolerance::Exact,
            }
        }
        Fxrstor | Fxrstor64 | Xrstor | Xrstor64 => {
            match operand_offset(instruction, case).and_then(|at| case.memory.get(at + 26)) {
                Some(byte) if byte & 2 != 0 => Tolerance::Skip,
                _ => Tolerance::LoadArea,
            }
        }
        Sha1rnds4 | Sha1nexte | Sha1msg1 | Sha1msg2 | Sha256rnds2 | Sha256msg1 | Sha256msg2 => {
            let encoded = Encoded {
                instruction: *instruction,
                bytes: Vec::new(),
            };
            match effective(&encoded, &case.state) {
                Some(address) if address % 16 != 0 => Tolerance::Skip,
                _ => Tolerance::Exact,
            }
        }
        // AMD reads 32 bits from memory.
        Movsxd
            if instruction.op0_register().size() == 2
                && instruction.op1_kind() == OpKind::Memory =>
        {
            match operand_offset(instruction, case) {
                Some(at) if at % 4096 <= 4092 => Tolerance::Exact,
                _ => Tolerance::Skip,
            }
        }
        Fld if instruction.op0_kind() == OpKind::Memory
            && instruction.memory_size().size() < 10
            && case.state.fpu.fcw & 2 == 0 =>
        {
            Tolerance::Skip
        }
        Maskmovq | Maskmovdqu | Vmaskmovdqu => {
            let at = case.state.gpr[7].wrapping_sub(DATA);
            let at = if instruction.op0_kind() == OpKind::MemorySegEDI {
                at & 0xFFFF_FFFF
            } else {
                at
            };
            if at <= DATA_LEN as u64 - 16 {
                Tolerance::Exact
            } else {
                Tolerance::Skip
            }
        }
        Fxsave | Fxsave64 | Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 => {
            Tolerance::SaveArea
        }
        Fnsave | Fnstenv | Fldenv | Frstor => Tolerance::Environment,
        Fyl2xp1
            if (case.state.fpu.st[usize::from(case.state.fpu.fsw >> 11 & 7)] >> 64) & 0x7FFF
                >= 0x3FFD =>
        {
            // Beyond the range in which the result is defined.
            Tolerance::Skip
        }
        Fsin | Fcos | Fsincos | Fptan | Fpatan | F2xm1 | Fyl2x | Fyl2xp1 => {
            Tolerance::Transcendental
        }
        _ => Tolerance::Exact,
    }
}

/// Where in the data pages the memory operand begins.
fn operand_offset(instruction: &Instruction, case: &Case) -> Option<usize> {
    let encoded = Encoded {
        instruction: *instruction,
        bytes: Vec::new(),
    };
    effective(&encoded, &case.state)
        .map(|address| address.wrapping_sub(DATA) as usize)
        .filter(|at| *at < case.memory.len())
}

impl Tolerance {
    pub fn ignores_register(self, register: usize) -> bool {
        self == Tolerance::Register(register)
    }

    pub fn flags(self) -> u64 {
        if self == Tolerance::Overflow {
            0x800
        } else {
            0
        }
    }

    pub fn any_address(self) -> bool {
        matches!(
            self,
            Tolerance::SaveArea | Tolerance::LoadArea | Tolerance::Environment
        )
    }

    /// x87 status bits that are not compared.
    pub fn fsw(self) -> u16 {
        if self == Tolerance::Transcendental {
            0x200
        } else {
            0
        }
    }

    /// Whether two different vectors are the same approximation.
    pub fn accepts(self, a: [u128; 2], b: [u128; 2]) -> bool {
        self == Tolerance::Approximate
            && a.iter().zip(&b).all(|(x, y)| {
                (0..4).all(|i| {
                    let (x, y) = (
                        f32::from_bits((x >> (32 * i)) as u32),
                        f32::from_bits((y >> (32 * i)) as u32),
                    );
                    // Two errors of 1.5 * 2^-12; results near the smallest normal may be flushed by one side.
                    x.to_bits() == y.to_bits()
                        || ((x - y) / y).abs() <= 3.0 / 4096.0
                        || x.abs().max(y.abs()) < 1.2e-38
                })
            })
    }

    /// Whether two different x87 registers are the same transcendental result.
    pub fn accepts_x87(self, a: u128, b: u128) -> bool {
        if self != Tolerance::Transcendental {
            return false;
        }
        // As integers, neighbouring numbers of one sign are neighbours.
        let ordered = |v: u128| (v >> 64 & 0x7FFF) << 63 | v & (u128::from(u64::MAX) >> 1);
        a >> 79 == b >> 79 && ordered(a).abs_diff(ordered(b)) <= 4
    }

    /// Bytes of the data pages that are not compared.
    pub fn memory(self, instruction: &Instruction, case: &Case) -> Vec<Range<usize>> {
        let Some(at) = operand_offset(instruction, case) else {
            return Vec::new();
        };
        match self {
            Tolerance::SaveArea => {
                let mut ranges = vec![at + 5..at + 24, at + 28..at + 32, at + 416..at + 512];
                ranges.extend((0..8).map(|i| at + 42 + 16 * i..at + 48 + 16 * i));
                ranges
            }
            Tolerance::Environment
                if instruction.memory_size().size() == 14
                    || instruction.memory_size().size() == 94 =>
            {
                std::iter::once(at + 6..at + 14).collect()
            }
            Tolerance::Environment => vec![at + 2..at + 4, at + 6..at + 8, at + 10..at + 28],
            _ => Vec::new(),
        }
    }
}
