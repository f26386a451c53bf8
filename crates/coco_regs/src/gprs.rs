//! The register arrays that cross a TD entry: laid out as a VMM keeps them.

use core::ops::{Index, IndexMut};
use x86_arch::Gpr;

/// The sixteen general-purpose registers in KVM's order (x86 encoding order): `kvm_vcpu_arch::regs`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct GprFile(pub [u64; 16]);

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

/// XMM0 to XMM15.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C, align(16))]
pub struct XmmFile(pub [u128; 16]);
