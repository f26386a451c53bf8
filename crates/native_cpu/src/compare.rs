//! Compares two outcomes of a case and says in one line each what differs.

use iced_x86::{FlowControl, Instruction};

use crate::state::{CODE, CODE_OFFSET, Case, Outcome};
use crate::vendor::{self, Tolerance};

/// The six arithmetic flags and DF.
const FLAGS: u64 = 0xCD5;
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// How the instruction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It completed, and execution goes on at this address.
    At(u64),
    Fault {
        vector: u8,
        error: u32,
        address: u64,
    },
}

/// The INT3 after the instruction, and a fetch that faults at the target, are completions.
pub fn native_end(outcome: &Outcome) -> End {
    let rip = outcome.state.rip;
    let start = CODE + CODE_OFFSET as u64;
    match outcome.exception {
        None => End::At(rip),
        Some(e) if e.vector == 3 => End::At(rip.wrapping_sub(1)),
        Some(e) if e.vector == 14 && e.error & 16 != 0 && rip != start => End::At(rip),
        Some(e) => fault(e.vector, e.error, e.address),
    }
}

pub fn engine_end(outcome: &Outcome) -> End {
    match outcome.exception {
        None => End::At(outcome.state.rip),
        Some(e) => fault(e.vector, e.error, e.address),
    }
}

/// The host's kernel changes the error code and address of faults in its own half.
fn fault(vector: u8, error: u32, address: u64) -> End {
    if vector == 14 && address >> 47 != 0 {
        return End::Fault {
            vector,
            error: 0,
            address: 0,
        };
    }
    End::Fault {
        vector,
        error: if vector == 14 { error & 0x1F } else { error },
        address,
    }
}

/// Page faults inside one save area.
fn same_but_address(a: End, b: End) -> bool {
    matches!(
        (a, b),
        (End::Fault { vector: 14, .. }, End::Fault { vector: 14, .. })
    )
}

fn rflags_mask(instruction: &Instruction) -> u64 {
    use iced_x86::RflagsBits as Bits;
    let undefined = instruction.rflags_undefined();
    let bit = |name: u32, bit: u64| if undefined & name != 0 { bit } else { 0 };
    FLAGS
        & !(bit(Bits::OF, 0x800)
            | bit(Bits::SF, 0x80)
            | bit(Bits::ZF, 0x40)
            | bit(Bits::AF, 0x10)
            | bit(Bits::CF, 1)
            | bit(Bits::PF, 4))
}

/// Where two kinds of engine did not do exactly the same, flags that the manual leaves undefined included.
pub fn unlike(interpreter: &Outcome, other: &Outcome) -> Vec<String> {
    if interpreter == other {
        return Vec::new();
    }
    let (a, b) = (&interpreter.state, &other.state);
    let mut found = Vec::new();
    for (n, name) in NAMES.iter().enumerate() {
        if a.gpr[n] != b.gpr[n] {
            found.push(format!("{name} {:#x} and {:#x}", a.gpr[n], b.gpr[n]));
        }
    }
    for (name, a, b) in [("rip", a.rip, b.rip), ("rflags", a.rflags, b.rflags)] {
        if a != b {
            found.push(format!("{name} {a:#x} and {b:#x}"));
        }
    }
    if a.fpu != b.fpu {
        found.push(format!("{:x?} and {:x?}", a.fpu, b.fpu));
    }
    if interpreter.exception != other.exception {
        let (a, b) = (interpreter.exception, other.exception);
        found.push(format!("{a:x?} and {b:x?}"));
    }
    let bytes = interpreter.memory.iter().zip(other.memory.iter());
    for (at, (a, b)) in bytes.enumerate().filter(|(_, (a, b))| a != b) {
        found.push(format!("memory[{at:#x}] {a:#x} and {b:#x}"));
    }
    found
}

/// Every difference, or nothing.
pub fn differences(
    instruction: &Instruction,
    case: &Case,
    native: &Outcome,
    engine: &Outcome,
) -> Vec<String> {
    let tolerance = vendor::tolerance(instruction, case);
    if tolerance == Tolerance::Skip {
        return Vec::new();
    }
    let mut found = Vec::new();
    let (n, e) = (native_end(native), engine_end(engine));
    if n != e && !(tolerance.any_address() && same_but_address(n, e)) {
        found.push(format!("end: native {n:x?}, engine {e:x?}"));
        if !matches!((n, e), (End::At(_), End::At(_))) {
            return found;
        }
    }
    let completed = matches!(n, End::At(_));
    let (a, b) = (&native.state, &engine.state);
    for (i, name) in NAMES.iter().enumerate() {
        if a.gpr[i] != b.gpr[i] && !tolerance.ignores_register(i) {
            found.push(format!(
                "{name}: native {:#x}, engine {:#x} (before {:#x})",
                a.gpr[i], b.gpr[i], case.state.gpr[i]
            ));
        }
    }
    let mask = if completed {
        rflags_mask(instruction) & !tolerance.flags()
    } else {
        FLAGS
    };
    if (a.rflags ^ b.rflags) & mask != 0 && instruction.flow_control() != FlowControl::Exception {
        found.push(format!(
            "rflags: native {:#x}, engine {:#x} (mask {mask:#x})",
            a.rflags, b.rflags
        ));
    }
    let (x, y) = (&a.fpu, &b.fpu);
    for i in 0..16 {
        if x.ymm[i] != y.ymm[i] && !tolerance.accepts(x.ymm[i], y.ymm[i]) {
            found.push(format!(
                "ymm{i}: native {:032x}:{:032x}, engine {:032x}:{:032x}",
                x.ymm[i][1], x.ymm[i][0], y.ymm[i][1], y.ymm[i][0]
            ));
        }
    }
    if x.mxcsr != y.mxcsr {
        found.push(format!(
            "mxcsr: native {:#x}, engine {:#x} (before {:#x})",
            x.mxcsr, y.mxcsr, case.state.fpu.mxcsr
        ));
    }
    let words = [
        ("fcw", x.fcw, y.fcw, case.state.fpu.fcw),
        (
            "fsw",
            x.fsw & !tolerance.fsw(),
            y.fsw & !tolerance.fsw(),
            case.state.fpu.fsw,
        ),
        ("ftw", x.ftw.into(), y.ftw.into(), case.state.fpu.ftw.into()),
    ];
    for (name, native, engine, before) in words {
        if native != engine {
            found.push(format!(
                "{name}: native {native:#x}, engine {engine:#x} (before {before:#x})"
            ));
        }
    }
    for i in 0..8 {
        if x.st[i] != y.st[i] && !tolerance.accepts_x87(x.st[i], y.st[i]) {
            found.push(format!(
                "r{i}: native {:020x}, engine {:020x} (before {:020x})",
                x.st[i], y.st[i], case.state.fpu.st[i]
            ));
        }
    }
    let ignored = tolerance.memory(instruction, case);
    if let Some(at) = (0..native.memory.len()).find(|&at| {
        native.memory[at] != engine.memory[at] && !ignored.iter().any(|range| range.contains(&at))
    }) {
        let end = (at + 16).min(native.memory.len());
        found.push(format!(
            "memory[{at:#x}]: native {:02x?}, engine {:02x?} (before {:02x?})",
            &native.memory[at..end],
            &engine.memory[at..end],
            &case.memory[at..end]
        ));
    }
    found
}
