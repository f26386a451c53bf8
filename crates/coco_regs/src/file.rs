//! What a register file is, and how VMM code that serves every kind of VM asks for registers.

use core::convert::Infallible;
use core::fmt;

/// A set of registers of one file.
pub trait RegSet: Copy + Eq + fmt::Debug {
    type Reg;
    const NONE: Self;
    const ALL: Self;
    fn contains(self, reg: Self::Reg) -> bool;
    /// The set with this register too.
    fn with(self, reg: Self::Reg) -> Self;
}

/// An array of registers as a VMM keeps it.
pub trait RegFile {
    type Reg: Copy + Eq + fmt::Debug + fmt::Display;
    type Value: Copy;
    type Set: RegSet<Reg = Self::Reg>;
    fn read(&self, reg: Self::Reg) -> Self::Value;
    fn write(&mut self, reg: Self::Reg, value: Self::Value);
}

/// Registers of a guest, whatever the kind of its VM: the bound for a VMM's common code.
///
/// A plain file is one whose every register is shown: its error type has no value, and the compiler drops the check.
///
/// ```
/// use coco_regs::{GprFile, Registers};
/// use x86_arch::Gpr;
///
/// /// RDMSR as a VMM emulates it for any VM: EDX:EAX.
/// fn return_msr<R: Registers<GprFile>>(regs: &mut R, value: u64) -> Result<(), R::Error> {
///     regs.set(Gpr::Rax, value & 0xFFFF_FFFF)?;
///     regs.set(Gpr::Rdx, value >> 32)
/// }
///
/// let mut ordinary = GprFile::default();
/// let Ok(()) = return_msr(&mut ordinary, 0x1_0000_0002);
/// assert_eq!((ordinary[Gpr::Rdx], ordinary[Gpr::Rax]), (1, 2));
/// ```
pub trait Registers<F: RegFile> {
    type Error;
    /// The register as the guest left it.
    #[track_caller]
    fn get(&self, reg: F::Reg) -> Result<F::Value, Self::Error>;
    /// The register as the guest will find it.
    #[track_caller]
    fn set(&mut self, reg: F::Reg, value: F::Value) -> Result<(), Self::Error>;
}

impl<F: RegFile> Registers<F> for F {
    type Error = Infallible;
    #[inline(always)]
    fn get(&self, reg: F::Reg) -> Result<F::Value, Infallible> {
        Ok(self.read(reg))
    }
    #[inline(always)]
    fn set(&mut self, reg: F::Reg, value: F::Value) -> Result<(), Infallible> {
        self.write(reg, value);
        Ok(())
    }
}

/// Defines a set as a bit mask whose bit n is register n.
macro_rules! bit_set {
    ($(#[$doc:meta])* $set:ident($bits:ty) of $reg:ty, count $count:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $set($bits);

        impl $set {
            /// No register.
            pub const NONE: $set = $set(0);
            /// Every register.
            pub const ALL: $set = $set(((1u64 << $count) - 1) as $bits);

            /// The set with bit n for register n; bits beyond the last register are dropped.
            pub const fn from_bits(bits: $bits) -> $set {
                $set(bits & Self::ALL.0)
            }
            pub const fn bits(self) -> $bits {
                self.0
            }
            /// The set of the listed registers.
            pub const fn of(regs: &[$reg]) -> $set {
                let mut bits = 0;
                let mut i = 0;
                while i < regs.len() {
                    bits |= 1 << regs[i].index();
                    i += 1;
                }
                $set(bits)
            }
            #[inline(always)]
            pub const fn contains(self, reg: $reg) -> bool {
                self.0 >> reg.index() & 1 != 0
            }
            pub const fn contains_all(self, other: $set) -> bool {
                other.0 & !self.0 == 0
            }
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
            pub const fn len(self) -> usize {
                self.0.count_ones() as usize
            }
            pub const fn union(self, other: $set) -> $set {
                $set(self.0 | other.0)
            }
            pub const fn intersection(self, other: $set) -> $set {
                $set(self.0 & other.0)
            }
            /// Those of `self` that are not in `other`.
            pub const fn without(self, other: $set) -> $set {
                $set(self.0 & !other.0)
            }
            /// The registers in ascending order.
            pub fn iter(self) -> impl Iterator<Item = $reg> {
                (0..$count).filter(move |n| self.0 >> n & 1 != 0).filter_map(<$reg>::from_index)
            }
        }

        impl $crate::RegSet for $set {
            type Reg = $reg;
            const NONE: Self = $set::NONE;
            const ALL: Self = $set::ALL;
            #[inline(always)]
            fn contains(self, reg: $reg) -> bool {
                $set::contains(self, reg)
            }
            #[inline(always)]
            fn with(self, reg: $reg) -> Self {
                $set(self.0 | 1 << reg.index())
            }
        }

        impl core::fmt::Display for $set {
            /// The names, separated by commas; "none" for the empty set.
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                if self.is_empty() {
                    return f.write_str("none");
                }
                for (n, reg) in self.iter().enumerate() {
                    if n > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{reg}")?;
                }
                Ok(())
            }
        }
        impl core::fmt::Debug for $set {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{{{self}}}")
            }
        }
    };
}
pub(crate) use bit_set;
