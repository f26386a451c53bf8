//! A window on a register file: it shows a set and refuses the rest.

use core::cell::Cell;
use core::fmt;
use core::panic::Location;

use crate::{RegFile, RegSet, Registers};

/// What the VMM did with a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    Read,
    Write,
}

/// The VMM touched a register that the guest does not show, or does not take back, on this exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hidden<R> {
    pub reg: R,
    pub touch: Touch,
    /// The line of the VMM that asked.
    pub at: &'static Location<'static>,
}

/// Registers of a file that one exit shows to the VMM (`readable`) and takes back from it (`writable`).
///
/// With the default policy a touch of any other register is an error and changes nothing. With an [`Audit`] it goes
/// to the file as it would in a VMM without windows, and is recorded.
///
/// ```
/// use coco_regs::{GprFile, GprSet, Window};
/// use x86_arch::Gpr;
///
/// let mut file = GprFile::default();
/// let mut window = Window::both(&mut file, GprSet::of(&[Gpr::R10, Gpr::R11]));
/// window.set(Gpr::R10, 1)?;
/// let error = window.get(Gpr::R12).unwrap_err();
/// assert!(error.to_string().ends_with("reads R12, which the guest does not show"));
/// # Ok::<(), coco_regs::Hidden<Gpr>>(())
/// ```
#[derive(Debug)]
pub struct Window<'a, F: RegFile, P = Refuse> {
    file: &'a mut F,
    readable: F::Set,
    writable: F::Set,
    written: F::Set,
    policy: P,
}

/// What happens on a touch of a hidden register: an error stops it, `Ok` lets it through.
pub trait OnHidden<R> {
    fn hidden(&self, touch: Hidden<R>) -> Result<(), Hidden<R>>;
}

/// Every touch of a hidden register is an error.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Refuse;

/// Collects the touches of hidden registers instead of refusing them, so that an existing VMM can be tested: the
/// first `N` with their lines, and the number of all.
#[derive(Debug)]
pub struct Audit<R: Copy, const N: usize = 32> {
    first: [Cell<Option<Hidden<R>>>; N],
    count: Cell<usize>,
}

impl<'a, F: RegFile> Window<'a, F> {
    /// Shows `readable` and takes back `writable`.
    #[inline]
    pub fn new(file: &'a mut F, readable: F::Set, writable: F::Set) -> Self {
        Window {
            file,
            readable,
            writable,
            written: F::Set::NONE,
            policy: Refuse,
        }
    }
    /// The same registers both ways.
    #[inline]
    pub fn both(file: &'a mut F, shown: F::Set) -> Self {
        Window::new(file, shown, shown)
    }
    /// Every register, for a guest under a debugger.
    #[inline]
    pub fn all(file: &'a mut F) -> Self {
        Window::both(file, F::Set::ALL)
    }
}

impl<'a, F: RegFile, P: OnHidden<F::Reg>> Window<'a, F, P> {
    /// The same window under another policy, for instance a `&Audit`.
    pub fn with_policy<Q: OnHidden<F::Reg>>(self, policy: Q) -> Window<'a, F, Q> {
        Window {
            file: self.file,
            readable: self.readable,
            writable: self.writable,
            written: self.written,
            policy,
        }
    }

    pub fn readable(&self) -> F::Set {
        self.readable
    }
    pub fn writable(&self) -> F::Set {
        self.writable
    }
    /// The registers set through this window.
    pub fn written(&self) -> F::Set {
        self.written
    }

    /// The register as the guest left it.
    ///
    /// # Errors
    /// The guest does not show it on this exit.
    #[track_caller]
    #[inline]
    pub fn get(&self, reg: F::Reg) -> Result<F::Value, Hidden<F::Reg>> {
        if !self.readable.contains(reg) {
            self.policy.hidden(Hidden {
                reg,
                touch: Touch::Read,
                at: Location::caller(),
            })?;
        }
        Ok(self.file.read(reg))
    }

    /// The register as the guest will find it.
    ///
    /// # Errors
    /// The guest would never see the value: it does not take this register back on this exit.
    #[track_caller]
    #[inline]
    pub fn set(&mut self, reg: F::Reg, value: F::Value) -> Result<(), Hidden<F::Reg>> {
        if !self.writable.contains(reg) {
            self.policy.hidden(Hidden {
                reg,
                touch: Touch::Write,
                at: Location::caller(),
            })?;
        }
        self.written = self.written.with(reg);
        self.file.write(reg, value);
        Ok(())
    }
}

impl<F: RegFile, P: OnHidden<F::Reg>> Registers<F> for Window<'_, F, P> {
    type Error = Hidden<F::Reg>;
    #[track_caller]
    #[inline]
    fn get(&self, reg: F::Reg) -> Result<F::Value, Hidden<F::Reg>> {
        Window::get(self, reg)
    }
    #[track_caller]
    #[inline]
    fn set(&mut self, reg: F::Reg, value: F::Value) -> Result<(), Hidden<F::Reg>> {
        Window::set(self, reg, value)
    }
}

impl<R> OnHidden<R> for Refuse {
    #[inline]
    fn hidden(&self, touch: Hidden<R>) -> Result<(), Hidden<R>> {
        Err(touch)
    }
}

impl<R: Copy, const N: usize> Audit<R, N> {
    pub const fn new() -> Self {
        Audit {
            first: [const { Cell::new(None) }; N],
            count: Cell::new(0),
        }
    }
    /// All touches, those beyond the first `N` too.
    pub fn count(&self) -> usize {
        self.count.get()
    }
    /// The first touches, in order.
    pub fn touches(&self) -> impl Iterator<Item = Hidden<R>> {
        self.first.iter().map_while(Cell::get)
    }
}

impl<R: Copy, const N: usize> Default for Audit<R, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Copy, const N: usize> OnHidden<R> for &Audit<R, N> {
    fn hidden(&self, touch: Hidden<R>) -> Result<(), Hidden<R>> {
        if let Some(free) = self.first.get(self.count.get()) {
            free.set(Some(touch));
        }
        self.count.set(self.count.get().saturating_add(1));
        Ok(())
    }
}

impl<R: fmt::Display> fmt::Display for Hidden<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hidden { reg, touch, at } = self;
        match touch {
            Touch::Read => write!(f, "{at} reads {reg}, which the guest does not show"),
            Touch::Write => write!(f, "{at} writes {reg}, which the guest does not take back"),
        }
    }
}

impl<R: fmt::Debug + fmt::Display> core::error::Error for Hidden<R> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GprFile, GprSet};
    use x86_arch::Gpr;

    #[test]
    fn a_hidden_register_is_refused_with_the_line_that_asked() {
        let mut file = GprFile([7; 16]);
        let mut window = Window::new(&mut file, GprSet::of(&[Gpr::Rcx]), GprSet::of(&[Gpr::Rax]));
        let line = line!() + 1;
        let error = window.get(Gpr::Rax).unwrap_err();
        assert_eq!(
            (error.reg, error.touch, error.at.line()),
            (Gpr::Rax, Touch::Read, line)
        );
        let error = window.set(Gpr::Rcx, 1).unwrap_err();
        assert_eq!((error.touch, error.at.file()), (Touch::Write, file!()));
        assert_eq!(window.get(Gpr::Rcx), Ok(7));
        assert_eq!(window.written(), GprSet::NONE);
        window.set(Gpr::Rax, 9).unwrap();
        assert_eq!(window.written(), GprSet::of(&[Gpr::Rax]));
        let mut expected = [7; 16];
        expected[0] = 9;
        assert_eq!(file, GprFile(expected));
    }

    #[test]
    fn the_line_of_common_code_is_named_through_the_trait() {
        fn common<R: Registers<GprFile>>(regs: &R) -> Result<u64, R::Error> {
            regs.get(Gpr::R8)
        }
        let mut file = GprFile::default();
        let error = common(&Window::both(&mut file, GprSet::NONE)).unwrap_err();
        assert_eq!(error.at.file(), file!());
        assert!(error.at.line() < line!());
    }

    #[test]
    fn an_audit_lets_the_touch_through_and_counts_it() {
        let mut file = GprFile([3; 16]);
        let audit = Audit::<Gpr, 2>::new();
        let mut window = Window::both(&mut file, GprSet::of(&[Gpr::R10])).with_policy(&audit);
        assert_eq!(window.get(Gpr::R11), Ok(3));
        window.set(Gpr::R12, 4).unwrap();
        window.set(Gpr::R10, 5).unwrap();
        assert_eq!(window.get(Gpr::R15), Ok(3));
        assert_eq!(audit.count(), 3);
        let touched: [_; 2] = core::array::from_fn(|n| audit.touches().nth(n).map(|t| t.reg));
        assert_eq!(touched, [Some(Gpr::R11), Some(Gpr::R12)]);
        assert_eq!((file[Gpr::R12], file[Gpr::R10]), (4, 5));
    }
}
