//! Metadata field identifiers: the words that name a field of the module, a TD or a vCPU
//! (spec: host-metadata.md).

use core::fmt;

use crate::layout::{named_bits_display, word, word_type};

word! {
    own Display;
    /// A metadata field id or the header of a field sequence, which has the same form.
    FieldId: u64 {
        23..0 FIELD_CODE field_code with_field_code,
        /// Elements are `1 << code` bytes.
        33..32 ELEMENT_SIZE_CODE element_size_code with_element_size_code,
        /// Elements of each field minus 1 (sequence headers).
        37..34 LAST_ELEMENT_IN_FIELD last_element_in_field with_last_element_in_field,
        /// Fields of the sequence minus 1 (sequence headers).
        46..38 LAST_FIELD_IN_SEQUENCE last_field_in_sequence with_last_field_in_sequence,
        /// 1: the field code steps by 2 (64-bit VMCS fields).
        50..50 INC_SIZE inc_size with_inc_size,
        /// A write mask precedes the values of the sequence (writes).
        51..51 WRITE_MASK_VALID write_mask_valid with_write_mask_valid,
        54..52 CONTEXT_CODE context_code with_context_code,
        61..56 CLASS_CODE class_code with_class_code,
        63..63 NON_ARCH non_arch with_non_arch,
    }
}

impl fmt::Display for FieldId {
    /// The field's name in the id's own context, such as `TD_CTLS` or `RTMR[1].2`; the number where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return f.write_str("null id");
        }
        match self
            .context()
            .and_then(|context| crate::metadata::find(context, *self))
        {
            Some(found) => fmt::Display::fmt(&found, f),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

/// What a field belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FieldContext {
    /// The platform and the module: TDH.SYS.RD, TDG.SYS.RD.
    Sys = 0,
    /// A TD: TDH.MNG.RD and WR, TDG.VM.RD and WR.
    Td = 1,
    /// A vCPU: TDH.VP.RD and WR, TDG.VP.RD and WR.
    Vp = 2,
}

impl FieldContext {
    pub const ALL: [FieldContext; 3] = [FieldContext::Sys, FieldContext::Td, FieldContext::Vp];

    pub const fn from_raw(raw: u8) -> Option<FieldContext> {
        match raw {
            0 => Some(FieldContext::Sys),
            1 => Some(FieldContext::Td),
            2 => Some(FieldContext::Vp),
            _ => None,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            FieldContext::Sys => "SYS",
            FieldContext::Td => "TD",
            FieldContext::Vp => "VP",
        }
    }
}

impl fmt::Display for FieldContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FieldId {
    /// The null id: a read leaf answers it with the first readable id of the context.
    pub const NULL: FieldId = FieldId(u64::MAX);
    /// The null id, whatever its CONTEXT_CODE.
    pub const fn is_null(self) -> bool {
        self.with_context_code(7).0 == u64::MAX
    }
    /// SYS, TD or VP.
    pub const fn context(self) -> Option<FieldContext> {
        FieldContext::from_raw(self.context_code() as u8)
    }
    /// Bytes of an element: 1, 2, 4 or 8.
    pub const fn element_size(self) -> usize {
        1 << self.element_size_code()
    }
    /// Elements of each field of a sequence.
    pub const fn elements_per_field(self) -> usize {
        self.last_element_in_field() as usize + 1
    }
    /// Fields of a sequence.
    pub const fn fields_in_sequence(self) -> usize {
        self.last_field_in_sequence() as usize + 1
    }
    /// By how much the field code grows from one element to the next.
    pub const fn code_step(self) -> u32 {
        1 + self.inc_size() as u32
    }
    /// Whether all reserved bits are 0.
    pub const fn reserved_are_zero(self) -> bool {
        self.unnamed() == 0
    }
    /// The id of another element: the field code moved by `elements`.
    #[must_use]
    pub const fn element(self, elements: u32) -> FieldId {
        self.with_field_code(self.field_code() + elements as u64 * self.code_step() as u64)
    }
    /// What is left of an id once the bits that a single-element access ignores are gone: class and field code.
    #[must_use]
    pub const fn class_and_code(self) -> FieldId {
        FieldId(0)
            .with_class_code(self.class_code())
            .with_field_code(self.field_code())
    }
}

word! {
    /// The field code of CPUID_VALUES (context TD, class 20): which leaf, sub-leaf and half of the answer.
    CpuidFieldCode: u32 {
        /// 0: EAX (low) and EBX (high). 1: ECX and EDX.
        0..0 ELEMENT element with_element,
        7..1 SUBLEAF subleaf with_subleaf,
        /// The leaf has no sub-leaves.
        8..8 SUBLEAF_NA subleaf_na with_subleaf_na,
        /// Leaf bits 6:0.
        15..9 LEAF leaf_low with_leaf_low,
        /// Leaf bit 31.
        16..16 LEAF_BIT31 leaf_bit31 with_leaf_bit31,
    }
}

impl CpuidFieldCode {
    /// The field code of a leaf's first element; `None` when it has no such form.
    pub const fn new(leaf: u32, subleaf: Option<u32>) -> Option<CpuidFieldCode> {
        if leaf & 0x7FFF_FF80 != 0 {
            return None;
        }
        let code = CpuidFieldCode(0)
            .with_leaf_low(leaf & 0x7F)
            .with_leaf_bit31(leaf >> 31);
        match subleaf {
            // Every field of the mask is one, as the module's table has it.
            None => Some(code.with_subleaf_na(1).with_subleaf(0x7F)),
            Some(subleaf) if subleaf < 0x80 => Some(code.with_subleaf(subleaf)),
            Some(_) => None,
        }
    }
    /// The CPUID leaf.
    pub const fn leaf(self) -> u32 {
        self.leaf_low() | self.leaf_bit31() << 31
    }
}
