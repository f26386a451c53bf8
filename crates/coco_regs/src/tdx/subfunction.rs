//! What a TDVMCALL must show for its VMM to serve it, sub-function by sub-function.
//!
//! A VMM that reads R10 to R15 without looking at the mask takes a hidden register for 0, and loses every result it
//! writes to one. [`Request::of`] looks first.

use core::fmt;

use tdx_abi::{VmcallFunction, VmcallRow, VmcallStatus};
use x86_arch::Gpr;

use super::Tdvmcall;
use crate::GprSet;

/// What the guest asks for, once the mask was found to show enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// R10 is 0: a sub-function of [`tdx_abi::VMCALLS`].
    SubFunction(&'static VmcallRow),
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
        function: &'static VmcallRow,
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
        let Some(function) = VmcallFunction(r11).row() else {
            return Ok(Request::Unknown(r11));
        };
        let r12 = call.gprs.get(Gpr::R12).unwrap_or(0);
        let r13 = call.gprs.get(Gpr::R13).unwrap_or(0);
        let hidden = needed(function, r12, r13).without(shown);
        if hidden.is_empty() {
            Ok(Request::SubFunction(function))
        } else {
            Err(Malformed::Hidden { function, hidden })
        }
    }
}

/// The registers of a sub-function, where its arguments decide.
fn needed(row: &VmcallRow, r12: u64, r13: u64) -> GprSet {
    let all = GprSet::from_bits(row.needed().0 as u16);
    let unused = match VmcallFunction(row.number) {
        // The data of a write.
        VmcallFunction::IO | VmcallFunction::MMIO if r13 != 1 => GprSet::of(&[Gpr::R15]),
        // Text may come in registers or, with bit 63 of R12, from R13's address.
        VmcallFunction::REPORT_FATAL_ERROR if r12 >> 63 == 0 => all.without(BASE),
        VmcallFunction::REPORT_FATAL_ERROR => all.without(BASE.union(GprSet::of(&[Gpr::R13]))),
        // WaitForRequest; ReportStatus takes all; Send and Receive.
        VmcallFunction::MIG_TD if r12 as u16 == 1 => GprSet::of(&[Gpr::Rbx, Gpr::Rdi]),
        VmcallFunction::MIG_TD if r12 as u16 != 2 => GprSet::of(&[Gpr::Rdi]),
        _ => GprSet::NONE,
    };
    all.without(unused)
}

const BASE: GprSet = GprSet::of(&[Gpr::R10, Gpr::R11, Gpr::R12]);

impl Malformed {
    /// Writes INVALID_OPERAND to R10, if the guest takes R10 back; false if it cannot be told.
    pub fn answer(self, call: &mut Tdvmcall<'_>) -> bool {
        call.gprs
            .set(Gpr::R10, VmcallStatus::INVALID_OPERAND.0)
            .is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Exit, ExitWords, GprFile};
    use tdx_abi::{Status, VMCALLS};

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

    fn request(r11: u64, r12: u64, r13: u64) -> GprFile {
        let mut file = GprFile::default();
        file[Gpr::R11] = r11;
        file[Gpr::R12] = r12;
        file[Gpr::R13] = r13;
        file
    }

    #[test]
    fn each_function_is_served_with_its_registers_and_refused_without_any_one_of_them() {
        for function in VMCALLS {
            for (r12, r13) in [(0, 0), (1, 1), (2, 1), (3, 0), (1 << 63, 0)] {
                let needed = needed(function, r12, r13);
                assert!(needed.contains(Gpr::R10) && needed.contains(Gpr::R12));
                let mut file = request(function.number, r12, r13);
                let full = call(needed.bits().into(), &mut file);
                assert_eq!(Request::of(&full), Ok(Request::SubFunction(function)));
                for reg in needed.iter() {
                    let mask = needed.without(GprSet::of(&[reg]));
                    let mut file = request(function.number, r12, r13);
                    let mut short = call(mask.bits().into(), &mut file);
                    match Request::of(&short) {
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
    fn only_a_write_needs_its_data_and_only_a_long_text_its_address() {
        let mask =
            |number, r12, r13| needed(VmcallFunction(number).row().unwrap(), r12, r13).bits();
        assert_eq!((mask(0x1E, 4, 0), mask(0x1E, 4, 1)), (0x7C00, 0xFC00));
        assert_eq!((mask(0x30, 8, 0), mask(0x30, 8, 1)), (0x7C00, 0xFC00));
        assert_eq!(
            (mask(0x1_0003, 0, 0), mask(0x1_0003, 1 << 63, 0)),
            (0x1C00, 0x3C00)
        );
        assert_eq!((mask(0x1F, 0, 0), mask(0x20, 0, 0)), (0x1C00, 0x3C00));
    }

    #[test]
    fn a_refusal_reaches_the_guest_in_r10() {
        let mut file = request(0x1F, 0, 0);
        let mut short = call(0xC00, &mut file);
        let error = Request::of(&short).unwrap_err();
        assert!(error.answer(&mut short));
        assert_eq!(file[Gpr::R10], VmcallStatus::INVALID_OPERAND.0);
    }

    #[test]
    fn the_masks_of_real_guests_are_enough() {
        // openvmm: RDMSR 0x1c00, WRMSR 0x3c00; td-shim: 0xFC00; Linux and OVMF: 0xFFCC for everything.
        for (number, mask) in [(0x1F, 0x1C00), (0x20, 0x3C00)] {
            let mut file = request(number, 0, 0);
            assert!(Request::of(&call(mask, &mut file)).is_ok());
        }
        for function in VMCALLS {
            let mut file = request(function.number, 0, 1);
            assert!(Request::of(&call(0xFFCC, &mut file)).is_ok());
            if function.number != 0x1_0006 {
                assert!(Request::of(&call(0xFC00, &mut file)).is_ok());
            }
        }
    }

    #[test]
    fn vendor_calls_and_unknown_numbers_are_told_apart() {
        let mut file = request(5, 0, 0);
        assert_eq!(
            Request::of(&call(0xC00, &mut file)),
            Ok(Request::Unknown(5))
        );
        file[Gpr::R10] = 9;
        assert_eq!(Request::of(&call(0xC00, &mut file)), Ok(Request::Vendor(9)));
    }
}
