//! Handlers of the common instruction forms, one function for each combination of operation, width and operands.

use crate::alu;
use crate::cpu::{Cpu, REG_PAGE};
use crate::fault::Fault;
use crate::flags::Flags;
use crate::op::{Op, STACK};
use crate::width::Width;
use core::marker::PhantomData;
use x86_arch::RamPage;

type Done = Result<(), Fault>;

/// An operation of two operands and the flags.
pub trait Binary {
    /// False for CMP and TEST.
    const WRITES: bool = true;
    fn compute<W: Width>(f: &mut Flags, a: W, b: W) -> W;
}

macro_rules! binary {
    ($($name:ident $writes:literal |$f:ident, $a:ident, $b:ident| $body:expr;)*) => {
        $(
            pub struct $name;
            impl Binary for $name {
                const WRITES: bool = $writes;
                #[inline(always)]
                fn compute<W: Width>($f: &mut Flags, $a: W, $b: W) -> W {
                    $body
                }
            }
        )*
    };
}

binary! {
    Add true |f, a, b| alu::add(f, a, b);
    Adc true |f, a, b| alu::adc(f, a, b);
    Sub true |f, a, b| alu::sub(f, a, b);
    Sbb true |f, a, b| alu::sbb(f, a, b);
    And true |f, a, b| alu::and(f, a, b);
    Or true |f, a, b| alu::or(f, a, b);
    Xor true |f, a, b| alu::xor(f, a, b);
    Cmp false |f, a, b| alu::sub(f, a, b);
    Test false |f, a, b| alu::and(f, a, b);
    Shl true |f, a, b| alu::shl(f, a, b.zext());
    Shr true |f, a, b| alu::shr(f, a, b.zext());
    Sar true |f, a, b| alu::sar(f, a, b.zext());
    Rol true |f, a, b| alu::rol(f, a, b.zext());
    Ror true |f, a, b| alu::ror(f, a, b.zext());
    Inc true |f, a, _b| alu::inc(f, a);
    Dec true |f, a, _b| alu::dec(f, a);
    Neg true |f, a, _b| alu::neg(f, a);
    Not true |_f, a, _b| !a;
    Imul true |f, a, b| alu::imul(f, a, b);
}

/// Where the second operand comes from.
pub mod source {
    use super::*;

    pub trait Source {
        fn get<P: RamPage + 'static, W: Width>(
            cpu: &mut Cpu<'_, P>,
            op: &Op<P>,
        ) -> Result<W, Fault>;
    }
    /// Register `op.b`.
    pub struct Register;
    /// `op.imm`.
    pub struct Immediate;
    /// The memory operand, its address in this form.
    pub struct Memory<F>(PhantomData<F>);

    impl Source for Register {
        #[inline(always)]
        fn get<P: RamPage + 'static, W: Width>(
            cpu: &mut Cpu<'_, P>,
            op: &Op<P>,
        ) -> Result<W, Fault> {
            Ok(W::cut(cpu.reg(op.b)))
        }
    }
    impl Source for Immediate {
        #[inline(always)]
        fn get<P: RamPage + 'static, W: Width>(
            _cpu: &mut Cpu<'_, P>,
            op: &Op<P>,
        ) -> Result<W, Fault> {
            Ok(W::cut(op.imm))
        }
    }
    impl<F: Form> Source for Memory<F> {
        #[inline(always)]
        fn get<P: RamPage + 'static, W: Width>(
            cpu: &mut Cpu<'_, P>,
            op: &Op<P>,
        ) -> Result<W, Fault> {
            cpu.load_in(F::address(cpu, op), op.flags & STACK != 0)
        }
    }
}
use source::Source;

/// How a memory operand's address is put together.
pub trait Form {
    fn address<P: RamPage + 'static>(cpu: &Cpu<'_, P>, op: &Op<P>) -> u64;
}
/// Base and displacement, no segment base: most addresses.
pub struct Base;
/// Base, scaled index, displacement and segment base.
pub struct Full;

impl Form for Base {
    #[inline(always)]
    fn address<P: RamPage + 'static>(cpu: &Cpu<'_, P>, op: &Op<P>) -> u64 {
        cpu.reg(op.base).wrapping_add(op.disp)
    }
}
impl Form for Full {
    #[inline(always)]
    fn address<P: RamPage + 'static>(cpu: &Cpu<'_, P>, op: &Op<P>) -> u64 {
        cpu.reg(op.base)
            .wrapping_add(cpu.reg(op.index) << (op.scale & 3))
            .wrapping_add(op.disp)
            .wrapping_add(cpu.reg(op.seg))
    }
}

pub fn binary_register<P: RamPage + 'static, O: Binary, W: Width, S: Source>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let b: W = S::get(cpu, op)?;
    let a = W::cut(cpu.reg(op.a));
    let result = O::compute(&mut cpu.flags, a, b);
    if O::WRITES {
        cpu.set_reg(op.a, result);
    }
    Ok(())
}

pub fn binary_memory<P: RamPage + 'static, O: Binary, W: Width, S: Source, F: Form>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let b: W = S::get(cpu, op)?;
    let linear = F::address(cpu, op);
    let stack = op.flags & STACK != 0;
    if O::WRITES {
        let mut f = cpu.flags;
        cpu.flags = cpu.update(linear, stack, |a| {
            let result = O::compute(&mut f, a, b);
            (result, f)
        })?;
    } else {
        let a = cpu.load_in(linear, stack)?;
        O::compute(&mut cpu.flags, a, b);
    }
    Ok(())
}

pub fn mov_to_register<P: RamPage + 'static, W: Width, S: Source>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn mov_to_memory<P: RamPage + 'static, W: Width, S: Source, F: Form>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.store_in(F::address(cpu, op), value, op.flags & STACK != 0)
}

pub fn zero_extend<P: RamPage + 'static, W: Width, S: Source>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.set_reg(op.a, value.zext());
    Ok(())
}

pub fn sign_extend<P: RamPage + 'static, W: Width, T: Width, S: Source>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.set_reg(op.a, T::cut(value.sext()));
    Ok(())
}

pub fn lea<P: RamPage + 'static, W: Width>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = Full::address(cpu, op);
    cpu.set_reg(op.a, W::cut(value));
    Ok(())
}

pub fn imul_immediate<P: RamPage + 'static, W: Width, S: Source>(
    cpu: &mut Cpu<'_, P>,
    op: &Op<P>,
) -> Done {
    let a: W = S::get(cpu, op)?;
    let result = alu::imul(&mut cpu.flags, a, W::cut(op.imm));
    cpu.set_reg(op.a, result);
    Ok(())
}

pub fn nop<P: RamPage + 'static>(_cpu: &mut Cpu<'_, P>, _op: &Op<P>) -> Done {
    Ok(())
}

pub fn cdqe<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, _op: &Op<P>) -> Done {
    cpu.gpr[0] = cpu.gpr[0] as i32 as u64;
    Ok(())
}

pub fn cdq<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, _op: &Op<P>) -> Done {
    cpu.gpr[2] = u64::from((cpu.gpr[0] as i32 >> 31) as u32);
    Ok(())
}

pub fn cqo<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, _op: &Op<P>) -> Done {
    cpu.gpr[2] = (cpu.gpr[0] as i64 >> 63) as u64;
    Ok(())
}

pub fn bswap64<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = cpu.reg(op.a).swap_bytes();
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn bswap32<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = (cpu.reg(op.a) as u32).swap_bytes();
    cpu.set_reg(op.a, value);
    Ok(())
}

/// The count of the BMI2 shifts: a register, or an immediate beside the register that is always 0.
#[inline(always)]
fn count<P: RamPage + 'static, W: Width>(cpu: &Cpu<'_, P>, op: &Op<P>) -> u32 {
    (cpu.reg(op.base) + op.imm) as u32 & (W::BITS - 1)
}

pub fn shlx<P: RamPage + 'static, W: Width>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = W::cut(cpu.reg(op.b) << count::<P, W>(cpu, op));
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn shrx<P: RamPage + 'static, W: Width>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = W::cut(W::cut(cpu.reg(op.b)).zext() >> count::<P, W>(cpu, op));
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn sarx<P: RamPage + 'static, W: Width>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let signed = W::cut(cpu.reg(op.b)).sext() as i64;
    let value = W::cut((signed >> count::<P, W>(cpu, op)) as u64);
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn rorx<P: RamPage + 'static, W: Width>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = alu::rotate_right(W::cut(cpu.reg(op.b)), count::<P, W>(cpu, op));
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn push<P: RamPage + 'static, S: Source>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value: u64 = S::get(cpu, op)?;
    let rsp = cpu.gpr[4].wrapping_sub(8);
    cpu.store_in(rsp, value, true)?;
    cpu.gpr[4] = rsp;
    Ok(())
}

pub fn pop<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = cpu.load_in::<u64>(cpu.gpr[4], true)?;
    cpu.gpr[4] = cpu.gpr[4].wrapping_add(8);
    cpu.set_reg(op.a, value);
    Ok(())
}

/// Goes to `target`; only addresses near the canonical limit need the full check.
#[inline(always)]
fn go<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, target: u64) -> Done {
    if target.wrapping_add(1 << 47) >> 48 != 0 {
        return cpu.jump(target);
    }
    cpu.next_rip = target;
    Ok(())
}

#[inline(always)]
fn relative<P: RamPage + 'static>(cpu: &Cpu<'_, P>, op: &Op<P>) -> u64 {
    cpu.reg(REG_PAGE).wrapping_add(op.imm)
}

#[inline(always)]
fn following<P: RamPage + 'static>(cpu: &Cpu<'_, P>, op: &Op<P>) -> u64 {
    cpu.reg(REG_PAGE).wrapping_add(u64::from(op.next))
}

pub fn jmp_relative<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    go(cpu, relative(cpu, op))
}

pub fn jmp_to<P: RamPage + 'static, S: Source>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let target = S::get(cpu, op)?;
    go(cpu, target)
}

#[inline(always)]
fn call<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>, target: u64) -> Done {
    go(cpu, target)?;
    let rsp = cpu.gpr[4].wrapping_sub(8);
    cpu.store_in(rsp, following(cpu, op), true)?;
    cpu.gpr[4] = rsp;
    Ok(())
}

pub fn call_relative<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    call(cpu, op, relative(cpu, op))
}

pub fn call_to<P: RamPage + 'static, S: Source>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let target = S::get(cpu, op)?;
    call(cpu, op, target)
}

pub fn ret<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, _op: &Op<P>) -> Done {
    let target = cpu.load_in::<u64>(cpu.gpr[4], true)?;
    go(cpu, target)?;
    cpu.gpr[4] = cpu.gpr[4].wrapping_add(8);
    Ok(())
}

pub fn jcc<P: RamPage + 'static, const CODE: u8>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    if cpu.flags.condition(CODE) {
        go(cpu, relative(cpu, op))
    } else {
        cpu.next_rip = following(cpu, op);
        Ok(())
    }
}

pub fn setcc<P: RamPage + 'static>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let value = u8::from(cpu.flags.condition(op.disp as u8));
    cpu.set_reg(op.a, value);
    Ok(())
}

pub fn cmov<P: RamPage + 'static, W: Width, S: Source>(cpu: &mut Cpu<'_, P>, op: &Op<P>) -> Done {
    let source: W = S::get(cpu, op)?;
    let value = if cpu.flags.condition(op.imm as u8) {
        source
    } else {
        W::cut(cpu.reg(op.a))
    };
    cpu.set_reg(op.a, value);
    Ok(())
}
