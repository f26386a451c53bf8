//! The metadata fields of module 1.5.01: for each its id, size and who may read and write which bits
//! (spec: host-metadata.md 1). The order of the rows is the order in which the leaves walk the fields.

mod global_sys;
mod td_l2_vmcs;
mod td_vmcs;
mod tdr_tdcs;
mod tdvps;

pub use global_sys::{GLOBAL_SYS, sys};
pub use td_l2_vmcs::{TD_L2_VMCS, l2_vmcs};
pub use td_vmcs::{TD_VMCS, vmcs};
pub use tdr_tdcs::{TDR_TDCS, td};
pub use tdvps::{TDVPS, vp};

use crate::{FieldContext, FieldId};

/// The bits of a field's element that an accessor may read and write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Masks {
    pub read: u64,
    pub write: u64,
}

/// When and how a field crosses in a migration: the letters of the module's tables. B: in the immutable (begin) part,
/// E: in the mutable (end) part; M: migrated, I: initialised at the destination, C: compared there;
/// O: optional; S: with special handling. The reading of the letters is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migration {
    None,
    Me,
    Meo,
    Mb,
    Mbo,
    Ie,
    Ies,
    Iesme,
    Ibs,
    Cb,
    Cbo,
}

/// One metadata field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldRow {
    /// The manual's name.
    pub name: &'static str,
    /// The id of its first element.
    pub id: FieldId,
    /// Fields of the row: an array.
    pub num_fields: u16,
    /// Elements of each field.
    pub num_elements: u8,
    /// What the VMM may do with a TD that is not debuggable; for the platform's fields, with any.
    pub host: Masks,
    /// What the VMM may do with a DEBUG TD.
    pub host_debug: Masks,
    /// What the guest may do; for fields of an L2 VMCS its L1 VMM.
    pub guest: Masks,
    /// What a migration TD may do.
    pub migtd: Masks,
    /// Bits that an export reads (`read`) and an import writes (`write`).
    pub migration: Masks,
    pub mig_export: Migration,
    pub mig_import: Migration,
    /// Reading is more than loading the stored value.
    pub special_read: bool,
    /// Writing is more than storing the value.
    pub special_write: bool,
}

impl FieldRow {
    /// The class of the field in its context.
    pub const fn class(&self) -> u8 {
        self.id.class_code() as u8
    }
    /// Bytes of an element.
    pub const fn element_size(&self) -> usize {
        self.id.element_size()
    }
    /// Elements of all fields together.
    pub const fn total_elements(&self) -> u32 {
        self.num_fields as u32 * self.num_elements as u32
    }
    /// Field codes from the first element to the end of the row.
    pub const fn code_span(&self) -> u32 {
        self.total_elements() * self.id.code_step()
    }
    /// The bits of a value of the element's size.
    pub const fn value_mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.element_size())
    }
    /// Whether `class` and `code` lie in the row. An odd code of a 64-bit VMCS field does.
    pub const fn covers(&self, class: u8, code: u32) -> bool {
        let first = self.id.field_code() as u32;
        class == self.class() && code >= first && code - first < self.code_span()
    }
}

/// The class of CPUID_VALUES, whose field code carries the leaf.
pub const CPUID_CLASS: u8 = 20;
/// Classes of the three L2 VMs' VMCS fields.
pub const L2_VMCS_CLASSES: [u8; 3] = [36, 44, 52];

/// A field id's row and which of its elements the id names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub row: &'static FieldRow,
    /// Elements from the row's first.
    pub element: u32,
    /// The L2 VM (1 to 3) of a field of an L2 VMCS.
    pub l2_vm: Option<u8>,
}

/// Finds the field that `id` names in `context`, as the module does: by class and field code only.
pub fn find(context: FieldContext, id: FieldId) -> Option<Found> {
    let (mut class, mut code) = (id.class_code() as u8, id.field_code() as u32);
    let mut l2_vm = None;
    let table = match context {
        FieldContext::Sys => GLOBAL_SYS,
        FieldContext::Td => TDR_TDCS,
        FieldContext::Vp => match L2_VMCS_CLASSES.iter().position(|l2| *l2 == class) {
            Some(vm) => {
                l2_vm = Some(vm as u8 + 1);
                class = 0;
                TD_L2_VMCS
            }
            None if class == 0 => TD_VMCS,
            None => TDVPS,
        },
    };
    if context == FieldContext::Td && class == CPUID_CLASS {
        // The leaf is in the code; only the element bit tells fields apart.
        code &= 1;
    }
    let row = table.iter().find(|row| row.covers(class, code))?;
    let element = (code - row.id.field_code() as u32) / row.id.code_step();
    Some(Found {
        row,
        element,
        l2_vm,
    })
}

impl core::fmt::Display for Found {
    /// The field's name with field and element index where there are several: `RTMR[1].2`, `L2 VM 2: Guest RIP`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if let Some(vm) = self.l2_vm {
            write!(f, "L2 VM {vm}: ")?;
        }
        f.write_str(self.row.name)?;
        let elements = u32::from(self.row.num_elements);
        if self.row.num_fields > 1 {
            write!(f, "[{}]", self.element / elements)?;
        }
        if elements > 1 {
            write!(f, ".{}", self.element % elements)?;
        }
        Ok(())
    }
}

/// What a class is called in its context.
pub const fn class_name(context: FieldContext, class: u8) -> Option<&'static str> {
    Some(match (context, class) {
        (FieldContext::Sys, 0) => "PLATFORM_INFO",
        (FieldContext::Sys, 8) => "TDX_MODULE_VERSION",
        (FieldContext::Sys, 9) => "TDX_MODULE_HANDOFF",
        (FieldContext::Sys, 10) => "TDX_MODULE_INFO",
        (FieldContext::Sys, 16) => "CMR_INFO",
        (FieldContext::Sys, 17) => "TDMR_INFO",
        (FieldContext::Sys, 24) => "TD_CONTROL_STRUCTURES",
        (FieldContext::Sys, 25) => "TD_CONFIGURABILITY",
        (FieldContext::Sys, 32) => "MIGRATION",
        (FieldContext::Sys, 33) => "SERVICE_TD",
        (FieldContext::Sys, 34) => "TD_PARTITIONING",
        (FieldContext::Td, 0) => "TDR.TD_MANAGEMENT",
        (FieldContext::Td, 1) => "TDR.KEY_MANAGEMENT",
        (FieldContext::Td, 2) => "TDR.TD_PRESERVING",
        (FieldContext::Td, 16) => "TDCS.TD_MANAGEMENT",
        (FieldContext::Td, 17) => "TDCS.EXECUTION_CONTROLS",
        (FieldContext::Td, 18) => "TDCS.TLB_EPOCH_TRACKING",
        (FieldContext::Td, 19) => "TDCS.MEASUREMENT",
        (FieldContext::Td, 20) => "TDCS.CPUID",
        (FieldContext::Td, 22) => "TDCS.VIRT_MSR_VALUES",
        (FieldContext::Td, 24) => "TDCS.MIGRATION",
        (FieldContext::Td, 25) => "TDCS.SERVICE_TD",
        (FieldContext::Td, 26) => "TDCS.MIGSC_LINKS",
        (FieldContext::Td, 32) => "TDCS.MSR_BITMAPS",
        (FieldContext::Td, 33) => "TDCS.SECURE_EPT_ROOT",
        (FieldContext::Td, 37) => "TDCS.L2_SECURE_EPT_ROOT_1",
        (FieldContext::Td, 41) => "TDCS.L2_SECURE_EPT_ROOT_2",
        (FieldContext::Td, 45) => "TDCS.L2_SECURE_EPT_ROOT_3",
        (FieldContext::Vp, 0) => "TD_VMCS",
        (FieldContext::Vp, 1) => "VAPIC",
        (FieldContext::Vp, 2) => "VE_INFO",
        (FieldContext::Vp, 16) => "GUEST_GPR_STATE",
        (FieldContext::Vp, 17) => "GUEST_STATE",
        (FieldContext::Vp, 18) => "GUEST_EXT_STATE",
        (FieldContext::Vp, 19) => "GUEST_MSR_STATE",
        (FieldContext::Vp, 32) => "MANAGEMENT",
        (FieldContext::Vp, 33) => "CPUID_CONTROL",
        (FieldContext::Vp, 34) => "EPT_VIOLATION_LOG",
        (FieldContext::Vp, 36) => "VMCS_1",
        (FieldContext::Vp, 37) => "MSR_BITMAPS_1",
        (FieldContext::Vp, 38) => "MSR_BITMAPS_SHADOW_1",
        (FieldContext::Vp, 44) => "VMCS_2",
        (FieldContext::Vp, 45) => "MSR_BITMAPS_2",
        (FieldContext::Vp, 46) => "MSR_BITMAPS_SHADOW_2",
        (FieldContext::Vp, 52) => "VMCS_3",
        (FieldContext::Vp, 53) => "MSR_BITMAPS_3",
        (FieldContext::Vp, 54) => "MSR_BITMAPS_SHADOW_3",
        _ => return None,
    })
}

/// Declares a table and an id constant for each of its rows.
macro_rules! fields {
    (
        $(#[$doc:meta])* $table:ident, $ids:ident;
        $($ident:ident $name:literal $id:literal $fields:literal x $elements:literal
          host($hr:expr, $hw:expr) debug($dr:expr, $dw:expr) guest($gr:expr, $gw:expr) migtd($mr:expr, $mw:expr)
          migration($er:expr, $iw:expr, $export:ident, $import:ident) special($sr:literal, $sw:literal);)*
    ) => {
        $(#[$doc])*
        pub const $table: &[crate::metadata::FieldRow] = &[$(crate::metadata::FieldRow {
            name: $name,
            id: crate::FieldId($id),
            num_fields: $fields,
            num_elements: $elements,
            host: crate::metadata::Masks { read: $hr, write: $hw },
            host_debug: crate::metadata::Masks { read: $dr, write: $dw },
            guest: crate::metadata::Masks { read: $gr, write: $gw },
            migtd: crate::metadata::Masks { read: $mr, write: $mw },
            migration: crate::metadata::Masks { read: $er, write: $iw },
            mig_export: crate::metadata::Migration::$export,
            mig_import: crate::metadata::Migration::$import,
            special_read: $sr != 0,
            special_write: $sw != 0,
        },)*];

        /// The ids of the table's fields: of each its first element.
        pub mod $ids {
            use crate::FieldId;
            $(#[doc = $name] pub const $ident: FieldId = FieldId($id);)*
        }
    };
}
pub(crate) use fields;
