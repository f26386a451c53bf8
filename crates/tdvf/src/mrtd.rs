//! MRTD: the measurement of a TD's initial contents (spec: host-td.md; ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).

use sha2::{Digest, Sha384};
use x86_arch::Gpa;

use crate::Step;

/// A running MRTD.
#[derive(Clone, Default)]
pub struct Mrtd(Sha384);

impl Mrtd {
    /// The MRTD of a TD to which nothing has been added.
    pub fn new() -> Mrtd {
        Mrtd::default()
    }
    /// What TDH.MEM.PAGE.ADD does: its name and the page's address, not its contents.
    pub fn add_page(&mut self, gpa: Gpa) {
        self.0.update(block(b"MEM.PAGE.ADD", gpa));
    }
    /// What TDH.MR.EXTEND does: its name, the address and 256 bytes.
    pub fn extend(&mut self, gpa: Gpa, chunk: &[u8; 256]) {
        self.0.update(block(b"MR.EXTEND", gpa));
        self.0.update(chunk);
    }
    /// What a step of a [`crate::Plan`] does; TDH.MEM.PAGE.AUG measures nothing.
    pub fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::AddPage { gpa, .. } => self.add_page(*gpa),
            Step::Extend { gpa, chunk, .. } => self.extend(*gpa, chunk),
            Step::AugPage { .. } => {}
        }
    }
    /// The value that TDH.MR.FINALIZE makes final.
    pub fn finish(self) -> tdx_abi::Sha384 {
        self.0.finalize().into()
    }
}

/// The 128 bytes that name a step: ASCII at 0, the address at 16.
fn block(name: &[u8], gpa: Gpa) -> [u8; 128] {
    let mut block = [0; 128];
    block[..name.len()].copy_from_slice(name);
    block[16..24].copy_from_slice(&gpa.raw().to_le_bytes());
    block
}
