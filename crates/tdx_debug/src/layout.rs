//! GDB's registers for x86-64: numbers, sizes, and the field of the vCPU behind each.
//!
//! The first features are GDB's own (`org.gnu.gdb.i386.*`), whose order is fixed; the last one is ours.

use tdx_host::debug::{DebugReg, SegPart};
use x86_arch::Gpr;
use x86_arch::vmx::Seg;

/// Where a register's value comes from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Source {
    /// A field of the vCPU.
    Field(DebugReg),
    /// Bytes of the XSAVES image from this offset on.
    Xsave(u16),
    /// An XMM register's upper YMM half, in the compacted part of the image.
    YmmHigh(u8),
    /// x87 state that GDB names and the image does not keep in that form: the tag word.
    Tags,
}

/// One register as GDB knows it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Register {
    pub name: &'static str,
    pub bits: u16,
    kind: &'static str,
    pub source: Source,
}

const fn reg(name: &'static str, bits: u16, kind: &'static str, source: Source) -> Register {
    Register {
        name,
        bits,
        kind,
        source,
    }
}

const fn field(name: &'static str, field: DebugReg) -> Register {
    reg(name, 64, "int64", Source::Field(field))
}

const fn gpr(name: &'static str, gpr: Gpr) -> Register {
    field(name, DebugReg::Gpr(gpr))
}

const fn selector(name: &'static str, seg: Seg) -> Register {
    reg(
        name,
        32,
        "int32",
        Source::Field(DebugReg::Segment(seg, SegPart::Selector)),
    )
}

const fn base(name: &'static str, seg: Seg) -> Register {
    field(name, DebugReg::Segment(seg, SegPart::Base))
}

const fn st(name: &'static str, index: u16) -> Register {
    reg(name, 80, "i387_ext", Source::Xsave(32 + 16 * index))
}

const fn control(name: &'static str, source: Source) -> Register {
    reg(name, 32, "int", source)
}

const fn xmm(name: &'static str, index: u16) -> Register {
    reg(name, 128, "vec128", Source::Xsave(160 + 16 * index))
}

const fn ymm(name: &'static str, index: u8) -> Register {
    reg(name, 128, "uint128", Source::YmmHigh(index))
}

/// Name of the feature and its registers.
pub struct Feature {
    name: &'static str,
    pub registers: &'static [Register],
}

pub const FEATURES: &[Feature] = &[
    Feature {
        name: "org.gnu.gdb.i386.core",
        registers: &[
            gpr("rax", Gpr::Rax),
            gpr("rbx", Gpr::Rbx),
            gpr("rcx", Gpr::Rcx),
            gpr("rdx", Gpr::Rdx),
            gpr("rsi", Gpr::Rsi),
            gpr("rdi", Gpr::Rdi),
            gpr("rbp", Gpr::Rbp),
            reg(
                "rsp",
                64,
                "data_ptr",
                Source::Field(DebugReg::Gpr(Gpr::Rsp)),
            ),
            gpr("r8", Gpr::R8),
            gpr("r9", Gpr::R9),
            gpr("r10", Gpr::R10),
            gpr("r11", Gpr::R11),
            gpr("r12", Gpr::R12),
            gpr("r13", Gpr::R13),
            gpr("r14", Gpr::R14),
            gpr("r15", Gpr::R15),
            reg("rip", 64, "code_ptr", Source::Field(DebugReg::Rip)),
            reg("eflags", 32, "int32", Source::Field(DebugReg::Rflags)),
            selector("cs", Seg::Cs),
            selector("ss", Seg::Ss),
            selector("ds", Seg::Ds),
            selector("es", Seg::Es),
            selector("fs", Seg::Fs),
            selector("gs", Seg::Gs),
            st("st0", 0),
            st("st1", 1),
            st("st2", 2),
            st("st3", 3),
            st("st4", 4),
            st("st5", 5),
            st("st6", 6),
            st("st7", 7),
            control("fctrl", Source::Xsave(0)),
            control("fstat", Source::Xsave(2)),
            control("ftag", Source::Tags),
            control("fiseg", Source::Xsave(12)),
            control("fioff", Source::Xsave(8)),
            control("foseg", Source::Xsave(20)),
            control("fooff", Source::Xsave(16)),
            control("fop", Source::Xsave(6)),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.sse",
        registers: &[
            xmm("xmm0", 0),
            xmm("xmm1", 1),
            xmm("xmm2", 2),
            xmm("xmm3", 3),
            xmm("xmm4", 4),
            xmm("xmm5", 5),
            xmm("xmm6", 6),
            xmm("xmm7", 7),
            xmm("xmm8", 8),
            xmm("xmm9", 9),
            xmm("xmm10", 10),
            xmm("xmm11", 11),
            xmm("xmm12", 12),
            xmm("xmm13", 13),
            xmm("xmm14", 14),
            xmm("xmm15", 15),
            reg("mxcsr", 32, "int32", Source::Xsave(24)),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.avx",
        registers: &[
            ymm("ymm0h", 0),
            ymm("ymm1h", 1),
            ymm("ymm2h", 2),
            ymm("ymm3h", 3),
            ymm("ymm4h", 4),
            ymm("ymm5h", 5),
            ymm("ymm6h", 6),
            ymm("ymm7h", 7),
            ymm("ymm8h", 8),
            ymm("ymm9h", 9),
            ymm("ymm10h", 10),
            ymm("ymm11h", 11),
            ymm("ymm12h", 12),
            ymm("ymm13h", 13),
            ymm("ymm14h", 14),
            ymm("ymm15h", 15),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.segments",
        registers: &[base("fs_base", Seg::Fs), base("gs_base", Seg::Gs)],
    },
    Feature {
        name: "swtdx.system",
        registers: &[
            field("cr0", DebugReg::Cr0),
            field("cr2", DebugReg::Cr2),
            field("cr3", DebugReg::Cr3),
            field("cr4", DebugReg::Cr4),
            field("efer", DebugReg::Efer),
            field("xcr0", DebugReg::Xcr0),
            field("dr0", DebugReg::Dr(0)),
            field("dr1", DebugReg::Dr(1)),
            field("dr2", DebugReg::Dr(2)),
            field("dr3", DebugReg::Dr(3)),
            field("dr6", DebugReg::Dr6),
            field("dr7", DebugReg::Dr7),
            field("gdt_base", DebugReg::GdtrBase),
            field("idt_base", DebugReg::IdtrBase),
            field("tr_base", DebugReg::Tr(SegPart::Base)),
            field("kernel_gs_base", DebugReg::KernelGsBase),
            field("lstar", DebugReg::Lstar),
        ],
    },
];

/// All registers in GDB's numbering.
pub fn registers() -> impl Iterator<Item = &'static Register> {
    FEATURES.iter().flat_map(|f| f.registers)
}

/// The register with GDB's number.
pub fn register(number: usize) -> Option<&'static Register> {
    registers().nth(number)
}

/// The target description that GDB asks for.
pub fn description() -> String {
    use std::fmt::Write;
    let mut xml = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>i386:x86-64</architecture>",
    );
    for feature in FEATURES {
        let _ = write!(xml, "<feature name=\"{}\">", feature.name);
        if feature.registers.iter().any(|r| r.kind == "vec128") {
            xml += "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\
                    <vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
                    <vector id=\"v16i8\" type=\"int8\" count=\"16\"/>\
                    <vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
                    <vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\
                    <vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
                    <union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>\
                    <field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>\
                    <field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>\
                    <field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>";
        }
        for register in feature.registers {
            let _ = write!(
                xml,
                "<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"/>",
                register.name, register.bits, register.kind
            );
        }
        xml += "</feature>";
    }
    xml += "</target>";
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gdb_knows_the_first_registers_by_number() {
        let name = |n| register(n).map(|r| r.name);
        assert_eq!(name(0), Some("rax"));
        assert_eq!(name(7), Some("rsp"));
        assert_eq!(name(16), Some("rip"));
        assert_eq!(name(24), Some("st0"));
        assert_eq!(name(40), Some("xmm0"));
        assert_eq!(name(56), Some("mxcsr"));
        assert_eq!(name(1000), None);
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<_> = registers().map(|r| r.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        let xml = description();
        assert_eq!(xml.matches("<reg ").count(), all);
    }
}
