//! The XSAVE area: layout, what goes in, what comes out (SDM volume 1, chapter 13).
//!
//! Components: x87, SSE, AVX and PKRU. The instructions that use this are in `exec/simd/xsave.rs`.

use x86_arch::vmx::Fpu;

pub const X87: u64 = 1;
pub const SSE: u64 = 1 << 1;
pub const AVX: u64 = 1 << 2;
pub const PKRU: u64 = 1 << 9;
/// User state components this processor has; XCR0 can hold no other bit.
pub const COMPONENTS: u64 = X87 | SSE | AVX | PKRU;
/// CET's supervisor components. The TDX module demands that they exist and a TD may have them in IA32_XSS, but CET is
/// not offered: they are always in their initial state, and only take their place in compacted areas.
const CET_USER: u64 = 1 << 11;
const CET_SUPERVISOR: u64 = 1 << 12;

/// XCOMP_BV's format bit.
pub const COMPACTED: u64 = 1 << 63;
/// Legacy region and header.
pub const FIXED_LEN: usize = 576;
/// The largest area: PKRU at its place in the standard format.
pub const MAX_LEN: usize = 2696;
/// MXCSR bits that exist.
pub const MXCSR_MASK: u32 = 0xFFFF;
const MXCSR_INITIAL: u32 = 0x1F80;

/// Components beyond the legacy region: bit, length, offset in the standard format (0: compacted only). None needs
/// alignment when compacted.
const EXTENDED: [(u64, usize, usize); 4] = [
    (AVX, 256, 576),
    (PKRU, 8, 2688),
    (CET_USER, 16, 0),
    (CET_SUPERVISOR, 24, 0),
];

/// The registers that XSAVE saves.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    pub fpu: Fpu,
    pub pkru: u32,
}

/// How one instruction sees the area.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// FIP and FDP are 64 bits (REX.W); else 32 with selectors, which are stored as zero.
    pub wide: bool,
    /// XMM and YMM registers that exist: 16 in 64-bit mode, else 8.
    pub registers: usize,
}

/// Offset of a component; `layout` is XCOMP_BV of the area, or 0 for the standard format.
pub fn offset_of(component: u64, layout: u64) -> usize {
    let mut compact = FIXED_LEN;
    for (bit, len, standard) in EXTENDED {
        if bit == component {
            return if layout & COMPACTED != 0 {
                compact
            } else {
                standard
            };
        }
        if layout & bit != 0 {
            compact += len;
        }
    }
    0
}

/// Bytes of an area that holds `components`.
pub fn area_len(components: u64, layout: u64) -> usize {
    EXTENDED
        .iter()
        .filter(|(bit, ..)| components & bit != 0)
        .map(|&(bit, len, _)| offset_of(bit, layout) + len)
        .max()
        .unwrap_or(FIXED_LEN)
}

/// Which components differ from their initial state (XINUSE). MXCSR does not count.
pub fn in_use(state: &State, view: View) -> u64 {
    let fpu = &state.fpu;
    let initial = Fpu::default();
    let x87 = fpu.fcw != initial.fcw
        || fpu.fsw != 0
        || fpu.ftw != 0
        || fpu.fop != 0
        || fpu.fip != 0
        || fpu.fdp != 0
        || fpu.st != initial.st;
    let registers = &fpu.ymm[..view.registers];
    let bit = |used: bool, bit| if used { bit } else { 0 };
    bit(x87, X87)
        | bit(registers.iter().any(|r| r[0] != 0), SSE)
        | bit(registers.iter().any(|r| r[1] != 0), AVX)
        | bit(state.pkru != 0, PKRU)
}

/// Writes the x87 part of the legacy region.
pub fn save_x87(fpu: &Fpu, view: View, area: &mut [u8]) {
    area[0..2].copy_from_slice(&fpu.fcw.to_le_bytes());
    area[2..4].copy_from_slice(&fpu.fsw.to_le_bytes());
    area[4..6].copy_from_slice(&[fpu.ftw, 0]);
    area[6..8].copy_from_slice(&fpu.fop.to_le_bytes());
    let pointer = |value: u64| {
        if view.wide {
            value
        } else {
            value & 0xFFFF_FFFF
        }
    };
    area[8..16].copy_from_slice(&pointer(fpu.fip).to_le_bytes());
    area[16..24].copy_from_slice(&pointer(fpu.fdp).to_le_bytes());
    let top = usize::from(fpu.fsw >> 11 & 7);
    for i in 0..8 {
        let value = fpu.st[(top + i) & 7] & ((1 << 80) - 1);
        area[32 + 16 * i..48 + 16 * i].copy_from_slice(&value.to_le_bytes());
    }
}

pub fn save_mxcsr(fpu: &Fpu, area: &mut [u8]) {
    area[24..28].copy_from_slice(&fpu.mxcsr.to_le_bytes());
    area[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
}

pub fn save_xmm(fpu: &Fpu, view: View, area: &mut [u8]) {
    for (i, ymm) in fpu.ymm[..view.registers].iter().enumerate() {
        area[160 + 16 * i..176 + 16 * i].copy_from_slice(&ymm[0].to_le_bytes());
    }
}

/// Writes an extended component at the start of `area`.
pub fn save_extended(state: &State, component: u64, view: View, area: &mut [u8]) {
    if component == AVX {
        for (i, ymm) in state.fpu.ymm[..view.registers].iter().enumerate() {
            area[16 * i..16 * i + 16].copy_from_slice(&ymm[1].to_le_bytes());
        }
    } else if component == PKRU {
        area[..8].copy_from_slice(&u64::from(state.pkru).to_le_bytes());
    }
}

/// The extended components in `set`, in order, with their lengths.
pub fn extended(set: u64) -> impl Iterator<Item = (u64, usize)> {
    EXTENDED
        .into_iter()
        .filter(move |(bit, ..)| set & bit != 0)
        .map(|(bit, len, _)| (bit, len))
}

fn u64_at(area: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&area[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn u128_at(area: &[u8], at: usize) -> u128 {
    u128::from(u64_at(area, at)) | u128::from(u64_at(area, at + 8)) << 64
}

/// Reads the x87 part of the legacy region.
pub fn load_x87(fpu: &mut Fpu, view: View, area: &[u8]) {
    let low = u64_at(area, 0);
    // Bit 6 reads as one; bits 7 and 13 to 15 do not exist.
    fpu.fcw = low as u16 & 0x1F7F | 0x40;
    fpu.fsw = (low >> 16) as u16;
    fpu.ftw = (low >> 32) as u8;
    fpu.fop = (low >> 48) as u16 & 0x7FF;
    let pointer = |value: u64| {
        if view.wide {
            value
        } else {
            value & 0xFFFF_FFFF
        }
    };
    fpu.fip = pointer(u64_at(area, 8));
    fpu.fdp = pointer(u64_at(area, 16));
    // ES and B follow from the exceptions that are pending.
    if fpu.fsw & !fpu.fcw & 0x3F != 0 {
        fpu.fsw |= 0x8080;
    } else {
        fpu.fsw &= !0x8080;
    }
    let top = usize::from(fpu.fsw >> 11 & 7);
    for i in 0..8 {
        fpu.st[(top + i) & 7] = u128_at(area, 32 + 16 * i) & ((1 << 80) - 1);
    }
}

/// MXCSR of an area; `None` when it sets a bit that does not exist.
pub fn mxcsr_of(area: &[u8]) -> Option<u32> {
    let value = u64_at(area, 24) as u32;
    (value & !MXCSR_MASK == 0).then_some(value)
}

pub fn load_xmm(fpu: &mut Fpu, view: View, area: &[u8]) {
    for (i, ymm) in fpu.ymm[..view.registers].iter_mut().enumerate() {
        ymm[0] = u128_at(area, 160 + 16 * i);
    }
}

/// What an XSAVE header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// XSTATE_BV: components the area holds; the others are in their initial state.
    pub present: u64,
    /// XCOMP_BV: 0 for the standard format.
    pub layout: u64,
}

impl Header {
    /// Checks the header of `area`: `None` where XRSTOR (or XRSTORS, `supervisor`) raises #GP(0).
    pub fn parse(area: &[u8], allowed: u64, supervisor: bool) -> Option<Self> {
        let header = Self {
            present: u64_at(area, 512),
            layout: u64_at(area, 520),
        };
        let zero = |from: usize| area[from..FIXED_LEN].iter().all(|byte| *byte == 0);
        let fine = if header.layout & COMPACTED != 0 {
            header.layout & !COMPACTED & !allowed == 0
                && header.present & !header.layout == 0
                && zero(528)
        } else {
            !supervisor
                && header.present & !allowed == 0
                && header.layout == 0
                && area[528..536].iter().all(|byte| *byte == 0)
        };
        fine.then_some(header)
    }
}

/// Loads the components in `wanted` from an area whose header was checked; those not present get their initial state.
/// `extended_at` gives an extended component's bytes. Fails (and changes nothing) for an MXCSR with reserved bits.
pub fn restore(
    state: &mut State,
    header: Header,
    wanted: u64,
    view: View,
    area: &[u8],
) -> Option<()> {
    let compacted = header.layout & COMPACTED != 0;
    // In the standard format MXCSR is loaded even when XMM registers get their initial state.
    let mxcsr = match (compacted, wanted & SSE != 0, header.present & SSE != 0) {
        (true, true, true) => Some(mxcsr_of(area)?),
        (true, true, false) => Some(MXCSR_INITIAL),
        (false, ..) if wanted & (SSE | AVX) != 0 => Some(mxcsr_of(area)?),
        _ => None,
    };
    if let Some(mxcsr) = mxcsr {
        state.fpu.mxcsr = mxcsr;
    }
    if wanted & X87 != 0 {
        if header.present & X87 != 0 {
            load_x87(&mut state.fpu, view, area);
        } else {
            let initial = Fpu::default();
            state.fpu = Fpu {
                mxcsr: state.fpu.mxcsr,
                ymm: state.fpu.ymm,
                ..initial
            };
        }
    }
    if wanted & SSE != 0 {
        if header.present & SSE != 0 {
            load_xmm(&mut state.fpu, view, area);
        } else {
            state.fpu.ymm[..view.registers]
                .iter_mut()
                .for_each(|ymm| ymm[0] = 0);
        }
    }
    for (component, len) in extended(wanted) {
        let at = offset_of(component, header.layout);
        let bytes = match header.present & component != 0 {
            true => area.get(at..at + len)?,
            false => &[0; 256][..len],
        };
        if component == AVX {
            for (i, ymm) in state.fpu.ymm[..view.registers].iter_mut().enumerate() {
                ymm[1] = u128_at(bytes, 16 * i);
            }
        } else if component == PKRU {
            state.pkru = u64_at(bytes, 0) as u32;
        }
    }
    Some(())
}

/// Fuzz target: any bytes as an area, loaded with any request, are refused or give a state that saves and loads to
/// itself.
pub fn fuzz_restore(data: &[u8]) {
    let mut area = [0; MAX_LEN];
    let Some((&[a, b, c], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    let len = rest.len().min(MAX_LEN);
    area[..len].copy_from_slice(&rest[..len]);
    let view = View {
        wide: a & 1 != 0,
        registers: if a & 2 != 0 { 16 } else { 8 },
    };
    let wanted = (u64::from(b) | u64::from(c) << 8) & COMPONENTS;
    let mut state = State::default();
    let Some(header) = Header::parse(&area, COMPONENTS, a & 4 != 0) else {
        return;
    };
    if restore(&mut state, header, wanted, view, &area).is_none() {
        return;
    }
    let mut copy = [0; MAX_LEN];
    save_x87(&state.fpu, view, &mut copy);
    save_mxcsr(&state.fpu, &mut copy);
    save_xmm(&state.fpu, view, &mut copy);
    for (component, _) in extended(COMPONENTS) {
        save_extended(
            &state,
            component,
            view,
            &mut copy[offset_of(component, 0)..],
        );
    }
    let mut again = State::default();
    let whole = Header {
        present: COMPONENTS,
        layout: 0,
    };
    restore(&mut again, whole, COMPONENTS, view, &copy);
    assert_eq!(again, state, "a loaded state saves and loads to itself");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compacted_components_follow_each_other() {
        assert_eq!(offset_of(PKRU, 0), 2688);
        assert_eq!(offset_of(PKRU, COMPACTED | PKRU), 576);
        assert_eq!(offset_of(PKRU, COMPACTED | AVX | PKRU), 832);
        assert_eq!(
            area_len(
                COMPONENTS | CET_USER | CET_SUPERVISOR,
                COMPACTED | COMPONENTS | CET_USER | CET_SUPERVISOR
            ),
            880
        );
        assert_eq!(area_len(X87 | SSE, 0), 576);
        assert_eq!(area_len(COMPONENTS, 0), MAX_LEN);
    }

    #[test]
    fn headers_are_refused_as_the_manual_says() {
        let mut area = [0u8; MAX_LEN];
        let parse = |area: &[u8]| Header::parse(area, 7, false);
        assert!(parse(&area).is_some());
        area[513] = 2; // XSTATE_BV names PKRU, which XCR0 does not
        assert!(parse(&area).is_none());
        area[513] = 0;
        area[528] = 1; // bytes 23:16 of the header
        assert!(parse(&area).is_none());
        area[528] = 0;
        area[560] = 1; // beyond byte 24: only the compacted format looks
        assert!(parse(&area).is_some());
        area[527] = 0x80;
        assert!(parse(&area).is_none());
        area[560] = 0;
        assert!(parse(&area).is_some());
        area[512] = 1; // present, but not in XCOMP_BV
        assert!(parse(&area).is_none());
    }

    #[test]
    fn any_bytes_are_refused_or_survive_a_round_trip() {
        let mut seed = 7u64;
        let mut data = vec![0u8; MAX_LEN];
        for round in 0..2000 {
            for byte in &mut data {
                seed = seed
                    .wrapping_mul(0x5851_F42D_4C95_7F2D)
                    .wrapping_add(0x1405_7B7E_F767_814F);
                *byte = (seed >> 33) as u8;
            }
            // Mostly plausible headers.
            data[3 + 512..3 + 576].fill(0);
            data[3 + 512] = (round % 8) as u8;
            data[3 + 527] = if round % 3 == 0 { 0x80 } else { 0 };
            data[3 + 520] = if round % 3 == 0 { 7 } else { 0 };
            data[3 + 24..3 + 28].copy_from_slice(&[0x80, 0x1F, 0, (round % 17 == 0) as u8]);
            fuzz_restore(&data);
        }
    }
}
