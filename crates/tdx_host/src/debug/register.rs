//! The registers of a vCPU that a debugger of a DEBUG TD reaches, and the metadata field behind each
//! (spec: vp-enter.md 10.1).

use std::fmt;

use x86_arch::Gpr;
use x86_arch::vmx::Seg;

/// A part of a segment register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SegPart {
    Selector,
    Base,
    Limit,
    /// Access rights in VMCS format.
    Access,
}

/// A register of a stopped vCPU, as TDH.VP.RD and TDH.VP.WR reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugReg {
    Gpr(Gpr),
    Rip,
    Rflags,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    /// DR0 to DR3.
    Dr(u8),
    Dr6,
    Dr7,
    Xcr0,
    Efer,
    Pat,
    Debugctl,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Star,
    Lstar,
    Fmask,
    KernelGsBase,
    TscAux,
    Segment(Seg, SegPart),
    Ldtr(SegPart),
    Tr(SegPart),
    GdtrBase,
    GdtrLimit,
    IdtrBase,
    IdtrLimit,
    Interruptibility,
    PendingDebug,
    ExceptionBitmap,
    /// A 64-bit word of the XSAVES image: x87 and SSE in words 0 to 63, the header in 64 to 71.
    Xbuff(u16),
    /// Any other field, by its id.
    Field(u64),
}

/// A TD VMCS field: the id's class is 0 and its code the VMCS encoding; the element size is in bits 33:32.
const fn vmcs(encoding: u32) -> u64 {
    // VMCS encoding bits 14:13: 0 16-bit, 1 64-bit, 2 32-bit, 3 natural width.
    let size = match encoding >> 13 & 3 {
        0 => 1,
        2 => 2,
        _ => 3,
    };
    0x0024_0000_0000_0000 | size << 32 | encoding as u64
}

const fn state(class: u64, code: u64) -> u64 {
    class | 3 << 32 | code
}

const GPR_CLASS: u64 = 0x1020_0000_0000_0000;
const STATE_CLASS: u64 = 0x1120_0000_0000_0000;
const XBUFF_CLASS: u64 = 0x1220_0000_0000_0000;
const MSR_CLASS: u64 = 0x1320_0000_0000_0000;

impl DebugReg {
    /// The metadata field id.
    pub const fn field(self) -> u64 {
        match self {
            // RSP is the VMCS's; its place among the GPRs is a dummy.
            DebugReg::Gpr(Gpr::Rsp) => vmcs(0x681C),
            DebugReg::Gpr(reg) => state(GPR_CLASS, reg as u64),
            DebugReg::Rip => vmcs(0x681E),
            DebugReg::Rflags => vmcs(0x6820),
            DebugReg::Cr0 => vmcs(0x6800),
            DebugReg::Cr2 => state(STATE_CLASS, 0x28),
            DebugReg::Cr3 => vmcs(0x6802),
            DebugReg::Cr4 => vmcs(0x6804),
            DebugReg::Dr(n) => state(STATE_CLASS, n as u64),
            DebugReg::Dr6 => state(STATE_CLASS, 6),
            DebugReg::Dr7 => vmcs(0x681A),
            DebugReg::Xcr0 => state(STATE_CLASS, 0x20),
            DebugReg::Efer => vmcs(0x2806),
            DebugReg::Pat => vmcs(0x2804),
            DebugReg::Debugctl => vmcs(0x2802),
            DebugReg::SysenterCs => vmcs(0x482A),
            DebugReg::SysenterEsp => vmcs(0x6824),
            DebugReg::SysenterEip => vmcs(0x6826),
            DebugReg::Star => state(MSR_CLASS, 0x2081),
            DebugReg::Lstar => state(MSR_CLASS, 0x2082),
            DebugReg::Fmask => state(MSR_CLASS, 0x2084),
            DebugReg::KernelGsBase => state(MSR_CLASS, 0x2102),
            DebugReg::TscAux => state(MSR_CLASS, 0x2103),
            DebugReg::Segment(seg, part) => segment(seg as u32, part),
            DebugReg::Ldtr(part) => segment(6, part),
            DebugReg::Tr(part) => segment(7, part),
            DebugReg::GdtrBase => vmcs(0x6816),
            DebugReg::GdtrLimit => vmcs(0x4810),
            DebugReg::IdtrBase => vmcs(0x6818),
            DebugReg::IdtrLimit => vmcs(0x4812),
            DebugReg::Interruptibility => vmcs(0x4824),
            DebugReg::PendingDebug => vmcs(0x6822),
            DebugReg::ExceptionBitmap => vmcs(0x4004),
            DebugReg::Xbuff(word) => state(XBUFF_CLASS, word as u64),
            DebugReg::Field(id) => id,
        }
    }
}

/// `row` counts ES, CS, SS, DS, FS, GS, LDTR, TR, as the VMCS does.
const fn segment(row: u32, part: SegPart) -> u64 {
    vmcs(
        2 * row
            + match part {
                SegPart::Selector => 0x800,
                SegPart::Base => 0x6806,
                SegPart::Limit => 0x4800,
                SegPart::Access => 0x4814,
            },
    )
}

impl fmt::Display for DebugReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DebugReg::Gpr(reg) => write!(f, "{reg}"),
            DebugReg::Dr(n) => write!(f, "DR{n}"),
            DebugReg::Segment(seg, part) => write!(f, "{seg:?} {part:?}"),
            DebugReg::Ldtr(part) => write!(f, "LDTR {part:?}"),
            DebugReg::Tr(part) => write!(f, "TR {part:?}"),
            DebugReg::Xbuff(word) => write!(f, "XBUFF[{word}]"),
            DebugReg::Field(id) => write!(f, "field {id:#018x}"),
            other => write!(f, "{}", format!("{other:?}").to_uppercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::metadata::{FieldRow, TD_VMCS, TDVPS};

    /// The row of an id, class and field code compared.
    fn row(id: u64) -> Option<&'static FieldRow> {
        TDVPS.iter().chain(TD_VMCS).find(|row| {
            let first = row.id.0;
            first <= id && id < first + u64::from(row.num_fields)
        })
    }

    fn all() -> Vec<DebugReg> {
        use DebugReg as R;
        let parts = [
            SegPart::Selector,
            SegPart::Base,
            SegPart::Limit,
            SegPart::Access,
        ];
        let segs = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
        let mut all: Vec<R> = Gpr::ALL.into_iter().map(R::Gpr).collect();
        all.extend((0..4).map(R::Dr));
        all.extend(
            parts
                .into_iter()
                .flat_map(|p| segs.map(|s| R::Segment(s, p))),
        );
        all.extend(parts.into_iter().flat_map(|p| [R::Ldtr(p), R::Tr(p)]));
        all.extend([R::Xbuff(0), R::Xbuff(1535)]);
        all.extend([
            R::Rip,
            R::Rflags,
            R::Cr0,
            R::Cr2,
            R::Cr3,
            R::Cr4,
            R::Dr6,
            R::Dr7,
            R::Xcr0,
            R::Efer,
            R::Pat,
            R::Debugctl,
            R::SysenterCs,
            R::SysenterEsp,
            R::SysenterEip,
            R::Star,
            R::Lstar,
            R::Fmask,
            R::KernelGsBase,
            R::TscAux,
            R::GdtrBase,
            R::GdtrLimit,
            R::IdtrBase,
            R::IdtrLimit,
            R::Interruptibility,
            R::PendingDebug,
            R::ExceptionBitmap,
        ]);
        all
    }

    #[test]
    fn every_register_is_a_field_that_a_debugger_reads() {
        for reg in all() {
            let row = row(reg.field()).unwrap_or_else(|| panic!("{reg}: {:#x}", reg.field()));
            assert_ne!(row.host_debug.read, 0, "{reg} is {}", row.name);
        }
    }

    #[test]
    fn names_agree_with_the_abis() {
        for (reg, name) in [
            (DebugReg::Gpr(Gpr::R10), "R10"),
            (DebugReg::Gpr(Gpr::Rsp), "Guest RSP"),
            (DebugReg::Dr6, "DR6"),
            (DebugReg::Cr2, "CR2"),
            (DebugReg::Segment(Seg::Fs, SegPart::Base), "Guest FS base"),
            (DebugReg::Tr(SegPart::Access), "Guest TR access rights"),
            (DebugReg::KernelGsBase, "IA32_KERNEL_GS_BASE"),
            (DebugReg::Xbuff(72), "XBUFF"),
        ] {
            assert_eq!(row(reg.field()).expect("a row").name, name);
        }
    }
}
