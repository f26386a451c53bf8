//! What a TDVMCALL must show for its VMM to serve it, sub-function by sub-function.
//!
//! A VMM that reads R10 to R15 without looking at the mask takes a hidden register for 0, and loses every result it
//! writes to one. [`Request::of`] looks first.

use core::fmt;

use x86_arch::Gpr;

use super::Tdvmcall;
use crate::GprSet;

const R8_TO_R15: GprSet = GprSet::from_bits(0xFF00);

/// One row: a sub-function (R11 while R10 is 0) and its registers beside R10 and R11.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubFunction {
    pub number: u64,
    pub name: &'static str,
    /// Arguments; those that only a write passes are in `write_data`.
    pub inputs: GprSet,
    /// Shown only when R13 says "write".
    pub write_data: GprSet,
    /// Results beside the status in R10.
    pub outputs: GprSet,
}

const fn row(number: u64, name: &'static str, inputs: &[Gpr], outputs: &[Gpr]) -> SubFunction {
    SubFunction {
        number,
        name,
        inputs: GprSet::of(inputs),
        write_data: GprSet::NONE,
        outputs: GprSet::of(outputs),
    }
}

const fn read_write(number: u64, name: &'static str) -> SubFunction {
    SubFunction {
        number,
        name,
        inputs: GprSet::of(&[Gpr::R12, Gpr::R13, Gpr::R14]),
        write_data: GprSet::of(&[Gpr::R15]),
        outputs: GprSet::of(&[Gpr::R11]),
    }
}

impl SubFunction {
    /// The rows, by number. `Service` and the four functions of `MigTD` take their arguments through memory and R12
    /// to R15; MigTD's ReportStatus, Send and Receive also take RBX or RDI, which depends on R12 and is left to them.
    pub const ALL: &'static [SubFunction] = &[
        row(
            0xA,
            "Instruction.CPUID",
            &[Gpr::R12, Gpr::R13],
            &[Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15],
        ),
        row(0xC, "Instruction.HLT", &[Gpr::R12], &[]),
        read_write(0x1E, "Instruction.IO"),
        row(0x1F, "Instruction.RDMSR", &[Gpr::R12], &[Gpr::R11]),
        row(0x20, "Instruction.WRMSR", &[Gpr::R12, Gpr::R13], &[]),
        read_write(0x30, "RequestMMIO"),
        row(
            0x1_0000,
            "GetTdVmCallInfo",
            &[Gpr::R12],
            &[Gpr::R11, Gpr::R12, Gpr::R13, Gpr::R14],
        ),
        row(0x1_0001, "MapGPA", &[Gpr::R12, Gpr::R13], &[Gpr::R11]),
        row(0x1_0002, "GetQuote", &[Gpr::R12, Gpr::R13], &[]),
        row(0x1_0003, "ReportFatalError", &[Gpr::R12], &[]),
        row(0x1_0004, "SetupEventNotifyInterrupt", &[Gpr::R12], &[]),
        row(
            0x1_0005,
            "Service",
            &[Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15],
            &[],
        ),
        row(
            0x1_0006,
            "MigTD",
            &[Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15],
            &[],
        ),
    ];

    pub fn find(number: u64) -> Option<&'static SubFunction> {
        Self::ALL.iter().find(|row| row.number == number)
    }
}

/// What the guest asks for, once the mask was found to show enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// R10 is 0: a sub-function of the table.
    SubFunction(&'static SubFunction),
    /// R10 is 0, and R11 is no number of the table.
    Unknown(u64),
    /// R10 is not 0: a hypercall of the hypervisor's own, whose registers this table does not know.
    Vendor(u64),
}

/// The mask hides what the request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// R10 or R11 is hidden: nobody knows what is asked. A status can be given only if R10 is shown; else the guest
    /// goes on with its own R10, which it may take for a success. Answer with [`Malformed::answer`], or end the TD.
    NoFunction { hidden: GprSet },
    /// The function is known, and these registers of it are hidden.
    Hidden {
        function: &'static SubFunction,
        hidden: GprSet,
    },
}

impl Request {
    /// Reads R10 and R11 and checks that the mask shows every register of the request, results too.
    pub fn of(call: &Tdvmcall<'_>) -> Result<Request, Malformed> {
        let shown = call.mask.gprs();
        let (Ok(r10), Ok(r11)) = (call.gprs.get(Gpr::R10), call.gprs.get(Gpr::R11)) else {
            return Err(Malformed::NoFunction {
                hidden: GprSet::of(&[Gpr::R10, Gpr::R11]).without(shown),
            });
        };
        if r10 != 0 {
            return Ok(Request::Vendor(r10));
        }
        let Some(function) = SubFunction::find(r11) else {
            return Ok(Request::Unknown(r11));
        };
        let mut needed = function.inputs.union(function.outputs);
        if call.gprs.get(Gpr::R13) == Ok(1) {
            needed = needed.union(function.write_data);
        }
        let hidden = needed.without(shown);
        if hidden.is_empty() {
            Ok(Request::SubFunction(function))
        } else {
            Err(Malformed::Hidden { function, hidden })
        }
    }
}

impl Malformed {
    /// GHCI status INVALID_OPERAND.
    pub const INVALID_OPERAND: u64 = 0x8000_0000_0000_0000;

    /// Writes INVALID_OPERAND to R10, if the guest takes R10 back; false if it cannot be told.
    pub fn answer(self, call: &mut Tdvmcall<'_>) -> bool {
        call.gprs.set(Gpr::R10, Self::INVALID_OPERAND).is_ok()
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::NoFunction { hidden } => {
                write!(f, "TDVMCALL without a function: the guest hides {hidden}")
            }
            Malformed::Hidden { function, hidden } => {
                write!(f, "TDVMCALL {}: the guest hides {hidden}", function.name)
            }
        }
    }
}

impl core::error::Error for Malformed {}

const _: () = {
    // R10 and R11 aside, every register of the table is one of R8 to R15.
    let mut n = 0;
    while n < SubFunction::ALL.len() {
        let row = &SubFunction::ALL[n];
        assert!(R8_TO_R15.contains_all(row.inputs.union(row.outputs).union(row.write_data)));
        n += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Exit, ExitWords, GprFile};
    use tdx_abi::Status;

    fn call(mask: u64, file: &mut GprFile) -> Tdvmcall<'_> {
        let words = ExitWords {
            rax: Status(77),
            rcx: mask,
            ..Default::default()
        };
        match Exit::new(words, file, None) {
            Exit::Tdvmcall(call) => call,
            other => panic!("{other:?}"),
        }
    }

    fn request(r11: u64, r13: u64) -> GprFile {
        let mut file = GprFile::default();
        file[Gpr::R11] = r11;
        file[Gpr::R13] = r13;
        file
    }

    #[test]
    fn each_function_is_served_with_its_registers_and_refused_without_any_one_of_them() {
        for function in SubFunction::ALL {
            for write in [0, 1] {
                let mut needed = GprSet::of(&[Gpr::R10, Gpr::R11]);
                needed = needed.union(function.inputs).union(function.outputs);
                // Where R13 is no direction, a 1 in it changes nothing.
                if write == 1 && needed.contains(Gpr::R13) {
                    needed = needed.union(function.write_data);
                }
                let mut file = request(function.number, write);
                let full = call(needed.bits().into(), &mut file);
                assert_eq!(Request::of(&full), Ok(Request::SubFunction(function)));
                for reg in needed.iter() {
                    let mask = needed.without(GprSet::of(&[reg]));
                    let mut file = request(function.number, write);
                    let mut short = call(mask.bits().into(), &mut file);
                    match Request::of(&short) {
                        // With the direction hidden, only the direction is known to be missing.
                        Err(Malformed::Hidden { hidden, .. }) => assert!(hidden.contains(reg)),
                        Err(Malformed::NoFunction { hidden }) => {
                            assert_eq!(hidden, GprSet::of(&[reg]));
                            let told = Malformed::NoFunction { hidden }.answer(&mut short);
                            assert_eq!(told, reg != Gpr::R10);
                        }
                        Ok(request) => panic!("{request:?} without {reg}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_refusal_reaches_the_guest_in_r10() {
        let mut file = request(0x1F, 0);
        let mut short = call(0xC00, &mut file);
        let error = Request::of(&short).unwrap_err();
        assert!(error.answer(&mut short));
        assert_eq!(file[Gpr::R10], Malformed::INVALID_OPERAND);
    }

    #[test]
    fn the_masks_of_real_guests_are_enough() {
        // openvmm: RDMSR 0x1c00, WRMSR 0x3c00; Linux: 0xFFCC for everything.
        for (number, mask) in [(0x1F, 0x1C00), (0x20, 0x3C00)] {
            let mut file = request(number, 0);
            assert!(Request::of(&call(mask, &mut file)).is_ok());
        }
        for function in SubFunction::ALL {
            let mut file = request(function.number, 1);
            assert!(Request::of(&call(0xFFCC, &mut file)).is_ok());
        }
    }

    #[test]
    fn vendor_calls_and_unknown_numbers_are_told_apart() {
        let mut file = request(5, 0);
        assert_eq!(
            Request::of(&call(0xC00, &mut file)),
            Ok(Request::Unknown(5))
        );
        file[Gpr::R10] = 9;
        assert_eq!(Request::of(&call(0xC00, &mut file)), Ok(Request::Vendor(9)));
    }
}
