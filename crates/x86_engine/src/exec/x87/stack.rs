//! The register stack and the status word.

use x86_arch::vmx::Fpu;

use crate::float::{Context, Format, Value, flag};

pub const SF: u16 = 1 << 6;
/// Summary: an unmasked exception is pending.
pub const ES: u16 = 1 << 7;
pub const C0: u16 = 1 << 8;
pub const C1: u16 = 1 << 9;
pub const C2: u16 = 1 << 10;
pub const C3: u16 = 1 << 14;
const BUSY: u16 = 1 << 15;

/// The encoding of the indefinite NaN.
pub const INDEFINITE: u128 = 0xFFFF_C000_0000_0000_0000;

/// What the stack is asked to do with the status word and registers of [`Fpu`].
pub trait Stack {
    fn top(&self) -> u8;
    fn set_top(&mut self, top: u8);
    /// The physical register of ST(i).
    fn physical(&self, i: u8) -> usize;
    fn is_empty(&self, i: u8) -> bool;
    fn raw(&self, i: u8) -> u128;
    fn value(&self, i: u8) -> Value;
    /// Writes ST(i) and marks it valid.
    fn set_raw(&mut self, i: u8, bits: u128);
    fn set(&mut self, i: u8, value: Value);
    fn pop(&mut self);
    fn set_conditions(&mut self, mask: u16, values: u16);
    /// Adds exception flags; ES and B follow. True when one of them is unmasked.
    fn raise(&mut self, flags: u8) -> bool;
    /// A stack fault; `overflow` goes into C1. True when invalid is masked.
    fn stack_fault(&mut self, overflow: bool) -> bool;
    /// Pushes a result: overflow, exceptions, C1.
    fn push(&mut self, value: u128, context: &Context);
    fn context(&self) -> Context;
    /// ES and B as the flags and masks say.
    fn update_summary(&mut self);
}

impl Stack for Fpu {
    fn top(&self) -> u8 {
        (self.fsw >> 11 & 7) as u8
    }
    fn set_top(&mut self, top: u8) {
        self.fsw = self.fsw & !(7 << 11) | u16::from(top & 7) << 11;
    }
    fn physical(&self, i: u8) -> usize {
        usize::from((self.top() + i) & 7)
    }
    fn is_empty(&self, i: u8) -> bool {
        self.ftw >> self.physical(i) & 1 == 0
    }
    fn raw(&self, i: u8) -> u128 {
        self.st[self.physical(i)]
    }
    fn value(&self, i: u8) -> Value {
        Format::EXTENDED.unpack(self.raw(i), false)
    }
    fn set_raw(&mut self, i: u8, bits: u128) {
        let n = self.physical(i);
        self.st[n] = bits;
        self.ftw |= 1 << n;
    }
    fn set(&mut self, i: u8, value: Value) {
        self.set_raw(i, Format::EXTENDED.pack(value));
    }
    fn pop(&mut self) {
        self.ftw &= !(1 << self.physical(0));
        self.set_top(self.top().wrapping_add(1));
    }
    fn set_conditions(&mut self, mask: u16, values: u16) {
        self.fsw = self.fsw & !mask | values & mask;
    }
    fn raise(&mut self, flags: u8) -> bool {
        self.fsw |= u16::from(flags);
        self.update_summary();
        u16::from(flags) & !self.fcw & 0x3F != 0
    }
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.fsw |= SF;
        self.set_conditions(C1, if overflow { C1 } else { 0 });
        !self.raise(flag::INVALID)
    }
    fn push(&mut self, value: u128, context: &Context) {
        if !self.is_empty(7) {
            if self.stack_fault(true) {
                self.set_top(self.top().wrapping_sub(1));
                self.set_raw(0, INDEFINITE);
            }
            return;
        }
        self.set_conditions(
            C1,
            if context.rounded_up && context.raised & flag::INEXACT != 0 {
                C1
            } else {
                0
            },
        );
        let unmasked = self.raise(context.raised);
        if unmasked && context.raised & !context.masks & flag::BEFORE != 0 {
            return;
        }
        self.set_top(self.top().wrapping_sub(1));
        self.set_raw(0, value);
    }
    fn context(&self) -> Context {
        Context::from_fcw(self.fcw)
    }
    fn update_summary(&mut self) {
        if self.fsw & !self.fcw & 0x3F != 0 {
            self.fsw |= ES | BUSY;
        } else {
            self.fsw &= !(ES | BUSY);
        }
    }
}

/// Takes over what an operation with a register destination raised: C1, flags. True when the result may be written:
/// only exceptions found before the operation keep it back.
pub fn finish(fpu: &mut Fpu, context: &Context) -> bool {
    let stopped = context.raised & !context.masks & flag::BEFORE != 0;
    let seen = if stopped {
        context.raised & flag::BEFORE
    } else {
        context.raised
    };
    let up = context.rounded_up && seen & (flag::INEXACT | flag::OVERFLOW | flag::UNDERFLOW) != 0;
    fpu.set_conditions(C1, if up { C1 } else { 0 });
    fpu.raise(seen);
    !stopped
}

/// The same for a destination in memory: unmasked overflow and underflow keep the result back, too.
pub fn finish_store(fpu: &mut Fpu, context: &Context) -> bool {
    let kept_back = context.raised & !context.masks & (flag::OVERFLOW | flag::UNDERFLOW) != 0;
    let mut context = *context;
    if kept_back {
        // Nothing was rounded either.
        context.raised &= !flag::INEXACT;
        context.rounded_up = false;
    }
    finish(fpu, &context) && !kept_back
}
