//! Extended state: what XFAM allows, where the components lie in a vCPU's XBUFF, and its XSAVES image.
//!
//! XBUFF is the compacted XSAVES image of the vCPU while it does not run (spec: host-td.md 3.4, vp-enter.md 5,
//! metadata class 18). x87, SSE, AVX and PKRU move between it and the register file at each TD entry and exit;
//! the other components stay in the image untouched, since nothing here executes with them.

use crate::cpuid::{Component, PlatformCpuid};
use alloc::boxed::Box;
use x86_arch::vmx::{Fpu, Registers};

/// Bytes of XBUFF: three pages.
pub const XBUFF_SIZE: usize = 3 * 4096;
/// Legacy area and header.
const FIRST_OFFSET: u32 = 576;
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
const COMPACTED: u64 = 1 << 63;
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
/// MXCSR bits that a processor accepts.
const MXCSR_MASK: u32 = 0xFFFF;

/// The extended features that a TD has: XCR0 and IA32_XSS bits in one mask.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Xfam(pub u64);

impl Xfam {
    pub const AVX: u64 = 1 << 2;
    pub const AVX512: u64 = 7 << 5;
    pub const PT: u64 = 1 << 8;
    pub const PKRU: u64 = 1 << 9;
    pub const CET: u64 = 3 << 11;
    pub const UINTR: u64 = 1 << 14;
    pub const LBR: u64 = 1 << 15;
    pub const AMX: u64 = 3 << 17;
    /// Bits that the module knows.
    pub const KNOWN: u64 = 0x6DBE7;
    /// Bits of XCR0 among them.
    pub const USER: u64 = 0x602FF;
    /// Bits of IA32_XSS among them.
    pub const SUPERVISOR: u64 = 0x1FD00;

    /// Any of the bits.
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
    pub const fn has_all(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
    /// Whether TD_PARAMS may hold it on a platform with these features (host-td.md 3.4, row 6).
    pub const fn is_valid(self, supported: u64) -> bool {
        let groups_whole =
            whole(self.0, Self::AVX512) && whole(self.0, Self::CET) && whole(self.0, Self::AMX);
        self.0 & !(Self::KNOWN & supported) == 0
            && self.0 & 3 == 3
            && groups_whole
            && (self.0 & Self::AVX512 == 0 || self.0 & Self::AVX != 0)
    }
    /// Whether XSETBV may load it into XCR0 (guest-virtualization.md 3).
    pub const fn allows_xcr0(self, value: u64, xcr0_supported: u64) -> bool {
        value & !(xcr0_supported & self.0) == 0
            && value & X87 != 0
            && (value & Self::AVX == 0 || value & SSE != 0)
            && whole(value, Self::AVX512)
            && (value & Self::AVX512 == 0 || value & Self::AVX != 0)
            && whole(value, Self::AMX)
    }
    /// Where each component lies in XBUFF, 0 for those it lacks, and the bytes used.
    pub fn layout(self, components: &[Component; 19]) -> XbuffLayout {
        let mut layout = XbuffLayout {
            offsets: [0; 19],
            size: FIRST_OFFSET,
        };
        for (n, component) in components.iter().enumerate().skip(2) {
            if self.has(1 << n) {
                if component.aligned {
                    layout.size = layout.size.next_multiple_of(64);
                }
                layout.offsets[n] = layout.size;
                layout.size += component.size;
            }
        }
        layout
    }
}

/// All bits of a group, or none.
const fn whole(value: u64, group: u64) -> bool {
    value & group == 0 || value & group == group
}

/// Where the components of an XFAM lie in the compacted image.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct XbuffLayout {
    pub offsets: [u32; 19],
    pub size: u32,
}

/// Why an image cannot be loaded (vp-enter.md 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadImage;

/// The XSAVES image of a vCPU that does not run.
#[derive(Clone)]
pub struct Xbuff(pub Box<[u8; XBUFF_SIZE]>);

impl Xbuff {
    /// Every component in its initial state.
    pub fn new() -> Self {
        let mut image = Xbuff(zeroed());
        image.set_qword(XCOMP_BV / 8, COMPACTED);
        image
    }
    pub fn qword(&self, index: usize) -> u64 {
        let bytes = self.0[index * 8..index * 8 + 8].try_into();
        u64::from_le_bytes(bytes.unwrap_or([0; 8]))
    }
    pub fn set_qword(&mut self, index: usize, value: u64) {
        self.0[index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// XRSTORS: takes the components that `regs` has out of the image.
    pub fn restore(
        &self,
        xfam: Xfam,
        layout: &XbuffLayout,
        regs: &mut Registers,
    ) -> Result<(), BadImage> {
        let present = self.qword(XSTATE_BV / 8);
        let compacted = self.qword(XCOMP_BV / 8);
        let reserved_clear = self.0[528..576].iter().all(|byte| *byte == 0);
        if compacted & COMPACTED == 0
            || compacted & !COMPACTED & !xfam.0 != 0
            || present & !(compacted & !COMPACTED) != 0 && present != 0
            || !reserved_clear
        {
            return Err(BadImage);
        }
        let mut fpu = Fpu::default();
        if present & X87 != 0 {
            self.read_x87(&mut fpu);
        }
        // In the compacted form MXCSR belongs to SSE (SDM volume 1, 13.8.2).
        if present & SSE != 0 {
            fpu.mxcsr = self.u32_at(24);
            if fpu.mxcsr & !MXCSR_MASK != 0 {
                return Err(BadImage);
            }
        }
        for n in 0..16 {
            if present & SSE != 0 {
                fpu.ymm[n][0] = self.u128_at(160 + 16 * n);
            }
            if present & Xfam::AVX != 0 {
                fpu.ymm[n][1] = self.u128_at(layout.offsets[2] as usize + 16 * n);
            }
        }
        regs.fpu = fpu;
        regs.pkru = 0;
        if present & Xfam::PKRU != 0 {
            regs.pkru = self.u32_at(layout.offsets[9] as usize);
        }
        Ok(())
    }

    /// XSAVES: puts the components of `regs` into the image; those in their initial state are not written.
    pub fn save(&mut self, xfam: Xfam, layout: &XbuffLayout, regs: &Registers) {
        let initial = Fpu::default();
        let fpu = &regs.fpu;
        let mut present = self.qword(XSTATE_BV / 8) & xfam.0;
        present &= !(X87 | SSE | Xfam::AVX | Xfam::PKRU);
        if !x87_is_initial(fpu) {
            present |= X87;
            self.write_x87(fpu);
        }
        if fpu.ymm.iter().any(|ymm| ymm[0] != 0) || fpu.mxcsr != initial.mxcsr {
            present |= SSE;
            for n in 0..16 {
                self.put(160 + 16 * n, &fpu.ymm[n][0].to_le_bytes());
            }
        }
        if xfam.has(Xfam::AVX) && fpu.ymm.iter().any(|ymm| ymm[1] != 0) {
            present |= Xfam::AVX;
            for n in 0..16 {
                self.put(
                    layout.offsets[2] as usize + 16 * n,
                    &fpu.ymm[n][1].to_le_bytes(),
                );
            }
        }
        if present & SSE != 0 {
            self.put(24, &fpu.mxcsr.to_le_bytes());
            self.put(28, &MXCSR_MASK.to_le_bytes());
        }
        if xfam.has(Xfam::PKRU) && regs.pkru != 0 {
            present |= Xfam::PKRU;
            self.put(layout.offsets[9] as usize, &regs.pkru.to_le_bytes());
        }
        self.set_qword(XSTATE_BV / 8, present);
        self.set_qword(XCOMP_BV / 8, COMPACTED | xfam.0);
    }

    fn read_x87(&self, fpu: &mut Fpu) {
        fpu.fcw = self.u32_at(0) as u16;
        fpu.fsw = (self.u32_at(0) >> 16) as u16;
        fpu.ftw = self.0[4];
        fpu.fop = (self.u32_at(4) >> 16) as u16 & 0x7FF;
        fpu.fip = self.qword(1);
        fpu.fdp = self.qword(2);
        // The image holds ST0 to ST7; the file holds physical registers.
        let top = (fpu.fsw >> 11 & 7) as usize;
        for n in 0..8 {
            fpu.st[(top + n) % 8] = self.u128_at(32 + 16 * n) & ((1 << 80) - 1);
        }
    }

    fn write_x87(&mut self, fpu: &Fpu) {
        self.put(0, &fpu.fcw.to_le_bytes());
        self.put(2, &fpu.fsw.to_le_bytes());
        self.put(4, &[fpu.ftw, 0]);
        self.put(6, &fpu.fop.to_le_bytes());
        self.put(8, &fpu.fip.to_le_bytes());
        self.put(16, &fpu.fdp.to_le_bytes());
        let top = (fpu.fsw >> 11 & 7) as usize;
        for n in 0..8 {
            self.put(32 + 16 * n, &fpu.st[(top + n) % 8].to_le_bytes());
        }
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.0[offset..offset + 4].try_into().unwrap_or([0; 4]))
    }
    fn u128_at(&self, offset: usize) -> u128 {
        u128::from_le_bytes(self.0[offset..offset + 16].try_into().unwrap_or([0; 16]))
    }
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Default for Xbuff {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Xbuff {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Xbuff(XSTATE_BV {:#x}, XCOMP_BV {:#x})",
            self.qword(64),
            self.qword(65)
        )
    }
}

fn zeroed() -> Box<[u8; XBUFF_SIZE]> {
    let bytes: Box<[u8]> = alloc::vec![0; XBUFF_SIZE].into_boxed_slice();
    bytes
        .try_into()
        .unwrap_or_else(|_| Box::new([0; XBUFF_SIZE]))
}

fn x87_is_initial(fpu: &Fpu) -> bool {
    let initial = Fpu::default();
    fpu.fcw == initial.fcw
        && fpu.fsw == initial.fsw
        && fpu.ftw == initial.ftw
        && fpu.fop == initial.fop
        && fpu.fip == initial.fip
        && fpu.fdp == initial.fdp
        && fpu.st == initial.st
}

/// The platform's components that a TD's XFAM may hold.
pub fn supported(platform: &PlatformCpuid) -> u64 {
    platform.xcr0_supported | platform.xss_supported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components() -> [Component; 19] {
        let mut all = [Component::default(); 19];
        all[2] = Component {
            size: 256,
            aligned: false,
            xfd: false,
        };
        all[9] = Component {
            size: 8,
            aligned: false,
            xfd: false,
        };
        all[17] = Component {
            size: 64,
            aligned: true,
            xfd: false,
        };
        all[18] = Component {
            size: 8192,
            aligned: true,
            xfd: true,
        };
        all
    }

    #[test]
    fn the_image_packs_components_in_order_with_their_alignment() {
        let layout = Xfam(0x60207).layout(&components());
        assert_eq!(layout.offsets[2], 576);
        assert_eq!(layout.offsets[9], 832);
        assert_eq!(layout.offsets[17], 896); // 840 is not a multiple of 64
        assert_eq!(layout.offsets[18], 960);
        assert_eq!(layout.size, 960 + 8192);
    }

    #[test]
    fn registers_come_back_from_the_image() {
        let xfam = Xfam(0x207);
        let layout = xfam.layout(&components());
        let mut regs = Registers::default();
        regs.fpu.fsw = 3 << 11;
        regs.fpu.st[3] = 0x3FFF_8000_0000_0000_0000;
        regs.fpu.ymm[5] = [7, 9];
        regs.pkru = 0x5555_5554;
        let mut image = Xbuff::new();
        image.save(xfam, &layout, &regs);
        assert_eq!(image.qword(64), 0x207);
        assert_eq!(image.qword(65), 1 << 63 | 0x207);
        let mut back = Registers::default();
        image
            .restore(xfam, &layout, &mut back)
            .expect("a good image");
        assert_eq!(back.fpu, regs.fpu);
        assert_eq!(back.pkru, regs.pkru);
    }

    #[test]
    fn a_fresh_image_restores_initial_state() {
        let layout = Xfam(0x7).layout(&components());
        let mut regs = Registers::default();
        regs.fpu.ymm[0] = [1, 1];
        Xbuff::new()
            .restore(Xfam(7), &layout, &mut regs)
            .expect("a good image");
        assert_eq!(regs.fpu, Fpu::default());
    }

    /// vp-enter.md 5.1.
    #[test]
    fn a_broken_header_is_refused() {
        let layout = Xfam(0x7).layout(&components());
        let mut regs = Registers::default();
        for (qword, value) in [(65, 0), (65, COMPACTED | 0x200), (64, 8), (70, 1)] {
            let mut image = Xbuff::new();
            image.set_qword(qword, value);
            assert_eq!(
                image.restore(Xfam(7), &layout, &mut regs),
                Err(BadImage),
                "{qword} {value:#x}"
            );
        }
    }

    /// host-td.md 3.4 row 6.
    #[test]
    fn xfam_groups_are_whole() {
        let all = Xfam::KNOWN;
        assert!(Xfam(3).is_valid(all));
        assert!(Xfam(0x7).is_valid(all));
        assert!(Xfam(0xE7).is_valid(all));
        assert!(!Xfam(0xE3).is_valid(all));
        assert!(!Xfam(0x27).is_valid(all));
        assert!(!Xfam(0x803).is_valid(all));
        assert!(!Xfam(0x20003).is_valid(all));
        assert!(!Xfam(1).is_valid(all));
        assert!(!Xfam(0xB).is_valid(all));
        assert!(!Xfam(0x60003).is_valid(0xFF));
    }
}
