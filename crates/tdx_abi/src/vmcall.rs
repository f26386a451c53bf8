//! TDG.VP.VMCALL as host and guest use it: the mask in RCX, and the sub-functions of the guest-host
//! communication interface with the registers each one needs.

use core::fmt;

use x86_arch::Gpr;

use crate::layout::{named_bits_display, word, word_type};

word! {
    /// RCX of TDG.VP.VMCALL: which registers cross to the VMM and back.
    TdvmcallControl: u64 {
        /// Bit n: the GPR of x86 encoding n.
        15..0 GPR_SELECT gpr_select with_gpr_select,
        /// Bit n: XMMn.
        31..16 XMM_SELECT xmm_select with_xmm_select,
    }
}

impl TdvmcallControl {
    /// GPRs that can never be selected: RAX, RCX, RSP.
    pub const NEVER: u64 = 1 << Gpr::Rax as u32 | 1 << Gpr::Rcx as u32 | 1 << Gpr::Rsp as u32;
    /// RBP, which CONFIG_FLAGS.NO_RBP_MOD forbids.
    pub const RBP: u64 = 1 << Gpr::Rbp as u32;

    /// Whether the module accepts the mask.
    pub const fn is_legal(self, no_rbp_mod: bool) -> bool {
        let forbidden = if no_rbp_mod {
            Self::NEVER | Self::RBP
        } else {
            Self::NEVER
        };
        self.unnamed() == 0 && self.0 & forbidden == 0
    }
    /// Whether a GPR crosses.
    pub const fn selects(self, gpr: Gpr) -> bool {
        self.0 >> gpr.index() & 1 != 0
    }
    /// Whether XMM`n` crosses.
    pub const fn selects_xmm(self, n: usize) -> bool {
        n < 16 && self.0 >> (16 + n) & 1 != 0
    }
    /// The mask that selects `gprs`.
    pub const fn of(gprs: &[Gpr]) -> TdvmcallControl {
        let mut mask = 0;
        let mut i = 0;
        while i < gprs.len() {
            mask |= 1 << gprs[i].index();
            i += 1;
        }
        TdvmcallControl(mask)
    }
    /// A human reading, such as `R10 R11 R12 XMM0`.
    pub const fn registers(self) -> RegisterList {
        RegisterList(self)
    }
}

/// [`TdvmcallControl::registers`].
#[derive(Clone, Copy, Debug)]
pub struct RegisterList(TdvmcallControl);

impl fmt::Display for RegisterList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for gpr in Gpr::ALL.into_iter().filter(|gpr| self.0.selects(*gpr)) {
            write!(f, "{separator}{gpr}")?;
            separator = " ";
        }
        for n in (0..16).filter(|n| self.0.selects_xmm(*n)) {
            write!(f, "{separator}XMM{n}")?;
            separator = " ";
        }
        if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// R10 that the VMM answers a TDG.VP.VMCALL with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct VmcallStatus(pub u64);

impl VmcallStatus {
    pub const SUCCESS: VmcallStatus = VmcallStatus(0);
    /// Call again, from where R11 says.
    pub const RETRY: VmcallStatus = VmcallStatus(1);
    pub const INVALID_OPERAND: VmcallStatus = VmcallStatus(0x8000_0000_0000_0000);
    pub const GPA_INUSE: VmcallStatus = VmcallStatus(0x8000_0000_0000_0001);
    pub const ALIGN_ERROR: VmcallStatus = VmcallStatus(0x8000_0000_0000_0002);
    pub const SUBFUNC_UNSUPPORTED: VmcallStatus = VmcallStatus(0x8000_0000_0000_0003);

    pub const ALL: &'static [(VmcallStatus, &'static str)] = &[
        (VmcallStatus::SUCCESS, "SUCCESS"),
        (VmcallStatus::RETRY, "RETRY"),
        (VmcallStatus::INVALID_OPERAND, "INVALID_OPERAND"),
        (VmcallStatus::GPA_INUSE, "GPA_INUSE"),
        (VmcallStatus::ALIGN_ERROR, "ALIGN_ERROR"),
        (VmcallStatus::SUBFUNC_UNSUPPORTED, "SUBFUNC_UNSUPPORTED"),
    ];

    /// The interface's name.
    pub fn name(self) -> Option<&'static str> {
        Self::ALL
            .iter()
            .find(|(status, _)| *status == self)
            .map(|(_, name)| *name)
    }
}

impl fmt::Display for VmcallStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// A register of a sub-function and what it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmcallOperand {
    pub gpr: Gpr,
    pub meaning: &'static str,
}

/// One sub-function of TDG.VP.VMCALL, called with R10 = 0 and R11 = `number`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmcallRow {
    pub number: u64,
    pub name: &'static str,
    /// Registers that the guest must show, beside R10 and R11.
    pub inputs: &'static [VmcallOperand],
    /// Registers that the VMM answers in, beside R10, which is always the [`VmcallStatus`].
    pub outputs: &'static [VmcallOperand],
}

impl VmcallRow {
    /// The mask with which the sub-function can be served: R10, R11, its inputs and its outputs.
    pub const fn needed(&self) -> TdvmcallControl {
        let mut mask = 1 << Gpr::R10 as u32 | 1 << Gpr::R11 as u32;
        let mut i = 0;
        while i < self.inputs.len() {
            mask |= 1 << self.inputs[i].gpr.index();
            i += 1;
        }
        let mut i = 0;
        while i < self.outputs.len() {
            mask |= 1 << self.outputs[i].gpr.index();
            i += 1;
        }
        TdvmcallControl(mask)
    }
}

/// A sub-function number (R11). Open: guests may call what this crate does not name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct VmcallFunction(pub u64);

impl VmcallFunction {
    /// The sub-function's row.
    pub fn row(self) -> Option<&'static VmcallRow> {
        VMCALLS.iter().find(|row| row.number == self.0)
    }
}

impl fmt::Display for VmcallFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.pad(row.name),
            None => write!(f, "sub-function {:#x}", self.0),
        }
    }
}

macro_rules! vmcalls {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal
        ($($in:ident $in_meaning:literal),*) -> ($($out:ident $out_meaning:literal),*);)*) => {
        impl VmcallFunction {
            $($(#[$doc])* pub const $name: VmcallFunction = VmcallFunction($number);)*
        }

        /// Every sub-function, in the interface's order.
        pub const VMCALLS: &[VmcallRow] = &[$(VmcallRow {
            number: $number,
            name: $text,
            inputs: &[$(VmcallOperand { gpr: Gpr::$in, meaning: $in_meaning },)*],
            outputs: &[$(VmcallOperand { gpr: Gpr::$out, meaning: $out_meaning },)*],
        },)*];
    };
}

vmcalls! {
    /// Which optional sub-functions the VMM has.
    GET_TD_VM_CALL_INFO = 0x1_0000 "GetTdVmCallInfo"
        (R12 "0: the base set, 1: optional sub-functions")
        -> (R11 "leaf 1: bit 0 GetQuote, bit 1 SetupEventNotifyInterrupt", R12 "0", R13 "0", R14 "0");
    /// Make a range of guest memory shared or private.
    MAP_GPA = 0x1_0001 "MapGPA"
        (R12 "first GPA; its SHARED bit says what the range becomes", R13 "bytes, a multiple of 4096")
        -> (R11 "RETRY or an error: the GPA to go on from");
    /// Turn a TDREPORT into a quote.
    GET_QUOTE = 0x1_0002 "GetQuote"
        (R12 "shared GPA of the buffer", R13 "bytes") -> ();
    /// The guest gives up.
    REPORT_FATAL_ERROR = 0x1_0003 "ReportFatalError"
        (R12 "bits 31:0 error code, bit 63: R13 is valid", R13 "shared GPA of a text",
         R14 "text", R15 "text", Rbx "text", Rdi "text", Rsi "text", R8 "text", R9 "text", Rdx "text") -> ();
    /// The vector for the VMM's notifications.
    SETUP_EVENT_NOTIFY_INTERRUPT = 0x1_0004 "SetupEventNotifyInterrupt"
        (R12 "vector, 32 to 255") -> ();
    /// A service by GUID.
    SERVICE = 0x1_0005 "Service"
        (R12 "shared GPA of the command", R13 "shared GPA of the response", R14 "vector or 0", R15 "time to wait") -> ();
    /// Migration TD.
    MIG_TD = 0x1_0006 "MigTD"
        (R12 "bits 15:0 function, 23:16 version", R13 "by function", R14 "by function", R15 "by function",
         Rbx "by function", Rdi "by function") -> ();
    CPUID = 0xa "Instruction.CPUID"
        (R12 "EAX", R13 "ECX") -> (R12 "EAX", R13 "EBX", R14 "ECX", R15 "EDX");
    HLT = 0xc "Instruction.HLT"
        (R12 "1 if interrupts are blocked") -> ();
    IO = 0x1e "Instruction.IO"
        (R12 "bytes: 1, 2 or 4", R13 "0 read, 1 write", R14 "port", R15 "data of a write") -> (R11 "data of a read");
    RDMSR = 0x1f "Instruction.RDMSR"
        (R12 "MSR") -> (R11 "value");
    WRMSR = 0x20 "Instruction.WRMSR"
        (R12 "MSR", R13 "value") -> ();
    MMIO = 0x30 "RequestMMIO"
        (R12 "bytes: 1, 2, 4 or 8", R13 "0 read, 1 write", R14 "shared GPA", R15 "data of a write") -> (R11 "data of a read");
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_mask_names_its_registers() {
        assert_eq!(
            TdvmcallControl(0x1_1C00).registers().to_string(),
            "R10 R11 R12 XMM0"
        );
        assert_eq!(TdvmcallControl(0).registers().to_string(), "none");
    }

    #[test]
    fn rax_rcx_rsp_and_reserved_bits_are_never_legal_and_rbp_only_without_no_rbp_mod() {
        for bit in 0..64 {
            let mask = TdvmcallControl(1 << bit);
            let never = matches!(bit, 0 | 1 | 4 | 32..);
            assert_eq!(mask.is_legal(false), !never, "bit {bit}");
            assert_eq!(mask.is_legal(true), !never && bit != 5, "bit {bit}");
        }
    }

    #[test]
    fn openvmm_s_masks_are_exactly_what_the_msr_calls_need() {
        assert_eq!(
            VmcallFunction::RDMSR.row().unwrap().needed(),
            TdvmcallControl(0x1C00)
        );
        assert_eq!(
            VmcallFunction::WRMSR.row().unwrap().needed(),
            TdvmcallControl(0x3C00)
        );
    }
}
