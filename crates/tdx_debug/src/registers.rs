//! The register file as GDB's `g` packet carries it.

use gdbstub::arch::{Arch, RegId, Registers};
use std::num::NonZeroUsize;
use std::sync::OnceLock;

use crate::layout;

/// All registers, each as its bytes; `None` where the vCPU does not show it.
#[derive(Clone, PartialEq, Debug)]
pub struct TdRegisters {
    pub values: Vec<Option<Vec<u8>>>,
}

impl Default for TdRegisters {
    fn default() -> Self {
        Self {
            values: layout::registers().map(|_| None).collect(),
        }
    }
}

/// GDB's number of the program counter.
const PC: usize = 16;

impl Registers for TdRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        let bytes = self.values.get(PC).and_then(Option::as_ref);
        bytes
            .and_then(|b| b.as_slice().try_into().ok())
            .map_or(0, u64::from_le_bytes)
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for (register, value) in layout::registers().zip(&self.values) {
            for i in 0..usize::from(register.bits / 8) {
                write_byte(value.as_ref().and_then(|bytes| bytes.get(i).copied()));
            }
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let mut rest = bytes;
        for (register, value) in layout::registers().zip(&mut self.values) {
            let (now, after) = rest
                .split_at_checked(usize::from(register.bits / 8))
                .ok_or(())?;
            *value = Some(now.to_vec());
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(()) }
    }
}

/// GDB's number of a register.
#[derive(Clone, Copy, Debug)]
pub struct TdRegId(pub usize);

impl RegId for TdRegId {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let register = layout::register(id)?;
        Some((
            TdRegId(id),
            NonZeroUsize::new(usize::from(register.bits / 8)),
        ))
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

    fn target_description_xml() -> Option<&'static str> {
        static XML: OnceLock<String> = OnceLock::new();
        Some(XML.get_or_init(layout::description))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_over_the_wire_and_back() {
        let mut file = TdRegisters::default();
        let length: usize = layout::registers().map(|r| usize::from(r.bits / 8)).sum();
        let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
        assert_eq!(file.gdb_deserialize(&bytes), Ok(()));
        let mut back = Vec::new();
        file.gdb_serialize(|byte| back.extend(byte));
        assert_eq!(back, bytes);
        assert_eq!(
            file.pc(),
            u64::from_le_bytes(bytes[128..136].try_into().expect("eight bytes"))
        );
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        for length in [0, 1, 100, 5000] {
            assert_eq!(
                TdRegisters::default().gdb_deserialize(&vec![0; length]),
                Err(())
            );
        }
    }
}
