//! SSE and AVX floating point: what one instruction does to one element, in terms of [`crate::float`].

use core::cmp::Ordering;

use iced_x86::Mnemonic;

use super::lanes::Lane;
use crate::float::{self, Context, Format, Rounding, Value, flag};

/// `f(first, second, format, context)` on the elements' encodings.
pub type Element = fn(u64, u64, Format, &mut Context) -> u64;

/// Which elements an instruction works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub format: Format,
    pub packed: bool,
}

pub const PS: Shape = Shape {
    format: Format::SINGLE,
    packed: true,
};
pub const PD: Shape = Shape {
    format: Format::DOUBLE,
    packed: true,
};
pub const SS: Shape = Shape {
    format: Format::SINGLE,
    packed: false,
};
pub const SD: Shape = Shape {
    format: Format::DOUBLE,
    packed: false,
};

impl Shape {
    pub fn element_bits(self) -> usize {
        if self.format == Format::SINGLE {
            32
        } else {
            64
        }
    }

    pub fn get(self, vector: u128, index: usize) -> u64 {
        if self.format == Format::SINGLE {
            u32::get(vector, index).into()
        } else {
            u64::get(vector, index)
        }
    }

    /// Applies `f` to the elements this shape has in one 128-bit lane; a scalar one keeps the rest of `first`.
    pub fn apply(self, first: u128, second: u128, mut f: impl FnMut(u64, u64) -> u64) -> u128 {
        let bits = self.element_bits();
        if !self.packed {
            let low = f(self.get(first, 0), self.get(second, 0));
            return first >> bits << bits | u128::from(low);
        }
        (0..128 / bits).fold(0, |vector, i| {
            vector | u128::from(f(self.get(first, i), self.get(second, i))) << (bits * i)
        })
    }
}

/// Arithmetic of two sources: `result = f(first, second)`.
pub fn binary(mnemonic: Mnemonic) -> Option<(Shape, Element)> {
    use Mnemonic::*;
    Some(match mnemonic {
        Addps | Vaddps => (PS, add),
        Addpd | Vaddpd => (PD, add),
        Addss | Vaddss => (SS, add),
        Addsd | Vaddsd => (SD, add),
        Subps | Vsubps => (PS, subtract),
        Subpd | Vsubpd => (PD, subtract),
        Subss | Vsubss => (SS, subtract),
        Subsd | Vsubsd => (SD, subtract),
        Mulps | Vmulps => (PS, multiply),
        Mulpd | Vmulpd => (PD, multiply),
        Mulss | Vmulss => (SS, multiply),
        Mulsd | Vmulsd => (SD, multiply),
        Divps | Vdivps => (PS, divide),
        Divpd | Vdivpd => (PD, divide),
        Divss | Vdivss => (SS, divide),
        Divsd | Vdivsd => (SD, divide),
        Minps | Vminps => (PS, minimum),
        Minpd | Vminpd => (PD, minimum),
        Minss | Vminss => (SS, minimum),
        Minsd | Vminsd => (SD, minimum),
        Maxps | Vmaxps => (PS, maximum),
        Maxpd | Vmaxpd => (PD, maximum),
        Maxss | Vmaxss => (SS, maximum),
        Maxsd | Vmaxsd => (SD, maximum),
        _ => return None,
    })
}

/// Operations of one source; the scalar VEX forms take the upper elements from their first source.
pub fn unary(mnemonic: Mnemonic) -> Option<(Shape, Element)> {
    use Mnemonic::*;
    Some(match mnemonic {
        Sqrtps | Vsqrtps => (PS, square_root),
        Sqrtpd | Vsqrtpd => (PD, square_root),
        Sqrtss | Vsqrtss => (SS, square_root),
        Sqrtsd | Vsqrtsd => (SD, square_root),
        Rcpps | Vrcpps => (PS, reciprocal),
        Rcpss | Vrcpss => (SS, reciprocal),
        Rsqrtps | Vrsqrtps => (PS, reciprocal_root),
        Rsqrtss | Vrsqrtss => (SS, reciprocal_root),
        _ => return None,
    })
}

/// Horizontal and alternating additions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pairwise {
    Add,
    Subtract,
    /// Subtracts in even elements, adds in odd ones; not horizontal.
    Alternate,
}

pub fn pairwise(mnemonic: Mnemonic) -> Option<(Shape, Pairwise)> {
    use Mnemonic::*;
    Some(match mnemonic {
        Haddps | Vhaddps => (PS, Pairwise::Add),
        Haddpd | Vhaddpd => (PD, Pairwise::Add),
        Hsubps | Vhsubps => (PS, Pairwise::Subtract),
        Hsubpd | Vhsubpd => (PD, Pairwise::Subtract),
        Addsubps | Vaddsubps => (PS, Pairwise::Alternate),
        Addsubpd | Vaddsubpd => (PD, Pairwise::Alternate),
        _ => return None,
    })
}

/// One 128-bit lane of a [`Pairwise`] operation.
pub fn apply_pairwise(
    shape: Shape,
    kind: Pairwise,
    a: u128,
    b: u128,
    context: &mut Context,
) -> u128 {
    let (bits, count) = (shape.element_bits(), 128 / shape.element_bits());
    (0..count).fold(0, |vector, i| {
        let k = i % (count / 2);
        let source = if i < count / 2 { a } else { b };
        let (x, y) = (
            shape.get(source, 2 * k),
            shape.get(source, (2 * k + 1) % count),
        );
        let element = match kind {
            Pairwise::Add => add(x, y, shape.format, context),
            Pairwise::Subtract => subtract(x, y, shape.format, context),
            Pairwise::Alternate => {
                let f = if i % 2 == 0 { subtract } else { add };
                f(shape.get(a, i), shape.get(b, i), shape.format, context)
            }
        };
        vector | u128::from(element) << (bits * i)
    })
}

fn open(bits: u64, format: Format, context: &Context) -> Value {
    format.unpack(bits.into(), context.denormals_are_zero)
}
fn close(value: Value, format: Format) -> u64 {
    format.pack(value) as u64
}

pub fn add(a: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    close(
        float::add(
            open(a, format, context),
            open(b, format, context),
            format,
            context,
        ),
        format,
    )
}
pub fn subtract(a: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    close(
        float::subtract(
            open(a, format, context),
            open(b, format, context),
            format,
            context,
        ),
        format,
    )
}
pub fn multiply(a: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    close(
        float::multiply(
            open(a, format, context),
            open(b, format, context),
            format,
            context,
        ),
        format,
    )
}
fn divide(a: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    close(
        float::divide(
            open(a, format, context),
            open(b, format, context),
            format,
            context,
        ),
        format,
    )
}
fn square_root(_: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    close(
        float::square_root(open(b, format, context), format, context),
        format,
    )
}

/// MIN: the second operand unless the first is less. NaNs and equal zeros give the second as it is.
fn minimum(a: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    choose(a, b, Ordering::Less, format, context)
}
fn maximum(a: u64, b: u64, format: Format, context: &mut Context) -> u64 {
    choose(a, b, Ordering::Greater, format, context)
}
fn choose(a: u64, b: u64, first_if: Ordering, format: Format, context: &mut Context) -> u64 {
    let (x, y) = (open(a, format, context), open(b, format, context));
    let chosen = if float::compare(x, y, true, context) == Some(first_if) {
        x
    } else {
        y
    };
    close(chosen, format)
}

/// RCP and RSQRT are approximations whose bits differ between vendors and models; all keep the relative error below
/// 1.5 * 2^-12. Ours is the exact result rounded to 12 significant bits.
const APPROXIMATION: Format = Format {
    precision: 12,
    exponent_bits: 8,
    explicit: false,
};

fn reciprocal(_: u64, b: u64, format: Format, _: &mut Context) -> u64 {
    approximate(b, format, |x, context| {
        float::divide(Value::ONE, x, APPROXIMATION, context)
    })
}

fn reciprocal_root(_: u64, b: u64, format: Format, _: &mut Context) -> u64 {
    approximate(b, format, |x, context| {
        let root = float::square_root(x, Format::DOUBLE, context);
        float::divide(Value::ONE, root, APPROXIMATION, context)
    })
}

/// Both take denormals for zeros, flush tiny results, and raise nothing.
fn approximate(bits: u64, format: Format, f: impl Fn(Value, &mut Context) -> Value) -> u64 {
    let mut quiet = Context::from_mxcsr(0x1F80 | 1 << 15 | 1 << 6);
    close(f(open(bits, format, &quiet), &mut quiet), format)
}

/// CMPPS and its kin: whether predicate `control` (0 to 31) holds, as a mask of the element's width.
pub fn compare(a: u64, b: u64, control: u8, format: Format, context: &mut Context) -> u64 {
    const LESS: u8 = 1;
    const EQUAL: u8 = 2;
    const GREATER: u8 = 4;
    const UNORDERED: u8 = 8;
    const HOLDS: [u8; 16] = [
        EQUAL,
        LESS,
        LESS | EQUAL,
        UNORDERED,
        LESS | GREATER | UNORDERED,
        EQUAL | GREATER | UNORDERED,
        GREATER | UNORDERED,
        LESS | EQUAL | GREATER,
        EQUAL | UNORDERED,
        LESS | UNORDERED,
        LESS | EQUAL | UNORDERED,
        0,
        LESS | GREATER,
        EQUAL | GREATER,
        GREATER,
        15,
    ];
    // Of the first sixteen, the order predicates signal; the second sixteen turn that round.
    let signalling = matches!(control & 3, 1 | 2) != (control & 16 != 0);
    let relation = match float::compare(
        open(a, format, context),
        open(b, format, context),
        signalling,
        context,
    ) {
        Some(Ordering::Less) => LESS,
        Some(Ordering::Equal) => EQUAL,
        Some(Ordering::Greater) => GREATER,
        None => UNORDERED,
    };
    match HOLDS[usize::from(control & 15)] & relation {
        0 => 0,
        _ if format == Format::SINGLE => 0xFFFF_FFFF,
        _ => u64::MAX,
    }
}

/// COMISS and its kin: ZF, PF and CF in their RFLAGS places.
pub fn compare_flags(
    a: u64,
    b: u64,
    signalling: bool,
    format: Format,
    context: &mut Context,
) -> u64 {
    match float::compare(
        open(a, format, context),
        open(b, format, context),
        signalling,
        context,
    ) {
        None => 0x45,
        Some(Ordering::Less) => 0x01,
        Some(Ordering::Equal) => 0x40,
        Some(Ordering::Greater) => 0,
    }
}

/// ROUNDPS and its kin. Denormal operands raise nothing here.
pub fn round_to_integral(b: u64, control: u8, format: Format, context: &mut Context) -> u64 {
    let rounding = if control & 4 != 0 {
        context.rounding
    } else {
        Rounding::from_bits(control.into())
    };
    let value = open(b, format, context);
    close(
        float::to_integral(value, rounding, control & 8 != 0, context),
        format,
    )
}

/// DPPS and DPPD on `lanes` lanes: products where the high bits of `control` say, sums where the low ones do. Products,
/// first sums and last sums are three steps, each done in all lanes; an unmasked exception of one step keeps the later
/// steps from happening.
pub fn dot_products(
    a: [u128; 2],
    b: [u128; 2],
    lanes: usize,
    control: u8,
    shape: Shape,
    context: &mut Context,
) -> [u128; 2] {
    let (bits, format) = (shape.element_bits(), shape.format);
    let count = 128 / bits;
    let mut terms = [[0u64; 4]; 2];
    for (lane, terms) in terms.iter_mut().enumerate().take(lanes) {
        for (i, term) in terms.iter_mut().enumerate().take(count) {
            if control >> (4 + i) & 1 != 0 {
                *term = multiply(
                    shape.get(a[lane], i),
                    shape.get(b[lane], i),
                    format,
                    context,
                );
            }
        }
    }
    let mut pairs = count / 2;
    while pairs > 0 && context.raised & !context.masks == 0 {
        context.settled = context.raised;
        for terms in terms.iter_mut().take(lanes) {
            for i in 0..pairs {
                terms[i] = add(terms[2 * i], terms[2 * i + 1], format, context);
            }
        }
        pairs /= 2;
    }
    terms.map(|terms| {
        (0..count)
            .filter(|i| control >> i & 1 != 0)
            .fold(0, |v, i| v | u128::from(terms[0]) << (bits * i))
    })
}

/// To a signed integer of `bits` bits; the integer indefinite when it does not fit.
pub fn to_integer(a: u64, bits: u32, truncate: bool, format: Format, context: &mut Context) -> u64 {
    let rounding = if truncate {
        Rounding::Zero
    } else {
        context.rounding
    };
    let value = open(a, format, context);
    match float::to_integer(value, bits, rounding, context) {
        Some(integer) if bits == 32 => u64::from(integer as u32),
        Some(integer) => integer as u64,
        None => 1 << (bits - 1),
    }
}

pub fn from_integer(a: i64, format: Format, context: &mut Context) -> u64 {
    close(float::from_integer(a, format, context), format)
}

/// Between single and double precision.
pub fn convert(a: u64, from: Format, to: Format, context: &mut Context) -> u64 {
    close(float::to_format(open(a, from, context), to, context), to)
}

/// VCVTPH2PS: halves are read whole, whatever DAZ says, and their denormals raise nothing.
pub fn from_half(a: u16, context: &mut Context) -> u32 {
    let value = Format::HALF.unpack(a.into(), false);
    let result = float::to_format(value, Format::SINGLE, context);
    context.raised &= !flag::DENORMAL;
    Format::SINGLE.pack(result) as u32
}

/// VCVTPS2PH: the immediate may replace MXCSR's rounding; FTZ does not act.
pub fn to_half(a: u32, control: u8, context: &mut Context) -> u16 {
    let (rounding, flush) = (context.rounding, context.flush_to_zero);
    if control & 4 == 0 {
        context.rounding = Rounding::from_bits(control.into());
    }
    context.flush_to_zero = false;
    let result = float::to_format(
        open(a.into(), Format::SINGLE, context),
        Format::HALF,
        context,
    );
    (context.rounding, context.flush_to_zero) = (rounding, flush);
    Format::HALF.pack(result) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mnemonic: Mnemonic, a: u64, b: u64, mxcsr: u32) -> (u64, u8) {
        let (shape, f) = binary(mnemonic)
            .or_else(|| unary(mnemonic))
            .expect("in the table");
        let mut context = Context::from_mxcsr(mxcsr);
        let result = f(a, b, shape.format, &mut context);
        (result, context.raised)
    }

    /// Where the host's own arithmetic rounds to nearest, it must agree.
    #[test]
    fn arithmetic_rounds_as_the_host_does() {
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x1405_7B7E_F767_814F);
            (seed ^ seed >> 29).rotate_left(17)
        };
        for _ in 0..20_000 {
            let (a, b) = (next(), next());
            // Exponents near each other, too.
            let b = if a & 1 == 0 {
                a & 0xFFF0 << 48 ^ b & 0x803F_FFFF_FFFF_FFFF
            } else {
                b
            };
            let (x, y) = (f64::from_bits(a), f64::from_bits(b));
            let checks = [
                (Mnemonic::Addsd, x + y),
                (Mnemonic::Subsd, x - y),
                (Mnemonic::Mulsd, x * y),
                (Mnemonic::Divsd, x / y),
                (Mnemonic::Sqrtsd, y.sqrt()),
            ];
            for (mnemonic, expected) in checks {
                let (result, _) = run(mnemonic, a, b, 0x1F80);
                let agree = result == expected.to_bits()
                    || expected.is_nan() && f64::from_bits(result).is_nan();
                assert!(
                    agree,
                    "{mnemonic:?} {a:016x} {b:016x}: {result:016x}, host {:016x}",
                    expected.to_bits()
                );
            }
        }
    }

    #[test]
    fn the_smallest_denormal_halved_underflows_to_zero() {
        let (half, tiny) = (0.5f64.to_bits(), 1);
        assert_eq!(
            run(Mnemonic::Mulsd, tiny, half, 0x1F80),
            (0, flag::DENORMAL | flag::UNDERFLOW | flag::INEXACT)
        );
        assert_eq!(run(Mnemonic::Mulsd, tiny, half, 0x1FC0), (0, 0));
    }

    #[test]
    fn minimum_of_a_nan_is_the_second_operand_untouched() {
        let signalling = 0x7FF0_0000_0000_0001;
        assert_eq!(
            run(Mnemonic::Minsd, 5, signalling, 0x1F80),
            (signalling, flag::INVALID)
        );
        assert_eq!(
            run(Mnemonic::Minsd, signalling, 5, 0x1F80),
            (5, flag::INVALID)
        );
    }

    #[test]
    fn a_quiet_order_predicate_does_not_signal() {
        let nan = f64::NAN.to_bits();
        for (control, raised) in [
            (1, flag::INVALID),
            (17, 0),
            (0, 0),
            (16, flag::INVALID),
            (13, flag::INVALID),
        ] {
            let mut context = Context::from_mxcsr(0x1F80);
            compare(nan, 0, control, Format::DOUBLE, &mut context);
            assert_eq!(context.raised, raised, "predicate {control}");
        }
    }
}
