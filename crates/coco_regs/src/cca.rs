//! What an Arm CCA realm shows its host: the general-purpose registers of the REC run object, by exit reason.
//!
//! The RMM gives the host `exit.gprs` and takes `enter.gprs`; what an entry does not define is zero or ignored. Rows
//! follow the REC exit and entry chapters of the Arm RMM specification 1.0 as the RMM (TF-RMM `runtime/core/exit.c`,
//! `runtime/rmi/run.c`, `runtime/rsi/psci.c`, `runtime/rsi/host_call.c`) and Linux's KVM patches for realms
//! (`arch/arm64/kvm/rme-exit.c`) implement them. Each row names its functions.
//!
//! Left out: the exits that came after 1.0 (stage-2 access permissions 7, devices 8 to 10), whose registers the
//! sources read do not settle.

use core::fmt;

use crate::file::bit_set;
use crate::{RegFile, Window};

/// X0 to X30.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ArmFile(pub [u64; 31]);

/// One of X0 to X30.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArmReg(u8);

bit_set! {
    /// Registers X0 to X30; bit n is Xn.
    ArmSet(u32) of ArmReg, count 31
}

/// Why a REC exited (`exit_reason`, and for a synchronous exit what its ESR says).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecExit {
    /// Reason 0, data abort with a valid syndrome at an unprotected address, write.
    EmulatableWrite,
    /// Reason 0, data abort with a valid syndrome at an unprotected address, read.
    EmulatableRead,
    /// Reason 0, MSR: a system-register write.
    SystemRegisterWrite,
    /// Reason 0, MRS: a system-register read.
    SystemRegisterRead,
    /// Reason 0 otherwise: instruction aborts, data aborts that cannot be emulated, WFx.
    Synchronous,
    /// Reason 1.
    Irq,
    /// Reason 2.
    Fiq,
    /// Reason 3.
    Psci,
    /// Reason 4.
    RipasChange,
    /// Reason 5.
    HostCall,
    /// Reason 6.
    SError,
}

/// One exit, with the registers it shows and takes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecRow {
    pub exit: RecExit,
    /// Defined in `exit.gprs`.
    pub shown: ArmSet,
    /// Consumed from `enter.gprs`.
    pub taken: ArmSet,
    pub source: &'static str,
}

const fn row(exit: RecExit, shown: u32, taken: u32, source: &'static str) -> RecRow {
    RecRow {
        exit,
        shown: ArmSet::from_bits(shown),
        taken: ArmSet::from_bits(taken),
        source,
    }
}

const ALL: u32 = ArmSet::ALL.bits();

impl RecExit {
    /// The rows. Register 0 is the data of an emulated access, whatever the realm's register is.
    #[rustfmt::skip]
    pub const ALL: &'static [RecRow] = &[
        row(RecExit::EmulatableWrite, 1, 0, "RMM handle_data_abort; KVM rec_exit_sync_dabt"),
        row(RecExit::EmulatableRead, 0, 1, "RMM complete_mmio_emulation; KVM rec_exit_sync_dabt"),
        row(RecExit::SystemRegisterWrite, 1, 0, "KVM rec_exit_sys_reg"),
        row(RecExit::SystemRegisterRead, 0, 1, "RMM complete_sysreg_emulation; KVM rec_exit_sys_reg"),
        row(RecExit::Synchronous, 0, 0, "RMM handle_data_abort, handle_instruction_abort"),
        row(RecExit::Irq, 0, 0, "RMM handle_exception_irq_lel; KVM handle_rme_exit"),
        row(RecExit::Fiq, 0, 0, "RMM handle_realm_exit; KVM handle_rme_exit"),
        row(RecExit::Psci, 0xF, 0, "RMM forward_args_to_host (at most four); KVM rec_exit_psci"),
        row(RecExit::RipasChange, 0, 0, "RMM complete_set_ripas; KVM rec_exit_ripas_change"),
        row(RecExit::HostCall, ALL, ALL, "RMM rsi host_call.c; KVM rec_exit_host_call"),
        row(RecExit::SError, 0, 0, "RMM handle_exception_serror_lel"),
    ];

    /// Tells the exit from the words of the run object.
    ///
    /// # Errors
    /// `reason` is none of RMM 1.0.
    pub const fn of(reason: u64, esr: u64) -> Result<RecExit, UnknownReason> {
        const ISV: u64 = 1 << 24;
        const DATA_ABORT_LOWER: u64 = 0x24;
        const SYSTEM_REGISTER: u64 = 0x18;
        Ok(match reason {
            0 => match (esr >> 26) & 0x3F {
                DATA_ABORT_LOWER if esr & ISV != 0 && esr & 1 << 6 != 0 => RecExit::EmulatableWrite,
                DATA_ABORT_LOWER if esr & ISV != 0 => RecExit::EmulatableRead,
                SYSTEM_REGISTER if esr & 1 == 0 => RecExit::SystemRegisterWrite,
                SYSTEM_REGISTER => RecExit::SystemRegisterRead,
                _ => RecExit::Synchronous,
            },
            1 => RecExit::Irq,
            2 => RecExit::Fiq,
            3 => RecExit::Psci,
            4 => RecExit::RipasChange,
            5 => RecExit::HostCall,
            6 => RecExit::SError,
            other => return Err(UnknownReason(other)),
        })
    }

    pub const fn row(self) -> &'static RecRow {
        &Self::ALL[self as usize]
    }

    /// A window on the registers of the run object.
    pub fn window(self, file: &mut ArmFile) -> Window<'_, ArmFile> {
        let row = self.row();
        Window::new(file, row.shown, row.taken)
    }
}

/// An exit reason that RMM 1.0 does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownReason(pub u64);

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "REC exit reason {} is not of RMM 1.0", self.0)
    }
}

impl core::error::Error for UnknownReason {}

impl ArmReg {
    pub const X0: ArmReg = ArmReg(0);

    pub const fn from_index(index: usize) -> Option<ArmReg> {
        if index < 31 {
            Some(ArmReg(index as u8))
        } else {
            None
        }
    }
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ArmReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X{}", self.0)
    }
}
impl fmt::Debug for ArmReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RegFile for ArmFile {
    type Reg = ArmReg;
    type Value = u64;
    type Set = ArmSet;
    #[inline(always)]
    fn read(&self, reg: ArmReg) -> u64 {
        self.0[reg.index()]
    }
    #[inline(always)]
    fn write(&mut self, reg: ArmReg, value: u64) {
        self.0[reg.index()] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_shows_its_row_and_nothing_else() {
        for (n, row) in RecExit::ALL.iter().enumerate() {
            assert_eq!(row.exit as usize, n, "rows stand in the order of the enum");
            let mut file = ArmFile::default();
            let mut window = row.exit.window(&mut file);
            for reg in ArmSet::ALL.iter() {
                assert_eq!(
                    window.get(reg).is_ok(),
                    row.shown.contains(reg),
                    "{row:?} {reg}"
                );
                assert_eq!(
                    window.set(reg, 1).is_ok(),
                    row.taken.contains(reg),
                    "{row:?} {reg}"
                );
            }
        }
    }

    #[test]
    fn a_host_that_reads_x1_of_an_emulated_write_is_caught() {
        let mut file = ArmFile([9; 31]);
        let exit = RecExit::of(0, 0x24 << 26 | 1 << 24 | 1 << 6).unwrap();
        assert_eq!(exit, RecExit::EmulatableWrite);
        let window = exit.window(&mut file);
        assert_eq!(window.get(ArmReg::X0), Ok(9));
        let error = window.get(ArmReg::from_index(1).unwrap()).unwrap_err();
        assert_eq!(error.at.file(), file!());
    }

    #[test]
    fn a_protected_data_abort_shows_nothing() {
        // The RMM clears ISV when the address is protected or the access cannot be emulated.
        let exit = RecExit::of(0, 0x24 << 26 | 1 << 6).unwrap();
        assert_eq!(exit, RecExit::Synchronous);
        assert!(exit.row().shown.is_empty() && exit.row().taken.is_empty());
        assert_eq!(RecExit::of(7, 0), Err(UnknownReason(7)));
    }
}
