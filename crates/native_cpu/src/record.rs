//! Cases as lines of text: bytes, what is not initial before, `->`, and what changed.
//!
//! ```text
//! 4801d8 rax=5 rbx=7 -> rip=20000803 rax=c rflags=206 # Add_rm64_r64
//! ```
//! Numbers are hexadecimal. `ymm3=H:L` are its halves, `r0` to `r7` the physical x87 registers, `[1230]=…` sixteen bytes
//! of the data pages. Initially registers and memory are zero, RFLAGS is 202, and x87 and MXCSR are as after reset. What
//! is not named after the arrow has not changed; flags that are undefined are not looked at.

use core::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use x86_arch::vmx::Fpu;

use crate::compare::{End, native_end};
use crate::state::{CODE, CODE_OFFSET, Case, DATA_LEN, Exception, Outcome, State};

const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const RFLAGS: u64 = 0x202;
/// The flags that programs see: arithmetic, DF, and IF.
const SEEN_FLAGS: u64 = 0xED7;

fn initial() -> State {
    State {
        rip: CODE + CODE_OFFSET as u64,
        rflags: RFLAGS,
        ..State::default()
    }
}

/// What differs between two states, in the notation of a line.
fn difference(from: &State, to: &State, before: &[u8; DATA_LEN], after: &[u8; DATA_LEN]) -> String {
    let mut text = String::new();
    for (i, name) in GPRS
        .iter()
        .enumerate()
        .filter(|(i, _)| from.gpr[*i] != to.gpr[*i])
    {
        let _ = write!(text, " {name}={:x}", to.gpr[i]);
    }
    if (from.rflags ^ to.rflags) & SEEN_FLAGS != 0 {
        let _ = write!(text, " rflags={:x}", to.rflags & SEEN_FLAGS);
    }
    let (a, b) = (&from.fpu, &to.fpu);
    if a.mxcsr != b.mxcsr {
        let _ = write!(text, " mxcsr={:x}", b.mxcsr);
    }
    let words = [
        ("fcw", a.fcw, b.fcw),
        ("fsw", a.fsw, b.fsw),
        ("ftw", a.ftw.into(), b.ftw.into()),
    ];
    for (name, _, now) in words.iter().filter(|(_, before, now)| before != now) {
        let _ = write!(text, " {name}={now:x}");
    }
    for i in (0..16).filter(|&i| a.ymm[i] != b.ymm[i]) {
        let _ = write!(text, " ymm{i}={:x}:{:x}", b.ymm[i][1], b.ymm[i][0]);
    }
    for i in (0..8).filter(|&i| a.st[i] != b.st[i]) {
        // R8 and up are general-purpose registers: these are the x87's.
        let _ = write!(text, " r{i}={:x}", b.st[i]);
    }
    for (at, (x, y)) in before
        .chunks_exact(16)
        .zip(after.chunks_exact(16))
        .enumerate()
    {
        if x != y {
            let _ = write!(text, " [{:x}]=", 16 * at);
            y.iter().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
        }
    }
    text
}

/// What the instruction did, in the notation of a line.
pub fn changes(case: &Case, outcome: &Outcome) -> String {
    let end = match native_end(outcome) {
        End::At(rip) => format!("rip={rip:x}"),
        End::Fault {
            vector,
            error,
            address,
        } => format!("fault={vector:x}:{error:x}:{address:x}"),
    };
    end + &difference(&case.state, &outcome.state, &case.memory, &outcome.memory)
}

pub fn line(case: &Case, outcome: &Outcome) -> String {
    let bytes: String = case
        .bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let zeros = [0; DATA_LEN];
    let before = difference(&initial(), &case.state, &zeros, &case.memory);
    format!(
        "{bytes}{before} -> {} # {:?}",
        changes(case, outcome),
        decode(&case.bytes).code()
    )
}

/// The instruction at its place in the code page.
pub fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, CODE + CODE_OFFSET as u64, DecoderOptions::NONE).decode()
}

/// Reads a line back; `None` when it is no case.
pub fn parse(line: &str) -> Option<(Case, Outcome)> {
    let line = line.split('#').next()?;
    let (before, after) = line.split_once("->")?;
    let mut before = before.split_whitespace();
    let bytes = hex(before.next()?)?;
    let mut case = Case {
        bytes,
        state: initial(),
        memory: Box::new([0; DATA_LEN]),
    };
    let mut end = End::At(case.state.rip);
    for word in before {
        set(word, &mut case.state, &mut case.memory, &mut end)?;
    }
    let (mut state, mut memory) = (case.state.clone(), case.memory.clone());
    for word in after.split_whitespace() {
        set(word, &mut state, &mut memory, &mut end)?;
    }
    let exception = match end {
        End::At(rip) => {
            state.rip = rip;
            None
        }
        End::Fault {
            vector,
            error,
            address,
        } => Some(Exception {
            vector,
            error,
            address,
        }),
    };
    Some((
        case,
        Outcome {
            state,
            exception,
            memory,
        },
    ))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

fn set(word: &str, state: &mut State, memory: &mut [u8; DATA_LEN], end: &mut End) -> Option<()> {
    let (name, value) = word.split_once('=')?;
    let number = || u128::from_str_radix(value, 16).ok();
    let Fpu {
        ymm,
        st,
        mxcsr,
        fcw,
        fsw,
        ftw,
        ..
    } = &mut state.fpu;
    if let Some(i) = GPRS.iter().position(|gpr| *gpr == name) {
        state.gpr[i] = number()? as u64;
    } else if let Some(i) = name.strip_prefix("ymm") {
        let (high, low) = value.split_once(':')?;
        let half = |text| u128::from_str_radix(text, 16).ok();
        *ymm.get_mut(i.parse::<usize>().ok()?)? = [half(low)?, half(high)?];
    } else if let Some(at) = name.strip_prefix('[') {
        let at = usize::from_str_radix(at.strip_suffix(']')?, 16).ok()?;
        let bytes = hex(value)?;
        memory
            .get_mut(at..at.checked_add(bytes.len())?)?
            .copy_from_slice(&bytes);
    } else {
        match name {
            "rip" => *end = End::At(number()? as u64),
            "fault" => {
                let mut parts = value
                    .split(':')
                    .map(|part| u64::from_str_radix(part, 16).ok());
                let mut next = || parts.next().flatten();
                *end = End::Fault {
                    vector: next()? as u8,
                    error: next()? as u32,
                    address: next()?,
                };
            }
            "rflags" => state.rflags = state.rflags & !SEEN_FLAGS | number()? as u64,
            "mxcsr" => *mxcsr = number()? as u32,
            "fcw" => *fcw = number()? as u16,
            "fsw" => *fsw = number()? as u16,
            "ftw" => *ftw = number()? as u8,
            _ => *st.get_mut(name.strip_prefix('r')?.parse::<usize>().ok()?)? = number()?,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_itself() {
        let text = "4801d8 rax=5 rbx=7 ymm2=0:1 r3=ff [10]=000102030405060708090a0b0c0d0e0f -> rip=20000803 rax=c rflags=206 # Add_rm64_r64";
        let (case, outcome) = parse(text).expect("a case");
        assert_eq!(case.state.gpr[3], 7);
        assert_eq!(case.state.fpu.st[3], 0xFF);
        assert_eq!(outcome.state.gpr[0], 12);
        assert_eq!(line(&case, &outcome), text);
    }

    #[test]
    fn what_is_no_case_is_refused() {
        for text in [
            "",
            "zz -> rip=1",
            "90 rax -> rip=1",
            "90 ymm77=0:0 -> rip=1",
            "90 [ffff]=00 -> rip=1",
            "90 rax=1",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
