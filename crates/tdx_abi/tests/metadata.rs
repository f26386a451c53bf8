//! Every metadata field against the reference tables.

mod reference;

use reference::{number, table, text};
use serde_json::Value;
use tdx_abi::metadata::{
    self, FieldRow, GLOBAL_SYS, L2_VMCS_CLASSES, Masks, TD_L2_VMCS, TD_VMCS, TDR_TDCS, TDVPS,
};
use tdx_abi::{CpuidFieldCode, FieldContext, FieldId};

const TABLES: [(&str, FieldContext, &[FieldRow]); 5] = [
    ("global_sys", FieldContext::Sys, GLOBAL_SYS),
    ("tdr_tdcs", FieldContext::Td, TDR_TDCS),
    ("tdvps", FieldContext::Vp, TDVPS),
    ("td_vmcs", FieldContext::Vp, TD_VMCS),
    ("td_l2_vmcs", FieldContext::Vp, TD_L2_VMCS),
];

#[test]
fn every_value_of_every_field_is_the_reference_s() {
    let Some(reference) = table("metadata-fields.json") else {
        return;
    };
    for (name, _, rows) in TABLES {
        let expected = reference[name].as_array().unwrap();
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (row, expected) in rows.iter().zip(expected) {
            let at = format!("{name}: {}", row.name);
            // The reference's source misspells "Execution".
            assert_eq!(
                row.name,
                text(expected, "name").replace("Exection", "Execution"),
                "{at}"
            );
            assert_eq!(row.id.0, number(&expected["id"]), "{at}");
            assert_eq!(row.class() as u64, number(&expected["class_code"]), "{at}");
            assert_eq!(row.id.field_code(), number(&expected["field_code"]), "{at}");
            assert_eq!(
                row.element_size() as u64,
                number(&expected["element_size_bytes"]),
                "{at}"
            );
            assert_eq!(
                row.num_fields as u64,
                number(&expected["num_fields"]),
                "{at}"
            );
            assert_eq!(
                row.num_elements as u64,
                number(&expected["num_elements"]),
                "{at}"
            );
            assert_eq!(
                row.id.inc_size(),
                expected["inc_size"].as_u64().unwrap_or(0),
                "{at}"
            );
            assert_eq!(row.id.non_arch(), number(&expected["non_arch"]), "{at}");
            let masks = |read: &str, write: &str| Masks {
                read: mask(expected, read),
                write: mask(expected, write),
            };
            let (host, debug) = match name {
                "global_sys" => (
                    masks("host_rd_mask", "host_wr_mask"),
                    masks("host_rd_mask", "host_wr_mask"),
                ),
                _ => (
                    masks("host_prod_rd_mask", "host_prod_wr_mask"),
                    masks("host_debug_rd_mask", "host_debug_wr_mask"),
                ),
            };
            assert_eq!(row.host, host, "{at}");
            assert_eq!(row.host_debug, debug, "{at}");
            assert_eq!(row.guest, masks("guest_rd_mask", "guest_wr_mask"), "{at}");
            assert_eq!(row.migtd, masks("migtd_rd_mask", "migtd_wr_mask"), "{at}");
            assert_eq!(row.migration, masks("export_mask", "import_mask"), "{at}");
            let letters = |m: metadata::Migration| format!("MIG_{m:?}").to_uppercase();
            assert_eq!(
                letters(row.mig_export),
                text(expected, "mig_export"),
                "{at}"
            );
            assert_eq!(
                letters(row.mig_import),
                text(expected, "mig_import"),
                "{at}"
            );
            assert_eq!(row.special_read, expected["special_read"] == true, "{at}");
            assert_eq!(row.special_write, expected["special_write"] == true, "{at}");
        }
    }
}

/// A mask member; a table that has no such accessor has no such member.
fn mask(row: &Value, key: &str) -> u64 {
    row.get(key).map_or(0, number)
}

#[test]
fn every_class_has_the_reference_s_name() {
    let Some(reference) = table("metadata-fields.json") else {
        return;
    };
    for context in FieldContext::ALL {
        let expected = reference["class_codes"][context.name()]
            .as_object()
            .unwrap();
        let named = (0..=255)
            .filter(|class| metadata::class_name(context, *class).is_some())
            .count();
        assert_eq!(named, expected.len(), "{context}");
        for (class, name) in expected {
            assert_eq!(
                metadata::class_name(context, class.parse().unwrap()),
                name.as_str(),
                "{context} {class}"
            );
        }
    }
}

#[test]
fn every_field_is_found_by_the_ids_of_all_its_elements_and_by_no_other() {
    for (name, context, rows) in TABLES {
        // CPUID_VALUES is found by leaf; the rows of whole L2 VMCSs only hold their place in the walk.
        let by_leaf =
            |row: &FieldRow| context == FieldContext::Td && row.class() == metadata::CPUID_CLASS;
        let whole_l2 =
            |row: &FieldRow| context == FieldContext::Vp && L2_VMCS_CLASSES.contains(&row.class());
        for row in rows.iter().filter(|row| !by_leaf(row) && !whole_l2(row)) {
            for element in [0, row.total_elements() - 1] {
                let mut id = row.id.element(element);
                let l2_vm = (name == "td_l2_vmcs").then_some(2);
                if l2_vm.is_some() {
                    id = id.with_class_code(L2_VMCS_CLASSES[1] as u64);
                }
                let found =
                    metadata::find(context, id).unwrap_or_else(|| panic!("{name}: {}", row.name));
                assert_eq!(
                    (found.row, found.element, found.l2_vm),
                    (row, element, l2_vm)
                );
            }
            let beyond = row.id.element(row.total_elements());
            let found = metadata::find(context, beyond);
            assert!(
                found.is_none_or(|found| found.row != row || name == "td_l2_vmcs"),
                "{name}: {}",
                row.name
            );
        }
    }
}

#[test]
fn masks_lie_inside_the_element_and_names_are_of_the_row_s_context() {
    for (name, context, rows) in TABLES {
        for row in rows {
            for masks in [
                row.host,
                row.host_debug,
                row.guest,
                row.migtd,
                row.migration,
            ] {
                assert_eq!(
                    (masks.read | masks.write) & !row.value_mask(),
                    0,
                    "{name}: {}",
                    row.name
                );
            }
            assert_eq!(row.id.context(), Some(context), "{name}: {}", row.name);
            assert!(row.id.reserved_are_zero(), "{name}: {}", row.name);
        }
    }
}

#[test]
fn a_cpuid_field_is_found_whatever_its_leaf() {
    let leaf_1 = CpuidFieldCode::new(1, None).unwrap();
    assert_eq!((leaf_1.leaf(), leaf_1.subleaf_na()), (1, 1));
    let extended = CpuidFieldCode::new(0x8000_0008, None).unwrap();
    assert_eq!(extended.leaf(), 0x8000_0008);
    assert_eq!(CpuidFieldCode::new(0x80, None), None);
    assert_eq!(CpuidFieldCode::new(7, Some(0x80)), None);
    let id = metadata::td::CPUID_VALUES
        .with_field_code(CpuidFieldCode::new(7, Some(2)).unwrap().with_element(1).0 as u64);
    let found = metadata::find(FieldContext::Td, id).unwrap();
    assert_eq!((found.row.name, found.element), ("CPUID_VALUES", 1));
}

#[test]
fn the_null_id_is_known_whatever_its_context() {
    for context in 0..8 {
        assert!(FieldId::NULL.with_context_code(context).is_null());
    }
    assert!(!FieldId::NULL.with_class_code(0).is_null());
}

#[test]
fn a_field_reads_with_its_index_and_element() {
    let read = |context, id: FieldId| metadata::find(context, id).unwrap().to_string();
    assert_eq!(read(FieldContext::Td, metadata::td::TD_CTLS), "TD_CTLS");
    assert_eq!(
        read(FieldContext::Td, metadata::td::RTMR.element(8)),
        "RTMR[1].2"
    );
    let id = metadata::l2_vmcs::GUEST_RIP.with_class_code(44);
    assert_eq!(read(FieldContext::Vp, id), "L2 VM 2: Guest RIP");
    assert_eq!(id.to_string(), "L2 VM 2: Guest RIP");
    assert_eq!(FieldId(0x9110_0003_0000_0010).to_string(), "NOTIFY_ENABLES");
    assert_eq!(FieldId::NULL.to_string(), "null id");
    assert_eq!(
        FieldId(0x0070_0000_0000_0000).to_string(),
        "0x0070000000000000"
    );
}
