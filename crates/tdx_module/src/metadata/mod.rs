//! Metadata: finding a field, who may touch it, and which comes next (host-metadata.md 1).
//!
//! [`sys`], [`td`] and [`vp`] read and write the fields of their scope; [`list`] makes lists of them.

pub mod list;
pub mod sys;
pub mod td;
pub mod vp;

use crate::cpuid::ROWS;
use crate::td::td_ctls;
use tdx_abi::metadata::{
    CPUID_CLASS, FieldRow, GLOBAL_SYS, L2_VMCS_CLASSES, Masks, Migration, TD_L2_VMCS, TD_VMCS,
    TDR_TDCS, TDVPS,
};
use tdx_abi::{CpuidFieldCode, FieldContext, FieldId, Status};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accessor {
    /// The VMM; for the fields of a TD that is not debuggable.
    Host,
    /// The VMM, for a DEBUG TD.
    HostDebug,
    /// The guest.
    Guest,
}

impl Accessor {
    /// The VMM, for this TD.
    pub const fn host(debug: bool) -> Accessor {
        if debug {
            Accessor::HostDebug
        } else {
            Accessor::Host
        }
    }
    pub const fn masks(self, row: &FieldRow) -> Masks {
        match self {
            Accessor::Host => row.host,
            Accessor::HostDebug => row.host_debug,
            Accessor::Guest => row.guest,
        }
    }
}

/// The fields that exist: of the platform, of a TD or of its vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    pub context: FieldContext,
    /// Fields of VMs above this do not exist.
    pub num_l2_vms: u16,
    /// The release has MAX_VCPUS_PER_TD.
    pub max_vcpus_per_td: bool,
    /// The release enumerates topology.
    pub topology: bool,
}

const fn newer(name: &'static str, id: u64, host: u64, guest: Masks) -> FieldRow {
    let host = Masks {
        read: host,
        write: 0,
    };
    FieldRow {
        name,
        id: FieldId(id),
        num_fields: 1,
        num_elements: 1,
        host,
        host_debug: host,
        guest,
        migtd: Masks { read: 0, write: 0 },
        migration: Masks { read: 0, write: 0 },
        mig_export: Migration::None,
        mig_import: Migration::None,
        special_read: false,
        special_write: false,
    }
}

// Fields that only releases after 1.5.01 have, or have otherwise.
static MAX_VCPUS_PER_TD: FieldRow = newer(
    "MAX_VCPUS_PER_TD",
    0x9900_0001_0000_0008,
    0xFFFF,
    Masks { read: 0, write: 0 },
);
static TOPOLOGY_ENUM_CONFIGURED: FieldRow = newer(
    "TOPOLOGY_ENUM_CONFIGURED",
    0x9110_0000_0000_0019,
    0xFF,
    Masks {
        read: 0xFF,
        write: 0,
    },
);
/// TD_CTLS whose ENUM_TOPOLOGY the guest may write.
static TD_CTLS: FieldRow = FieldRow {
    guest: Masks {
        read: u64::MAX,
        write: td_ctls::PENDING_VE_DISABLE | td_ctls::ENUM_TOPOLOGY,
    },
    ..TDR_TDCS[TD_CTLS_AT]
};
/// Its place in a TD's table; TOPOLOGY_ENUM_CONFIGURED comes after it.
const TD_CTLS_AT: usize = 30;
/// The place of MAX_VCPUS_PER_TD in the platform's table: after CONFIG_FLAGS_FIXED1.
const MAX_VCPUS_PER_TD_AT: usize = 39;
/// Where the fields of the L2 VMCSs begin in the TDVPS table; each VM has three rows.
const L2_VMCS_PARENT: usize = 110;

/// The tables of a scope in the order in which a caller walks them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Table {
    Sys,
    Td,
    Vmcs,
    Tdvps,
    /// The VMCS of L2 VM 1, 2 or 3.
    L2Vmcs(u8),
}

/// Where a field is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub row: &'static FieldRow,
    /// The id that names it, with the context that the leaf forces.
    pub id: FieldId,
    /// Elements from the row's first.
    pub element: u32,
    /// The L2 VM (1 to 3) of a field of an L2 VMCS.
    pub l2_vm: Option<u8>,
    table: Table,
    index: usize,
}

impl Field {
    pub fn class(&self) -> u8 {
        self.row.class()
    }
    pub fn code(&self) -> u32 {
        self.id.field_code() as u32
    }
}

/// An operand that names one element, or asks for the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    First,
    Element(FieldId),
}

/// Reads an id operand (host-metadata.md 1.1).
pub fn parse(raw: u64, context: FieldContext) -> Result<Request, Status> {
    let id = FieldId(raw);
    if id.is_null() {
        return Ok(Request::First);
    }
    single(raw, context).map(Request::Element)
}

/// Reads an id operand where the null id has no meaning.
pub fn single(raw: u64, context: FieldContext) -> Result<FieldId, Status> {
    let id = FieldId(raw);
    let one = id.last_element_in_field() == 0 && id.last_field_in_sequence() == 0;
    if !one || !id.reserved_are_zero() {
        return Err(Status::METADATA_FIELD_ID_INCORRECT);
    }
    Ok(id.with_context_code(context as u64))
}

impl Scope {
    pub const fn sys(max_vcpus_per_td: bool) -> Scope {
        Scope {
            context: FieldContext::Sys,
            num_l2_vms: 0,
            max_vcpus_per_td,
            topology: false,
        }
    }
    pub const fn td(num_l2_vms: u16, topology: bool) -> Scope {
        Scope {
            context: FieldContext::Td,
            num_l2_vms,
            max_vcpus_per_td: false,
            topology,
        }
    }
    pub const fn vp(num_l2_vms: u16) -> Scope {
        Scope {
            context: FieldContext::Vp,
            num_l2_vms,
            max_vcpus_per_td: false,
            topology: false,
        }
    }

    fn first_table(&self) -> Table {
        match self.context {
            FieldContext::Sys => Table::Sys,
            FieldContext::Td => Table::Td,
            FieldContext::Vp => Table::Vmcs,
        }
    }

    fn row(&self, table: Table, index: usize) -> Option<&'static FieldRow> {
        let absent = 3 - usize::from(self.num_l2_vms.min(3));
        match table {
            Table::Sys if self.max_vcpus_per_td && index >= MAX_VCPUS_PER_TD_AT => {
                match index - MAX_VCPUS_PER_TD_AT {
                    0 => Some(&MAX_VCPUS_PER_TD),
                    _ => GLOBAL_SYS.get(index - 1),
                }
            }
            Table::Sys => GLOBAL_SYS.get(index),
            Table::Td => {
                let rows = &TDR_TDCS[..TDR_TDCS.len() - absent];
                match index.checked_sub(TD_CTLS_AT).filter(|_| self.topology) {
                    None => rows.get(index),
                    Some(0) => Some(&TD_CTLS),
                    Some(1) => Some(&TOPOLOGY_ENUM_CONFIGURED),
                    Some(_) => rows.get(index - 1),
                }
            }
            Table::Vmcs => TD_VMCS.get(index),
            Table::Tdvps => TDVPS[..TDVPS.len() - 3 * absent].get(index),
            Table::L2Vmcs(_) => TD_L2_VMCS.get(index),
        }
    }

    /// The field that `id` names: by class and field code only (host-metadata.md 1.2).
    pub fn find(&self, id: FieldId) -> Result<Field, Status> {
        let (mut class, mut code) = (id.class_code() as u8, id.field_code() as u32);
        let mut l2_vm = None;
        let mut table = self.first_table();
        if table == Table::Vmcs {
            match L2_VMCS_CLASSES.iter().position(|l2| *l2 == class) {
                Some(vm) => {
                    l2_vm = Some(vm as u8 + 1);
                    table = Table::L2Vmcs(vm as u8 + 1);
                    class = 0;
                }
                None if class != 0 => table = Table::Tdvps,
                None => {}
            }
        }
        if table == Table::Td && class == CPUID_CLASS {
            code &= 1;
        }
        let mut rows = (0..).map_while(|index| Some((index, self.row(table, index)?)));
        let (index, row) = rows
            .find(|(_, row)| row.covers(class, code))
            .ok_or(Status::METADATA_FIELD_ID_INCORRECT)?;
        if l2_vm.is_some_and(|vm| u16::from(vm) > self.num_l2_vms) {
            return Err(Status::METADATA_FIELD_ID_INCORRECT);
        }
        let element = (code - row.id.field_code() as u32) / row.id.code_step();
        Ok(Field {
            row,
            id,
            element,
            l2_vm,
            table,
            index,
        })
    }

    /// The first field that may be read.
    pub fn first_readable(&self, accessor: Accessor) -> FieldId {
        let start = self.enter(self.first_table(), 0);
        self.skip_hidden(accessor, start)
            .map_or(FieldId::NULL, |field| field.id)
    }
    /// The next element that may be read after this one; the null id at the end (host-metadata.md 1.4).
    pub fn next_readable(&self, accessor: Accessor, field: &Field) -> FieldId {
        let next = self.step(field);
        self.skip_hidden(accessor, next)
            .map_or(FieldId::NULL, |field| field.id)
    }

    fn skip_hidden(&self, accessor: Accessor, mut at: Option<Field>) -> Option<Field> {
        while let Some(field) = at {
            if accessor.masks(field.row).read != 0 {
                return Some(field);
            }
            // No element of a hidden row can be read.
            at = self.enter(field.table, field.index + 1);
        }
        None
    }

    /// One element further.
    fn step(&self, field: &Field) -> Option<Field> {
        if field.table == Table::Td && field.class() == CPUID_CLASS {
            return self.step_cpuid(field);
        }
        if field.element + 1 < field.row.total_elements() {
            let id = field.id.element(1);
            let moved = id.field_code() as u32 - field.row.id.field_code() as u32;
            let element = moved / field.row.id.code_step();
            return Some(Field {
                id,
                element,
                ..*field
            });
        }
        self.enter(field.table, field.index + 1)
    }

    fn step_cpuid(&self, field: &Field) -> Option<Field> {
        let code = CpuidFieldCode(field.code());
        if code.element() == 0 {
            let id = field.id.with_field_code(code.with_element(1).0 as u64);
            return Some(Field {
                id,
                element: 1,
                ..*field
            });
        }
        let next = td::cpuid_row(code).map_or(0, |row| row + 1);
        if next >= ROWS.len() {
            return self.enter(field.table, field.index + 1);
        }
        Some(Field {
            id: cpuid_id(field.row, next),
            element: 0,
            ..*field
        })
    }

    /// The first element of a row, or of what comes after the end of a table.
    fn enter(&self, table: Table, index: usize) -> Option<Field> {
        let Some(row) = self.row(table, index) else {
            return match table {
                Table::Vmcs => self.enter(Table::Tdvps, 0),
                Table::L2Vmcs(vm) => self.enter(Table::Tdvps, parent(vm) + 1),
                Table::Sys | Table::Td | Table::Tdvps => None,
            };
        };
        if table == Table::Tdvps
            && let Some(vm) = (1..=3).find(|vm| parent(*vm) == index)
        {
            return self.enter(Table::L2Vmcs(vm), 0);
        }
        let (mut id, mut l2_vm) = (row.id, None);
        if let Table::L2Vmcs(vm) = table {
            l2_vm = Some(vm);
            id = id.with_class_code(L2_VMCS_CLASSES[usize::from(vm) - 1] as u64);
        } else if table == Table::Td && row.class() == CPUID_CLASS {
            id = cpuid_id(row, 0);
        }
        Some(Field {
            row,
            id,
            element: 0,
            l2_vm,
            table,
            index,
        })
    }

    /// The next field (all its elements passed over) that may be read: for lists.
    pub(crate) fn next_field(&self, accessor: Accessor, field: &Field) -> Option<Field> {
        let elements = u32::from(field.row.num_elements);
        let first = field.element - field.element % elements;
        if first + elements < field.row.total_elements() {
            let id = field
                .row
                .id
                .with_class_code(field.id.class_code())
                .element(first + elements);
            return Some(Field {
                id,
                element: first + elements,
                ..*field
            });
        }
        let next = self.enter(field.table, field.index + 1);
        self.skip_hidden(accessor, next)
    }
    pub(crate) fn first_field(&self, accessor: Accessor) -> Option<Field> {
        self.skip_hidden(accessor, self.enter(self.first_table(), 0))
    }
}

const fn parent(vm: u8) -> usize {
    L2_VMCS_PARENT + 3 * (vm as usize - 1)
}

/// The id of a CPUID row's first element.
fn cpuid_id(row: &FieldRow, index: usize) -> FieldId {
    let cpuid = &ROWS[index];
    let code = CpuidFieldCode::new(cpuid.leaf, cpuid.subleaf).map_or(0, |code| code.0);
    row.id.with_field_code(code as u64)
}

/// What a write comes to before the field's own rules: the new element (host-metadata.md 3.2 and 4.2).
pub fn combine(base: u64, value: u64, request: u64, write_mask: u64) -> Result<u64, Status> {
    let combined = write_mask & request;
    if combined == 0 {
        return Err(Status::METADATA_FIELD_NOT_WRITABLE);
    }
    if (base ^ value) & request & !write_mask != 0 {
        return Err(Status::METADATA_FIELD_VALUE_NOT_VALID);
    }
    Ok(base & !combined | value & combined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_added_field_sits_after_config_flags() {
        let scope = Scope::sys(true);
        assert_eq!(
            scope
                .row(Table::Sys, MAX_VCPUS_PER_TD_AT - 1)
                .map(|row| row.name),
            Some("CONFIG_FLAGS_FIXED1")
        );
        let field = scope.find(MAX_VCPUS_PER_TD.id).expect("the field");
        let next = scope.next_readable(Accessor::Host, &field);
        assert_eq!(next.0, 0x9900_0003_0000_0400);
        assert!(Scope::sys(false).find(MAX_VCPUS_PER_TD.id).is_err());
    }

    #[test]
    fn topology_follows_td_ctls() {
        let scope = Scope::td(0, true);
        assert_eq!(TDR_TDCS[TD_CTLS_AT].name, "TD_CTLS");
        let field = scope.find(TDR_TDCS[TD_CTLS_AT].id).expect("the field");
        assert_eq!(field.row.guest.write, 3);
        let next = scope.next_readable(Accessor::Guest, &field);
        assert_eq!(next.0, 0x9110_0000_0000_0019);
        // Linux names it without the context code.
        assert!(scope.find(FieldId(0x9100_0000_0000_0019)).is_ok());
        let before = Scope::td(0, false);
        assert!(before.find(FieldId(0x9100_0000_0000_0019)).is_err());
    }

    #[test]
    fn a_walk_over_each_scope_ends_and_repeats_nothing() {
        for scope in [
            Scope::sys(false),
            Scope::td(0, false),
            Scope::td(3, false),
            Scope::td(0, true),
            Scope::vp(0),
            Scope::vp(3),
        ] {
            for accessor in [Accessor::Host, Accessor::HostDebug, Accessor::Guest] {
                let mut seen = alloc::collections::BTreeSet::new();
                let mut id = scope.first_readable(accessor);
                while !id.is_null() {
                    assert!(seen.insert(id.0), "{:#x} twice", id.0);
                    let field = scope.find(id).expect("an id of the walk");
                    assert_ne!(accessor.masks(field.row).read, 0);
                    id = scope.next_readable(accessor, &field);
                }
                assert!(!seen.is_empty());
            }
        }
    }

    /// host-metadata.md 1.4: the stride comes from the caller's id.
    #[test]
    fn a_set_inc_size_bit_skips_an_element() {
        let scope = Scope::td(0, false);
        let id = FieldId(0x8010_0003_0000_0010 | 1 << 50);
        let field = scope.find(id).expect("TDCX_PA");
        assert_eq!(
            scope.next_readable(Accessor::Host, &field).0,
            0x8010_0003_0000_0012 | 1 << 50
        );
    }

    #[test]
    fn the_l2_vmcs_comes_before_its_bitmaps() {
        let scope = Scope::vp(1);
        assert_eq!(TDVPS[L2_VMCS_PARENT].name, "L2_VMCS_1");
        let last = scope.row(Table::Tdvps, L2_VMCS_PARENT - 1).expect("a row");
        let field = Field {
            row: last,
            id: last.id,
            element: last.total_elements() - 1,
            l2_vm: None,
            table: Table::Tdvps,
            index: L2_VMCS_PARENT - 1,
        };
        let next = scope.step(&field).expect("a field of the L2 VMCS");
        assert_eq!((next.l2_vm, next.id.class_code()), (Some(1), 36));
    }

    /// host-metadata.md 1.1.
    #[test]
    fn sequence_bits_make_a_single_id_incorrect() {
        for bit in [31, 34, 38, 47, 55, 62] {
            assert!(single(1 << bit, FieldContext::Sys).is_err(), "bit {bit}");
        }
        for bit in [32, 50, 51, 52, 63] {
            assert!(single(1 << bit, FieldContext::Sys).is_ok(), "bit {bit}");
        }
        assert_eq!(parse(!(7 << 52), FieldContext::Td), Ok(Request::First));
    }
}
