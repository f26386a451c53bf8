//! Vector and x87 registers: bytes of the XSAVES image that the module keeps for a stopped vCPU (XBUFF).
//!
//! The image is compacted (SDM volume 1, 13.4.3). Its header cannot be written (spec: vp-enter.md 10.1), so a
//! component in its initial configuration reads as that and cannot be changed.

use std::fmt;

use tdx_call::{HostMemory, SeamcallLp};

use super::{DebugError, DebugReg, Stopped};

/// XSTATE_BV and XCOMP_BV, as words of the image.
const XSTATE_BV: u16 = 64;
const XCOMP_BV: u16 = 65;
/// Where the compacted part begins.
const EXTENDED: usize = 576;
/// Components beyond x87 and SSE: length, and whether a compacted area aligns it to 64 bytes (CPUID leaf 0xD).
const COMPONENTS: [(usize, bool); 17] = [
    (256, false),
    (64, false),
    (64, false),
    (64, false),
    (512, false),
    (1024, false),
    (128, false),
    (8, false),
    (8, false),
    (16, false),
    (24, false),
    (8, false),
    (16, false),
    (808, false),
    (8, false),
    (64, true),
    (8192, true),
];

/// A state component by its bit in XCR0 or IA32_XSS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Component(pub u8);

impl Component {
    pub const X87: Component = Component(0);
    /// XMM registers and MXCSR.
    pub const SSE: Component = Component(1);
    /// The upper halves of YMM0 to YMM15.
    pub const AVX: Component = Component(2);
    pub const OPMASK: Component = Component(5);
    pub const ZMM_HIGH256: Component = Component(6);
    pub const HIGH16_ZMM: Component = Component(7);
    pub const PKRU: Component = Component(9);

    pub const fn bit(self) -> u64 {
        1 << self.0
    }

    /// The component that holds a byte of the legacy region.
    const fn of_legacy(offset: usize) -> Component {
        match offset {
            // In a compacted image MXCSR belongs to SSE alone (SDM volume 1, 13.4.3).
            24..32 | 160.. => Component::SSE,
            _ => Component::X87,
        }
    }

    /// Where it begins in an image with this XCOMP_BV.
    fn offset(self, xcomp_bv: u64) -> Option<usize> {
        if xcomp_bv & self.bit() == 0 || self.0 < 2 {
            return None;
        }
        let mut at = EXTENDED;
        for (number, (length, aligned)) in (2u8..).zip(COMPONENTS) {
            if xcomp_bv >> number & 1 == 0 {
                continue;
            }
            if aligned {
                at = at.next_multiple_of(64);
            }
            if number == self.0 {
                return Some(at);
            }
            at += length;
        }
        None
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Component::X87 => f.write_str("x87"),
            Component::SSE => f.write_str("SSE"),
            Component::AVX => f.write_str("AVX"),
            Component::OPMASK | Component::ZMM_HIGH256 | Component::HIGH16_ZMM => {
                f.write_str("AVX-512")
            }
            Component::PKRU => f.write_str("PKRU"),
            Component(number) => write!(f, "component {number}"),
        }
    }
}

/// Bytes of a component, `None` when the TD's XFAM leaves it out; the offset counts from the image's start for x87
/// and SSE, from the component's for the others.
fn place(component: Component, offset: usize, xcomp_bv: u64) -> Option<usize> {
    match component {
        Component::X87 | Component::SSE => Some(offset),
        _ => component.offset(xcomp_bv).map(|start| start + offset),
    }
}

impl<M: HostMemory, L: SeamcallLp> Stopped<'_, M, L> {
    /// Bytes of the legacy region: x87, XMM and MXCSR.
    pub fn legacy_state(&mut self, offset: usize, to: &mut [u8]) -> Result<(), DebugError> {
        self.state(Component::of_legacy(offset), offset, to)
    }

    pub fn set_legacy_state(&mut self, offset: usize, from: &[u8]) -> Result<(), DebugError> {
        self.set_state(Component::of_legacy(offset), offset, from)
    }

    /// Bytes of a component. One in its initial configuration, or that the TD does not have, reads as the former.
    pub fn state(
        &mut self,
        component: Component,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), DebugError> {
        let live = self.get(DebugReg::Xbuff(XSTATE_BV))?;
        let layout = self.get(DebugReg::Xbuff(XCOMP_BV))?;
        let at = place(component, offset, layout);
        let Some(at) = at.filter(|_| live & component.bit() != 0) else {
            initial(component, offset, to);
            return Ok(());
        };
        for (i, byte) in to.iter_mut().enumerate() {
            let word = self.get(DebugReg::Xbuff(((at + i) / 8) as u16))?;
            *byte = word.to_le_bytes()[(at + i) % 8];
        }
        Ok(())
    }

    /// Changes bytes of a component.
    pub fn set_state(
        &mut self,
        component: Component,
        offset: usize,
        from: &[u8],
    ) -> Result<(), DebugError> {
        let mut now = vec![0; from.len()];
        self.state(component, offset, &mut now)?;
        if now == from {
            return Ok(());
        }
        let live = self.get(DebugReg::Xbuff(XSTATE_BV))?;
        let layout = self.get(DebugReg::Xbuff(XCOMP_BV))?;
        let at = place(component, offset, layout).ok_or(DebugError::NoComponent { component })?;
        if live & component.bit() == 0 {
            return Err(DebugError::InitialState { component });
        }
        let end = at + from.len();
        for word in at / 8..end.div_ceil(8) {
            let reg = DebugReg::Xbuff(word as u16);
            let mut bytes = self.get(reg)?.to_le_bytes();
            for (i, byte) in bytes.iter_mut().enumerate() {
                if let Some(new) = (word * 8 + i).checked_sub(at).and_then(|i| from.get(i)) {
                    *byte = *new;
                }
            }
            self.write(reg, u64::from_le_bytes(bytes))?;
        }
        Ok(())
    }
}

/// A component's initial configuration (SDM volume 1, 13.6): zeros, but for FCW and MXCSR.
fn initial(component: Component, offset: usize, to: &mut [u8]) {
    let value = |at: usize| match (component, at) {
        (Component::X87, 0) => 0x7F,
        (Component::X87, 1) => 0x03,
        (Component::SSE, 24) => 0x80,
        (Component::SSE, 25) => 0x1F,
        _ => 0,
    };
    for (i, byte) in to.iter_mut().enumerate() {
        *byte = value(offset + i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_follow_each_other_in_a_compacted_image() {
        let compacted = 1 << 63;
        let offset = |component: Component, layout: u64| component.offset(layout | compacted);
        assert_eq!(offset(Component::AVX, 0x7), Some(576));
        assert_eq!(offset(Component::PKRU, 0x203), Some(576));
        assert_eq!(offset(Component::PKRU, 0x207), Some(832));
        assert_eq!(offset(Component::OPMASK, 0xE7), Some(832));
        assert_eq!(offset(Component::ZMM_HIGH256, 0xE7), Some(896));
        assert_eq!(offset(Component::HIGH16_ZMM, 0xE7), Some(1408));
        assert_eq!(offset(Component::PKRU, 0x2E7), Some(2432));
        assert_eq!(offset(Component::AVX, 0x3), None, "not in XFAM");
        // TILECFG is aligned to 64 bytes behind PKRU.
        assert_eq!(offset(Component(17), 0x2_0207), Some(896));
    }

    #[test]
    fn every_byte_of_the_legacy_region_is_one_components() {
        for offset in 0..416 {
            let sse = (24..32).contains(&offset) || offset >= 160;
            let expected = if sse { Component::SSE } else { Component::X87 };
            assert_eq!(Component::of_legacy(offset), expected, "{offset}");
        }
    }

    #[test]
    fn initial_configurations_are_the_manuals() {
        let read = |offset, length| {
            let mut bytes = vec![0xEE; length];
            initial(Component::of_legacy(offset), offset, &mut bytes);
            bytes
        };
        assert_eq!(read(0, 2), [0x7F, 0x03], "FCW");
        assert_eq!(read(24, 4), [0x80, 0x1F, 0, 0], "MXCSR");
        assert_eq!(read(160, 16), [0; 16], "XMM0");
    }
}
