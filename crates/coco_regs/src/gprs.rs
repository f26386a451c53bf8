//! The register arrays that cross a TD entry: laid out as a VMM keeps them.

use core::fmt;
use core::ops::{Index, IndexMut};

use x86_arch::Gpr;

use crate::RegFile;
use crate::file::bit_set;

/// The sixteen general-purpose registers in KVM's order (x86 encoding order): `kvm_vcpu_arch::regs`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct GprFile(pub [u64; 16]);

/// XMM0 to XMM15.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C, align(16))]
pub struct XmmFile(pub [u128; 16]);

/// An XMM register by its number, 0 to 15.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xmm(u8);

bit_set! {
    /// General-purpose registers; bit n is the register with x86 encoding n.
    GprSet(u16) of Gpr, count 16
}
bit_set! {
    /// XMM registers; bit n is XMMn.
    XmmSet(u16) of Xmm, count 16
}

impl Xmm {
    pub const fn from_index(index: usize) -> Option<Xmm> {
        if index < 16 {
            Some(Xmm(index as u8))
        } else {
            None
        }
    }
    pub const fn index(self) -> usize {
        // The mask tells the compiler what the constructor made sure of.
        (self.0 & 15) as usize
    }
}

impl fmt::Display for Xmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XMM{}", self.0)
    }
}
impl fmt::Debug for Xmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Index<Gpr> for GprFile {
    type Output = u64;
    #[inline(always)]
    fn index(&self, reg: Gpr) -> &u64 {
        &self.0[reg as usize]
    }
}

impl IndexMut<Gpr> for GprFile {
    #[inline(always)]
    fn index_mut(&mut self, reg: Gpr) -> &mut u64 {
        &mut self.0[reg as usize]
    }
}

impl RegFile for GprFile {
    type Reg = Gpr;
    type Value = u64;
    type Set = GprSet;
    #[inline(always)]
    fn read(&self, reg: Gpr) -> u64 {
        self[reg]
    }
    #[inline(always)]
    fn write(&mut self, reg: Gpr, value: u64) {
        self[reg] = value;
    }
}

impl RegFile for XmmFile {
    type Reg = Xmm;
    type Value = u128;
    type Set = XmmSet;
    #[inline(always)]
    fn read(&self, reg: Xmm) -> u128 {
        self.0[reg.index()]
    }
    #[inline(always)]
    fn write(&mut self, reg: Xmm, value: u128) {
        self.0[reg.index()] = value;
    }
}
