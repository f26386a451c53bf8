//! TDVMCALL: what a guest asks of its VMM (GHCI; spec: linux.md 3.3, ghci table).
//!
//! Each sub-function is a file: how it is read from the registers that the guest showed, and how its answer is
//! written into them. A register that the guest hides is neither read nor written: a call that hides what its
//! sub-function needs is refused with INVALID_OPERAND, as far as R10 is shown to say so.

mod call_info;
mod cpuid;
mod event_notify;
mod fatal_error;
mod get_quote;
mod hlt;
mod hypercall;
mod io;
mod map_gpa;
mod mmio;
mod msr;
mod services;

pub use call_info::CallInfo;
pub use fatal_error::FatalError;
pub use map_gpa::MapGpa;
pub use services::{MsrFault, NoServices, Services, serve};

use coco_regs::GprFile;
use x86_arch::{Gpa, Gpr};

use crate::window::Shown;

/// Values of R10 in an answer.
pub mod status {
    pub const SUCCESS: u64 = 0;
    pub const RETRY: u64 = 1;
    pub const INVALID_OPERAND: u64 = 1 << 63;
    pub const GPA_INUSE: u64 = 1 << 63 | 1;
    pub const ALIGN_ERROR: u64 = 1 << 63 | 2;
    pub const SUBFUNC_UNSUPPORTED: u64 = 1 << 63 | 3;
}

/// R11 of a call whose R10 is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubFunction(pub u64);

macro_rules! sub_functions {
    ($($name:ident = $value:literal $text:literal,)*) => {
        impl SubFunction {
            $(pub const $name: SubFunction = SubFunction($value);)*
            /// The GHCI's name.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(SubFunction::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

sub_functions! {
    CPUID = 10 "Instruction.CPUID",
    HLT = 12 "Instruction.HLT",
    IO = 30 "Instruction.IO",
    RDMSR = 31 "Instruction.RDMSR",
    WRMSR = 32 "Instruction.WRMSR",
    MMIO = 48 "RequestMMIO",
    CALL_INFO = 0x10000 "GetTdVmCallInfo",
    MAP_GPA = 0x10001 "MapGPA",
    GET_QUOTE = 0x10002 "GetQuote",
    FATAL_ERROR = 0x10003 "ReportFatalError",
    EVENT_NOTIFY = 0x10004 "SetupEventNotifyInterrupt",
}

impl std::fmt::Display for SubFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "sub-function {:#x}", self.0),
        }
    }
}

/// One TDVMCALL as types; KVM gives its user the same words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Cpuid {
        leaf: u32,
        subleaf: u32,
    },
    /// `blocked`: the guest runs with interrupts off.
    Hlt {
        blocked: bool,
    },
    /// `KVM_EXIT_IO`; `write` is the value of an OUT.
    Io {
        port: u16,
        size: u8,
        write: Option<u32>,
    },
    Rdmsr {
        msr: u32,
    },
    Wrmsr {
        msr: u32,
        value: u64,
    },
    /// `KVM_EXIT_MMIO`; the shared bit of `gpa` is clear.
    Mmio {
        gpa: Gpa,
        size: u8,
        write: Option<u64>,
    },
    /// `KVM_EXIT_HYPERCALL` with `KVM_HC_MAP_GPA_RANGE`.
    MapGpa(MapGpa),
    /// `KVM_EXIT_TDX`; the shared bit of `gpa` is clear.
    GetQuote {
        gpa: Gpa,
        size: u64,
    },
    /// `KVM_EXIT_SYSTEM_EVENT` with `KVM_SYSTEM_EVENT_TDX_FATAL`.
    FatalError(FatalError),
    /// `KVM_EXIT_TDX`.
    EventNotify {
        vector: u8,
    },
    /// `KVM_EXIT_TDX` for leaf 1.
    CallInfo(CallInfo),
    /// R10 is not 0: the hypervisor's own hypercalls.
    Hypercall {
        nr: u64,
        args: [u64; 4],
    },
}

/// A call that is answered without asking anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// R10 of the answer.
    Status(u64),
    /// The call hides this register from the VMM although its sub-function needs it.
    Hidden(Gpr),
}

/// What the answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// R10 alone.
    Status(u64),
    /// R10 = 0 and R11: a value that was read, or where MapGPA goes on.
    Value(u64),
    /// R10 and R11.
    StatusAndValue(u64, u64),
    /// R10 = 0 and R12 to R15: the four registers of CPUID, or R11 to R14 of GetTdVmCallInfo.
    Cpuid([u32; 4]),
    CallInfo([u64; 4]),
    /// The result of a hypercall in R10.
    Hypercall(u64),
}

/// What the guest asks for, read through the registers it shows.
pub fn read(shown: &Shown<'_>, shared_bit: u64) -> Result<Request, Refusal> {
    if shown.arg(Gpr::R10)? != 0 {
        return hypercall::read(shown);
    }
    match SubFunction(shown.arg(Gpr::R11)?) {
        SubFunction::CPUID => cpuid::read(shown),
        SubFunction::HLT => hlt::read(shown),
        SubFunction::IO => io::read(shown),
        SubFunction::RDMSR => msr::read_rdmsr(shown),
        SubFunction::WRMSR => msr::read_wrmsr(shown),
        SubFunction::MMIO => mmio::read(shown, shared_bit),
        SubFunction::CALL_INFO => call_info::read(shown),
        SubFunction::MAP_GPA => map_gpa::read(shown, shared_bit),
        SubFunction::GET_QUOTE => get_quote::read(shown, shared_bit),
        SubFunction::FATAL_ERROR => fatal_error::read(shown),
        SubFunction::EVENT_NOTIFY => event_notify::read(shown),
        _ => Err(Refusal::Status(status::SUBFUNC_UNSUPPORTED)),
    }
}

/// Writes an answer into the registers that the guest shows; what it hides it never learns.
pub fn write(shown: &mut Shown<'_>, answer: Answer) {
    let (status, value) = match answer {
        Answer::Status(status) | Answer::Hypercall(status) => (status, None),
        Answer::Value(value) => (status::SUCCESS, Some(value)),
        Answer::StatusAndValue(status, value) => (status, Some(value)),
        Answer::Cpuid(values) => {
            cpuid::write(shown, values);
            (status::SUCCESS, None)
        }
        Answer::CallInfo(words) => {
            call_info::write(shown, words);
            (status::SUCCESS, None)
        }
    };
    shown.put(Gpr::R10, status);
    if let Some(value) = value {
        shown.put(Gpr::R11, value);
    }
}

impl Refusal {
    /// How the call ends for the guest.
    pub fn answer(self) -> Answer {
        match self {
            Refusal::Status(status) => Answer::Status(status),
            Refusal::Hidden(_) => Answer::Status(status::INVALID_OPERAND),
        }
    }
}

/// The sub-function of a call for counting and tracing: 0 for a hypercall or where R10 or R11 are hidden.
pub(crate) fn sub_function(gprs: &GprFile, mask: u32) -> SubFunction {
    let shows = |reg: Gpr| mask & 1 << reg as u32 != 0;
    match shows(Gpr::R10) && shows(Gpr::R11) && gprs[Gpr::R10] == 0 {
        true => SubFunction(gprs[Gpr::R11]),
        false => SubFunction(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux's mask: RDX, RBX, RSI, RDI, R8 to R15.
    const LINUX: u32 = 0xFFCC;
    const SHARED: u64 = 1 << 47;

    fn file(r10_to_r15: [u64; 6]) -> GprFile {
        let mut gprs = GprFile::default();
        gprs.0[10..].copy_from_slice(&r10_to_r15);
        gprs
    }

    fn ask(r11_to_r15: [u64; 5]) -> Result<Request, Refusal> {
        let [r11, r12, r13, r14, r15] = r11_to_r15;
        let mut gprs = file([0, r11, r12, r13, r14, r15]);
        read(&Shown::new(&mut gprs, LINUX), SHARED)
    }

    #[test]
    fn every_sub_function_reads_its_registers() {
        let gpa = Gpa::new;
        let map = |gpa, size, to_shared| {
            Request::MapGpa(MapGpa {
                gpa,
                size,
                to_shared,
            })
        };
        let table = [
            (
                [10, 0x4000_0000, 7, 0, 0],
                Request::Cpuid {
                    leaf: 0x4000_0000,
                    subleaf: 7,
                },
            ),
            ([12, 1, 0, 0, 0], Request::Hlt { blocked: true }),
            (
                [30, 1, 1, 0x3F8, 0x141],
                Request::Io {
                    port: 0x3F8,
                    size: 1,
                    write: Some(0x41),
                },
            ),
            (
                [30, 4, 0, 0xCFC, 0],
                Request::Io {
                    port: 0xCFC,
                    size: 4,
                    write: None,
                },
            ),
            ([31, 0x1B, 0, 0, 0], Request::Rdmsr { msr: 0x1B }),
            (
                [32, 0x830, 9, 0, 0],
                Request::Wrmsr {
                    msr: 0x830,
                    value: 9,
                },
            ),
            (
                [48, 8, 1, SHARED | 0xFEE0_0FF8, u64::MAX],
                Request::Mmio {
                    gpa: gpa(0xFEE0_0FF8),
                    size: 8,
                    write: Some(u64::MAX),
                },
            ),
            ([0x10000, 1, 0, 0, 0], Request::CallInfo(CallInfo::Optional)),
            (
                [0x10001, SHARED | 0x1000, 0x2000, 0, 0],
                map(gpa(0x1000), 0x2000, true),
            ),
            (
                [0x10001, 0x1000, 0x2000, 0, 0],
                map(gpa(0x1000), 0x2000, false),
            ),
            (
                [0x10002, SHARED, 0x1000, 0, 0],
                Request::GetQuote {
                    gpa: gpa(0),
                    size: 0x1000,
                },
            ),
            (
                [0x10004, 0x20, 0, 0, 0],
                Request::EventNotify { vector: 0x20 },
            ),
        ];
        for (regs, wanted) in table {
            assert_eq!(ask(regs), Ok(wanted), "{regs:x?}");
        }
    }

    #[test]
    fn wrong_operands_are_refused_as_kvm_refuses_them() {
        use status::{ALIGN_ERROR, INVALID_OPERAND, SUBFUNC_UNSUPPORTED};
        let table = [
            ([0, 0, 0, 0, 0], SUBFUNC_UNSUPPORTED),
            ([54, 0, 0, 0, 0], SUBFUNC_UNSUPPORTED),
            ([0x10005, 0, 0, 0, 0], SUBFUNC_UNSUPPORTED),
            ([30, 3, 0, 0x80, 0], INVALID_OPERAND),
            ([30, 8, 0, 0x80, 0], INVALID_OPERAND),
            ([30, 1, 2, 0x80, 0], INVALID_OPERAND),
            ([30, 1, 0, 0x10000, 0], INVALID_OPERAND),
            ([31, 1 << 32, 0, 0, 0], INVALID_OPERAND),
            ([48, 10, 0, SHARED, 0], INVALID_OPERAND),
            ([48, 4, 0, SHARED | 0xFFD, 0], INVALID_OPERAND),
            ([48, 4, 0, 0x1000, 0], INVALID_OPERAND),
            ([48, 4, 0, SHARED | SHARED << 1, 0], INVALID_OPERAND),
            ([0x10000, 2, 0, 0, 0], INVALID_OPERAND),
            ([0x10001, 0x1001, 0x1000, 0, 0], ALIGN_ERROR),
            ([0x10001, 0x1000, 0x1001, 0, 0], ALIGN_ERROR),
            ([0x10001, 0x1000, 0, 0, 0], INVALID_OPERAND),
            ([0x10001, SHARED - 0x1000, 0x2000, 0, 0], INVALID_OPERAND),
            ([0x10001, !0xFFF, 0x2000, 0, 0], INVALID_OPERAND),
            ([0x10002, 0x1000, 0x1000, 0, 0], INVALID_OPERAND),
            ([0x10002, SHARED | 0x800, 0x1000, 0, 0], ALIGN_ERROR),
            ([0x10004, 31, 0, 0, 0], INVALID_OPERAND),
            ([0x10004, 256, 0, 0, 0], INVALID_OPERAND),
        ];
        for (regs, wanted) in table {
            assert_eq!(ask(regs), Err(Refusal::Status(wanted)), "{regs:x?}");
        }
    }

    #[test]
    fn a_register_that_is_not_shown_is_neither_read_nor_written() {
        let mut gprs = file([0, 30, 1, 1, 0x3F8, 0x41]);
        let hides_r15 = LINUX & !(1 << 15);
        let read_r15 = read(&Shown::new(&mut gprs, hides_r15), SHARED);
        assert_eq!(read_r15, Err(Refusal::Hidden(Gpr::R15)));
        assert_eq!(
            read(&Shown::new(&mut gprs, 0), SHARED),
            Err(Refusal::Hidden(Gpr::R10))
        );
        let before = gprs;
        write(
            &mut Shown::new(&mut gprs, 1 << 11),
            Answer::StatusAndValue(5, 6),
        );
        assert_eq!(gprs[Gpr::R11], 6);
        assert_eq!(gprs[Gpr::R10], before[Gpr::R10]);
        write(
            &mut Shown::new(&mut gprs, LINUX),
            Answer::Cpuid([1, 2, 3, 4]),
        );
        assert_eq!(gprs.0[10..], [0, 6, 1, 2, 3, 4]);
    }

    #[test]
    fn last_words_are_readable_whatever_their_bytes() {
        let mut gprs = file([0, 0x10003, 1, 0, u64::from_le_bytes(*b"Unsup\x07or"), 0]);
        gprs[Gpr::R15] = u64::from_le_bytes(*b"ted\0abcd");
        let shown = Shown::new(&mut gprs, LINUX);
        let Ok(Request::FatalError(report)) = read(&shown, SHARED) else {
            panic!("not read");
        };
        assert_eq!(report.text(), "Unsup.orted");
        assert_eq!(
            report.to_string(),
            "guest reports a fatal error, code 0x1: Unsup.orted"
        );
    }

    #[test]
    fn a_long_conversion_is_split_without_losing_a_page() {
        let mut rest = Some(MapGpa {
            gpa: Gpa::new(0x1000),
            size: 2 * MapGpa::PIECE + 0x3000,
            to_shared: true,
        });
        let (mut at, mut pieces) = (0x1000, 0);
        while let Some(wish) = rest {
            let (piece, next) = wish.split();
            assert_eq!(piece.gpa.raw(), at);
            at += piece.size;
            pieces += 1;
            rest = next;
        }
        assert_eq!((at, pieces), (0x1000 + 2 * MapGpa::PIECE + 0x3000, 3));
    }
}
