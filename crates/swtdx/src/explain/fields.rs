//! Metadata field ids.

use tdx_abi::metadata::{self, CPUID_CLASS, Found, Masks};
use tdx_abi::{CpuidFieldCode, FieldContext, FieldId};

use super::reading::Reading;

/// Reads a field id in the context that it names, or in every context when it names none.
pub fn read(raw: u64) -> Vec<Reading> {
    let id = FieldId(raw);
    if id.is_null() {
        let title = "null id: a read leaf answers with the first field of the context";
        return vec![Reading::new("metadata field id", title)];
    }
    let contexts = match id.context() {
        Some(context) => vec![context],
        None => FieldContext::ALL.to_vec(),
    };
    let found = contexts
        .iter()
        .filter_map(|context| Some((*context, metadata::find(*context, id)?)));
    found
        .map(|(context, found)| describe(context, id, found))
        .collect()
}

/// Reads a number as a field id only if size and flags are those of the field it would name.
pub fn read_exact(raw: u64) -> Option<Reading> {
    let id = FieldId(raw);
    let context = id.context()?;
    let found = metadata::find(context, id)?;
    let expected = found
        .row
        .id
        .with_field_code(0)
        .with_class_code(id.class_code());
    let sequence = id
        .with_field_code(0)
        .with_last_element_in_field(0)
        .with_last_field_in_sequence(0);
    let exact = sequence.with_write_mask_valid(0).with_non_arch(0) == expected.with_non_arch(0);
    (exact && raw >> 32 != 0).then(|| describe(context, id, found))
}

fn describe(context: FieldContext, id: FieldId, found: Found) -> Reading {
    let row = found.row;
    let class = metadata::class_name(context, id.class_code() as u8).unwrap_or("unknown");
    let mut reading = Reading::new("metadata field id", found).with(
        "scope",
        format!(
            "{context}, class {} {class}, field code {:#x}",
            id.class_code(),
            id.field_code()
        ),
    );
    let (fields, elements, size) = (row.num_fields, row.num_elements, row.element_size());
    reading = reading.with(
        "size",
        format!("{fields} x {elements} elements of {size} bytes"),
    );
    if context == FieldContext::Td && row.class() == CPUID_CLASS {
        reading = reading.with("CPUID", cpuid(CpuidFieldCode(id.field_code() as u32)));
    }
    if id.last_element_in_field() != 0 || id.last_field_in_sequence() != 0 {
        let text = format!(
            "{} fields of {} elements",
            id.fields_in_sequence(),
            id.elements_per_field()
        );
        reading = reading.with("sequence", text);
    }
    reading = reading.with_if(
        id.write_mask_valid() != 0,
        "sequence flag",
        "a write mask precedes the values",
    );
    if context == FieldContext::Sys {
        reading = reading
            .with("VMM", masks(row.host))
            .with("guest", masks(row.guest));
    } else {
        reading = reading
            .with("VMM", masks(row.host))
            .with_if(
                row.host_debug != row.host,
                "VMM, DEBUG TD",
                masks(row.host_debug),
            )
            .with(
                if found.l2_vm.is_some() {
                    "L1 VMM"
                } else {
                    "guest"
                },
                masks(row.guest),
            );
        reading = reading.with_if(
            row.migtd.read | row.migtd.write != 0,
            "migration TD",
            masks(row.migtd),
        );
    }
    let differs =
        id.element_size_code() != row.id.element_size_code() || id.inc_size() != row.id.inc_size();
    reading = reading.with_if(
        differs,
        "note",
        format!("the table's own id is {:#018x}", row.id.0),
    );
    reading.with_if(
        id.unnamed() != 0,
        "unknown bits",
        format!("{:#x}: refused", id.unnamed()),
    )
}

fn cpuid(code: CpuidFieldCode) -> String {
    let half = if code.element() == 0 {
        "EAX and EBX"
    } else {
        "ECX and EDX"
    };
    match code.subleaf_na() {
        1 => format!("leaf {:#x}, which has no sub-leaves: {half}", code.leaf()),
        _ => format!(
            "leaf {:#x}, sub-leaf {:#x}: {half}",
            code.leaf(),
            code.subleaf()
        ),
    }
}

fn masks(masks: Masks) -> String {
    match (masks.read, masks.write) {
        (0, 0) => "no access".to_owned(),
        (read, 0) => format!("reads {read:#x}"),
        (0, write) => format!("writes {write:#x}"),
        (read, write) => format!("reads {read:#x}, writes {write:#x}"),
    }
}
