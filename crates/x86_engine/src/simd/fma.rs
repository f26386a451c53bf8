//! FMA3: fused multiply-add in its sixty spellings.

use iced_x86::Mnemonic;

use super::float::{PD, PS, SD, SS, Shape};
use crate::float::{Context, fused_multiply_add};

/// Which operands are multiplied: 132 is first * third + second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    O132,
    O213,
    O231,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    MultiplyAdd,
    MultiplySubtract,
    NegatedMultiplyAdd,
    NegatedMultiplySubtract,
    /// FMADDSUB: even elements subtract.
    AlternateSubtractFirst,
    /// FMSUBADD: even elements add.
    AlternateAddFirst,
}

/// The spelling of `mnemonic`, if it is of this family.
pub fn spelling(mnemonic: Mnemonic) -> Option<(Order, Kind, Shape)> {
    use Mnemonic::*;
    Some(match mnemonic {
        Vfmadd132ps => (Order::O132, Kind::MultiplyAdd, PS),
        Vfmadd213ps => (Order::O213, Kind::MultiplyAdd, PS),
        Vfmadd231ps => (Order::O231, Kind::MultiplyAdd, PS),
        Vfmadd132pd => (Order::O132, Kind::MultiplyAdd, PD),
        Vfmadd213pd => (Order::O213, Kind::MultiplyAdd, PD),
        Vfmadd231pd => (Order::O231, Kind::MultiplyAdd, PD),
        Vfmadd132ss => (Order::O132, Kind::MultiplyAdd, SS),
        Vfmadd213ss => (Order::O213, Kind::MultiplyAdd, SS),
        Vfmadd231ss => (Order::O231, Kind::MultiplyAdd, SS),
        Vfmadd132sd => (Order::O132, Kind::MultiplyAdd, SD),
        Vfmadd213sd => (Order::O213, Kind::MultiplyAdd, SD),
        Vfmadd231sd => (Order::O231, Kind::MultiplyAdd, SD),
        Vfmsub132ps => (Order::O132, Kind::MultiplySubtract, PS),
        Vfmsub213ps => (Order::O213, Kind::MultiplySubtract, PS),
        Vfmsub231ps => (Order::O231, Kind::MultiplySubtract, PS),
        Vfmsub132pd => (Order::O132, Kind::MultiplySubtract, PD),
        Vfmsub213pd => (Order::O213, Kind::MultiplySubtract, PD),
        Vfmsub231pd => (Order::O231, Kind::MultiplySubtract, PD),
        Vfmsub132ss => (Order::O132, Kind::MultiplySubtract, SS),
        Vfmsub213ss => (Order::O213, Kind::MultiplySubtract, SS),
        Vfmsub231ss => (Order::O231, Kind::MultiplySubtract, SS),
        Vfmsub132sd => (Order::O132, Kind::MultiplySubtract, SD),
        Vfmsub213sd => (Order::O213, Kind::MultiplySubtract, SD),
        Vfmsub231sd => (Order::O231, Kind::MultiplySubtract, SD),
        Vfnmadd132ps => (Order::O132, Kind::NegatedMultiplyAdd, PS),
        Vfnmadd213ps => (Order::O213, Kind::NegatedMultiplyAdd, PS),
        Vfnmadd231ps => (Order::O231, Kind::NegatedMultiplyAdd, PS),
        Vfnmadd132pd => (Order::O132, Kind::NegatedMultiplyAdd, PD),
        Vfnmadd213pd => (Order::O213, Kind::NegatedMultiplyAdd, PD),
        Vfnmadd231pd => (Order::O231, Kind::NegatedMultiplyAdd, PD),
        Vfnmadd132ss => (Order::O132, Kind::NegatedMultiplyAdd, SS),
        Vfnmadd213ss => (Order::O213, Kind::NegatedMultiplyAdd, SS),
        Vfnmadd231ss => (Order::O231, Kind::NegatedMultiplyAdd, SS),
        Vfnmadd132sd => (Order::O132, Kind::NegatedMultiplyAdd, SD),
        Vfnmadd213sd => (Order::O213, Kind::NegatedMultiplyAdd, SD),
        Vfnmadd231sd => (Order::O231, Kind::NegatedMultiplyAdd, SD),
        Vfnmsub132ps => (Order::O132, Kind::NegatedMultiplySubtract, PS),
        Vfnmsub213ps => (Order::O213, Kind::NegatedMultiplySubtract, PS),
        Vfnmsub231ps => (Order::O231, Kind::NegatedMultiplySubtract, PS),
        Vfnmsub132pd => (Order::O132, Kind::NegatedMultiplySubtract, PD),
        Vfnmsub213pd => (Order::O213, Kind::NegatedMultiplySubtract, PD),
        Vfnmsub231pd => (Order::O231, Kind::NegatedMultiplySubtract, PD),
        Vfnmsub132ss => (Order::O132, Kind::NegatedMultiplySubtract, SS),
        Vfnmsub213ss => (Order::O213, Kind::NegatedMultiplySubtract, SS),
        Vfnmsub231ss => (Order::O231, Kind::NegatedMultiplySubtract, SS),
        Vfnmsub132sd => (Order::O132, Kind::NegatedMultiplySubtract, SD),
        Vfnmsub213sd => (Order::O213, Kind::NegatedMultiplySubtract, SD),
        Vfnmsub231sd => (Order::O231, Kind::NegatedMultiplySubtract, SD),
        Vfmaddsub132ps => (Order::O132, Kind::AlternateSubtractFirst, PS),
        Vfmaddsub213ps => (Order::O213, Kind::AlternateSubtractFirst, PS),
        Vfmaddsub231ps => (Order::O231, Kind::AlternateSubtractFirst, PS),
        Vfmaddsub132pd => (Order::O132, Kind::AlternateSubtractFirst, PD),
        Vfmaddsub213pd => (Order::O213, Kind::AlternateSubtractFirst, PD),
        Vfmaddsub231pd => (Order::O231, Kind::AlternateSubtractFirst, PD),
        Vfmsubadd132ps => (Order::O132, Kind::AlternateAddFirst, PS),
        Vfmsubadd213ps => (Order::O213, Kind::AlternateAddFirst, PS),
        Vfmsubadd231ps => (Order::O231, Kind::AlternateAddFirst, PS),
        Vfmsubadd132pd => (Order::O132, Kind::AlternateAddFirst, PD),
        Vfmsubadd213pd => (Order::O213, Kind::AlternateAddFirst, PD),
        Vfmsubadd231pd => (Order::O231, Kind::AlternateAddFirst, PD),
        _ => return None,
    })
}

/// One 128-bit lane; `operands` in the instruction's order.
pub fn apply(
    order: Order,
    kind: Kind,
    shape: Shape,
    operands: [u128; 3],
    context: &mut Context,
) -> u128 {
    let [first, second, third] = operands;
    let (x, y, z) = match order {
        Order::O132 => (first, third, second),
        Order::O213 => (second, first, third),
        Order::O231 => (second, third, first),
    };
    let mut index = 0;
    shape.apply(first, 0, |_, _| {
        let open = |v| {
            shape
                .format
                .unpack(shape.get(v, index).into(), context.denormals_are_zero)
        };
        let (a, b, c) = (open(x), open(y), open(z));
        let even = index % 2 == 0;
        index += 1;
        let (negate_product, negate_addend) = match kind {
            Kind::MultiplyAdd => (false, false),
            Kind::MultiplySubtract => (false, true),
            Kind::NegatedMultiplyAdd => (true, false),
            Kind::NegatedMultiplySubtract => (true, true),
            Kind::AlternateSubtractFirst => (false, even),
            Kind::AlternateAddFirst => (false, !even),
        };
        // NaNs keep their sign.
        let a = if negate_product && !a.is_nan() {
            a.negated()
        } else {
            a
        };
        let c = if negate_addend && !c.is_nan() {
            c.negated()
        } else {
            c
        };
        shape
            .format
            .pack(fused_multiply_add(a, b, c, shape.format, context)) as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Mnemonic;

    #[test]
    fn fused_results_are_rounded_once_as_the_hosts_are() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x1405_7B7E_F767_814F);
            (seed ^ seed >> 29).rotate_left(17)
        };
        for _ in 0..10_000 {
            let exponent = |r: u64| r & 0x807F_FFFF_FFFF_FFFF | 0x3F80 << 48;
            let (a, b, c) = (exponent(next()), exponent(next()), exponent(next()));
            let expected = f64::from_bits(a)
                .mul_add(f64::from_bits(b), f64::from_bits(c))
                .to_bits();
            let (order, kind, shape) = spelling(Mnemonic::Vfmadd213sd).expect("in the table");
            let mut context = Context::from_mxcsr(0x1F80);
            let result = apply(
                order,
                kind,
                shape,
                [b.into(), a.into(), c.into()],
                &mut context,
            ) as u64;
            assert_eq!(result, expected, "{a:016x} {b:016x} {c:016x}");
        }
    }
}
