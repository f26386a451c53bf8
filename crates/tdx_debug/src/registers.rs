//! The register file as GDB's `g` packet carries it.

use gdbstub::arch::{Arch, RegId, Registers};
use std::num::NonZeroUsize;

use crate::layout::{Layout, Register};

/// All registers one after the other, in the order of the target's [`Layout`]; `None` where the vCPU does not show a byte.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct TdRegisters {
    pub bytes: Vec<Option<u8>>,
}

/// RIP follows sixteen registers of eight bytes.
const PC: std::ops::Range<usize> = 128..136;
/// More than all registers of any layout.
const LONGEST: usize = 1 << 14;

impl Registers for TdRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        let bytes = self.bytes.get(PC).unwrap_or_default().iter().rev();
        bytes.fold(0, |pc, byte| pc << 8 | u64::from(byte.unwrap_or(0)))
    }

    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        self.bytes.iter().copied().for_each(write_byte);
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if bytes.len() > LONGEST {
            return Err(());
        }
        self.bytes = bytes.iter().copied().map(Some).collect();
        Ok(())
    }
}

/// A register's number.
#[derive(Clone, Copy, Debug)]
pub struct TdRegId(pub usize);

impl RegId for TdRegId {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        // The TD's XFAM decides what the number means.
        Some((TdRegId(id), None))
    }
}

/// x86-64 with the registers of a TD's vCPU.
#[derive(Debug)]
pub enum TdArch {}

impl Arch for TdArch {
    type Usize = u64;
    type Registers = TdRegisters;
    type RegId = TdRegId;
    type BreakpointKind = usize;
}

/// A register and its bytes.
type Part<'a> = (&'static Register, &'a [Option<u8>]);

/// The file's bytes register by register; `None` when it is not as long as the layout's registers are.
pub fn split<'a>(file: &'a TdRegisters, layout: &Layout) -> Option<Vec<Part<'a>>> {
    let mut rest = file.bytes.as_slice();
    let mut parts = Vec::new();
    for register in layout.registers() {
        let (now, after) = rest.split_at_checked(register.bytes())?;
        parts.push((register, now));
        rest = after;
    }
    rest.is_empty().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_over_the_wire_and_back() {
        let layout = Layout::new(7);
        let length: usize = layout.registers().map(|r| r.bytes()).sum();
        let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let mut file = TdRegisters::default();
        assert_eq!(file.gdb_deserialize(&bytes), Ok(()));
        let mut back = Vec::new();
        file.gdb_serialize(|byte| back.extend(byte));
        assert_eq!(back, bytes);
        let pc: [u8; 8] = bytes[128..136].try_into().expect("eight bytes");
        assert_eq!(file.pc(), u64::from_le_bytes(pc));
        let parts = split(&file, &layout).expect("the right length");
        assert_eq!(
            parts.iter().position(|(r, _)| r.name == "rip"),
            Some(PC.start / 8)
        );
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let layout = Layout::new(7);
        for length in [0, 1, 100, 5000] {
            let mut file = TdRegisters::default();
            assert_eq!(file.gdb_deserialize(&vec![0; length]), Ok(()));
            assert!(split(&file, &layout).is_none(), "{length}");
        }
        assert_eq!(
            TdRegisters::default().gdb_deserialize(&vec![0; LONGEST + 1]),
            Err(())
        );
    }
}
