//! GDB's registers for x86-64: numbers, sizes, and the field of the vCPU behind each.
//!
//! The first features are GDB's own (`org.gnu.gdb.i386.*`), whose order is fixed; the last one is ours.

use tdx_host::debug::{Component, DebugReg, SegPart};
use x86_arch::Gpr;
use x86_arch::vmx::Seg;

/// Where a register's value comes from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Source {
    /// A field of the vCPU.
    Field(DebugReg),
    /// So many bytes of the XSAVE area's legacy region from an offset on; GDB may show them in a wider register.
    Legacy { offset: u16, bytes: u8 },
    /// A register of a state component: the offset counts from the component's start.
    Component(Component, u16),
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

const fn legacy(name: &'static str, bits: u16, kind: &'static str, offset: u16) -> Register {
    let bytes = (bits / 8) as u8;
    reg(name, bits, kind, Source::Legacy { offset, bytes })
}

const fn st(name: &'static str, index: u16) -> Register {
    legacy(name, 80, "i387_ext", 32 + 16 * index)
}

/// An x87 control register: `bytes` of the image, 32 bits to GDB.
const fn x87(name: &'static str, offset: u16, bytes: u8) -> Register {
    reg(name, 32, "int", Source::Legacy { offset, bytes })
}

const fn xmm(name: &'static str, index: u16) -> Register {
    legacy(name, 128, "vec128", 160 + 16 * index)
}

const fn part(
    name: &'static str,
    bits: u16,
    kind: &'static str,
    component: Component,
    offset: u16,
) -> Register {
    reg(name, bits, kind, Source::Component(component, offset))
}

const fn ymm(name: &'static str, index: u16) -> Register {
    part(name, 128, "uint128", Component::AVX, 16 * index)
}

const fn opmask(name: &'static str, index: u16) -> Register {
    part(name, 64, "uint64", Component::OPMASK, 8 * index)
}

/// The upper half of ZMM0 to ZMM15.
const fn zmm_high(name: &'static str, index: u16) -> Register {
    part(name, 256, "v2ui128", Component::ZMM_HIGH256, 32 * index)
}

/// A piece of ZMM16 to ZMM31, each of which has 64 bytes in the image.
const fn zmm16(name: &'static str, bits: u16, index: u16, offset: u16) -> Register {
    let kind = match bits {
        128 => "vec128",
        _ => "v2ui128",
    };
    let at = 64 * (index - 16) + offset;
    part(name, bits, kind, Component::HIGH16_ZMM, at)
}

const fn ymm16(name: &'static str, index: u16) -> Register {
    part(
        name,
        128,
        "uint128",
        Component::HIGH16_ZMM,
        64 * (index - 16) + 16,
    )
}

/// Name of the feature and its registers.
struct Feature {
    name: &'static str,
    /// Bits of XFAM without which the TD does not have it.
    xfam: u64,
    registers: &'static [Register],
}

const FEATURES: &[Feature] = &[
    Feature {
        name: "org.gnu.gdb.i386.core",
        xfam: 0,
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
            x87("fctrl", 0, 2),
            x87("fstat", 2, 2),
            reg("ftag", 32, "int", Source::Tags),
            x87("fiseg", 12, 2),
            x87("fioff", 8, 4),
            x87("foseg", 20, 2),
            x87("fooff", 16, 4),
            x87("fop", 6, 2),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.sse",
        xfam: 0,
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
            legacy("mxcsr", 32, "int32", 24),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.avx",
        xfam: Component::AVX.bit(),
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
        name: "org.gnu.gdb.i386.avx512",
        xfam: AVX512,
        registers: &[
            zmm16("xmm16", 128, 16, 0),
            zmm16("xmm17", 128, 17, 0),
            zmm16("xmm18", 128, 18, 0),
            zmm16("xmm19", 128, 19, 0),
            zmm16("xmm20", 128, 20, 0),
            zmm16("xmm21", 128, 21, 0),
            zmm16("xmm22", 128, 22, 0),
            zmm16("xmm23", 128, 23, 0),
            zmm16("xmm24", 128, 24, 0),
            zmm16("xmm25", 128, 25, 0),
            zmm16("xmm26", 128, 26, 0),
            zmm16("xmm27", 128, 27, 0),
            zmm16("xmm28", 128, 28, 0),
            zmm16("xmm29", 128, 29, 0),
            zmm16("xmm30", 128, 30, 0),
            zmm16("xmm31", 128, 31, 0),
            ymm16("ymm16h", 16),
            ymm16("ymm17h", 17),
            ymm16("ymm18h", 18),
            ymm16("ymm19h", 19),
            ymm16("ymm20h", 20),
            ymm16("ymm21h", 21),
            ymm16("ymm22h", 22),
            ymm16("ymm23h", 23),
            ymm16("ymm24h", 24),
            ymm16("ymm25h", 25),
            ymm16("ymm26h", 26),
            ymm16("ymm27h", 27),
            ymm16("ymm28h", 28),
            ymm16("ymm29h", 29),
            ymm16("ymm30h", 30),
            ymm16("ymm31h", 31),
            opmask("k0", 0),
            opmask("k1", 1),
            opmask("k2", 2),
            opmask("k3", 3),
            opmask("k4", 4),
            opmask("k5", 5),
            opmask("k6", 6),
            opmask("k7", 7),
            zmm_high("zmm0h", 0),
            zmm_high("zmm1h", 1),
            zmm_high("zmm2h", 2),
            zmm_high("zmm3h", 3),
            zmm_high("zmm4h", 4),
            zmm_high("zmm5h", 5),
            zmm_high("zmm6h", 6),
            zmm_high("zmm7h", 7),
            zmm_high("zmm8h", 8),
            zmm_high("zmm9h", 9),
            zmm_high("zmm10h", 10),
            zmm_high("zmm11h", 11),
            zmm_high("zmm12h", 12),
            zmm_high("zmm13h", 13),
            zmm_high("zmm14h", 14),
            zmm_high("zmm15h", 15),
            zmm16("zmm16h", 256, 16, 32),
            zmm16("zmm17h", 256, 17, 32),
            zmm16("zmm18h", 256, 18, 32),
            zmm16("zmm19h", 256, 19, 32),
            zmm16("zmm20h", 256, 20, 32),
            zmm16("zmm21h", 256, 21, 32),
            zmm16("zmm22h", 256, 22, 32),
            zmm16("zmm23h", 256, 23, 32),
            zmm16("zmm24h", 256, 24, 32),
            zmm16("zmm25h", 256, 25, 32),
            zmm16("zmm26h", 256, 26, 32),
            zmm16("zmm27h", 256, 27, 32),
            zmm16("zmm28h", 256, 28, 32),
            zmm16("zmm29h", 256, 29, 32),
            zmm16("zmm30h", 256, 30, 32),
            zmm16("zmm31h", 256, 31, 32),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.pkeys",
        xfam: Component::PKRU.bit(),
        registers: &[part("pkru", 32, "uint32", Component::PKRU, 0)],
    },
    Feature {
        name: "org.gnu.gdb.i386.segments",
        xfam: 0,
        registers: &[base("fs_base", Seg::Fs), base("gs_base", Seg::Gs)],
    },
    Feature {
        name: "swtdx.system",
        xfam: 0,
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

const AVX512: u64 =
    Component::OPMASK.bit() | Component::ZMM_HIGH256.bit() | Component::HIGH16_ZMM.bit();

const VEC128: &str = "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\
    <vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
    <vector id=\"v16i8\" type=\"int8\" count=\"16\"/>\
    <vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
    <vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\
    <vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
    <union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>\
    <field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>\
    <field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>\
    <field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>";
const V2UI128: &str = "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>";

/// The registers of a TD, in GDB's numbering, and the description that tells GDB so.
#[derive(Clone, Debug)]
pub struct Layout {
    registers: Vec<&'static Register>,
    description: String,
}

impl Layout {
    /// What a TD with this XFAM has.
    pub fn new(xfam: u64) -> Layout {
        use std::fmt::Write;
        let mut registers = Vec::new();
        let mut xml = String::from(
            "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
             <architecture>i386:x86-64</architecture>",
        );
        for feature in FEATURES.iter().filter(|f| xfam & f.xfam == f.xfam) {
            let _ = write!(xml, "<feature name=\"{}\">", feature.name);
            for (kind, definition) in [("vec128", VEC128), ("v2ui128", V2UI128)] {
                if feature.registers.iter().any(|r| r.kind == kind) {
                    xml += definition;
                }
            }
            for register in feature.registers {
                let Register {
                    name, bits, kind, ..
                } = register;
                let _ = write!(
                    xml,
                    "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"
                );
                registers.push(register);
            }
            xml += "</feature>";
        }
        xml += "</target>";
        Layout {
            registers,
            description: xml,
        }
    }

    pub fn registers(&self) -> impl Iterator<Item = &'static Register> {
        self.registers.iter().copied()
    }

    /// The register with GDB's number.
    pub fn register(&self, number: usize) -> Option<&'static Register> {
        self.registers.get(number).copied()
    }

    pub fn description(&self) -> &str {
        &self.description
    }
}

impl Register {
    pub const fn bytes(&self) -> usize {
        self.bits as usize / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    #[test]
    fn gdb_knows_the_first_registers_by_number() {
        let layout = Layout::new(3);
        let name = |n| layout.register(n).map(|r| r.name);
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
        let layout = Layout::new(ALL);
        let mut names: Vec<_> = layout.registers().map(|r| r.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!(layout.description().matches("<reg ").count(), all);
    }

    #[test]
    fn xfam_decides_the_vector_registers() {
        let has = |xfam, name: &str| Layout::new(xfam).registers().any(|r| r.name == name);
        assert!(has(3, "xmm15") && !has(3, "ymm0h"));
        assert!(has(7, "ymm0h") && !has(7, "zmm0h"));
        assert!(has(0xE7, "zmm31h") && has(0xE7, "k7") && has(0xE7, "xmm16"));
        assert!(!has(0xE7, "pkru") && has(0x2E7, "pkru"));
        // Opmask alone is no AVX-512.
        assert!(!has(0x27, "k0"));
    }

    #[test]
    fn every_piece_of_a_component_lies_inside_it() {
        for register in Layout::new(ALL).registers() {
            if let Source::Component(component, offset) = register.source {
                let end = usize::from(offset) + register.bytes();
                let length = match component {
                    Component::AVX => 256,
                    Component::OPMASK => 64,
                    Component::ZMM_HIGH256 => 512,
                    Component::HIGH16_ZMM => 1024,
                    Component::PKRU => 8,
                    other => panic!("{other}"),
                };
                assert!(end <= length, "{}", register.name);
            }
        }
    }
}
