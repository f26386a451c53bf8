//! RCX of TDG.VP.VMCALL: the registers that a guest shows.

use core::fmt;

use tdx_abi::TdvmcallControl;
use x86_arch::Gpr;

use crate::{GprSet, XmmSet};

/// A legal mask: bits 15:0 select general-purpose registers, 31:16 XMM registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TdvmcallMask(u32);

/// The module answers OPERAND_INVALID with operand RCX to the guest, and no exit happens (spec: vp-enter.md 12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IllegalMask(pub u64);

impl TdvmcallMask {
    /// RAX, RCX and RSP never cross.
    pub const NEVER: GprSet = GprSet::of(&[Gpr::Rax, Gpr::Rcx, Gpr::Rsp]);

    /// The guest's RCX as the module checks it; RBP is legal only in a TD without NO_RBP_MOD.
    pub const fn parse(rcx: u64, no_rbp_mod: bool) -> Result<TdvmcallMask, IllegalMask> {
        if !TdvmcallControl(rcx).is_legal(no_rbp_mod) {
            return Err(IllegalMask(rcx));
        }
        Ok(TdvmcallMask(rcx as u32))
    }

    /// RCX of a TDVMCALL exit as the VMM receives it; bits that no module passes are dropped.
    pub const fn of_exit(rcx: u64) -> TdvmcallMask {
        TdvmcallMask(rcx as u32 & !(Self::NEVER.bits() as u32))
    }

    pub const fn bits(self) -> u32 {
        self.0
    }
    pub const fn gprs(self) -> GprSet {
        GprSet::from_bits(self.0 as u16)
    }
    pub const fn xmms(self) -> XmmSet {
        XmmSet::from_bits((self.0 >> 16) as u16)
    }
}

impl fmt::Debug for TdvmcallMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {}", self.0, self.gprs())?;
        if !self.xmms().is_empty() {
            write!(f, ", {}", self.xmms())?;
        }
        Ok(())
    }
}

impl fmt::Display for IllegalMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RCX {:#x} selects registers that a TDVMCALL may not pass",
            self.0
        )
    }
}

impl core::error::Error for IllegalMask {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpr_mask_is_legal_exactly_when_the_module_says_so() {
        let mut legal = [0, 0];
        for rcx in 0..=0xFFFFu64 {
            for no_rbp_mod in [false, true] {
                let refused = if no_rbp_mod { 0b11_0011 } else { 0b01_0011 };
                let parsed = TdvmcallMask::parse(rcx, no_rbp_mod);
                assert_eq!(parsed.is_ok(), rcx & refused == 0, "{rcx:#x}");
                legal[usize::from(no_rbp_mod)] += u32::from(parsed.is_ok());
                if let Ok(mask) = parsed {
                    assert_eq!(u64::from(mask.gprs().bits()), rcx);
                }
            }
        }
        assert_eq!(legal, [8192, 4096]);
    }

    #[test]
    fn bits_above_31_are_illegal() {
        for bit in 32..64 {
            assert_eq!(
                TdvmcallMask::parse(1 << bit, false),
                Err(IllegalMask(1 << bit))
            );
        }
        let mask = TdvmcallMask::parse(0x8001_0400, true).unwrap();
        assert_eq!(mask.xmms().bits(), 0x8001);
        assert_eq!(mask.gprs(), GprSet::of(&[Gpr::R10]));
    }
}
