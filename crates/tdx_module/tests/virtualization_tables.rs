//! The CPUID and MSR tables against the reference tables in `../shared/tdx-abi`.

use serde_json::Value;
use std::path::Path;
use tdx_module::cpuid::{CONFIGURABLE, ROWS, Registers};
use tdx_module::msr::{Action, Bit, RANGES};

/// A reference table, or `None` with a printed word where the folder is absent.
fn table(file: &str) -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/tdx-abi")
        .join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("a reference table is JSON")),
        Err(_) => {
            println!("SKIPPED {file}: ../shared/tdx-abi is absent");
            None
        }
    }
}

fn number(value: &Value) -> u64 {
    let text = value.as_str().expect("a number as text");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal number")
}

fn registers(entry: &Value, part: &str, mask: &str) -> Registers {
    ["eax", "ebx", "ecx", "edx"].map(|register| {
        let value = &entry["registers"][register][part][mask];
        if value.is_null() {
            0
        } else {
            number(value) as u32
        }
    })
}

#[test]
fn every_cpuid_row_is_the_reference_s() {
    let Some(reference) = table("cpuid-virtualization.json") else {
        return;
    };
    let entries = reference["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), ROWS.len());
    for entry in entries {
        let row = &ROWS[entry["lookup_index"].as_u64().expect("an index") as usize];
        let name = format!("leaf {:#x}.{:?}", row.leaf, row.subleaf);
        assert_eq!(row.leaf as u64, number(&entry["leaf"]), "{name}");
        let subleaf = &entry["subleaf"];
        let subleaf = (!subleaf.is_null()).then(|| number(subleaf) as u32);
        assert_eq!(row.subleaf, subleaf, "{name}");
        assert_eq!(row.faulting, entry["faulting_ve"], "{name}");
        assert_eq!(
            row.config.map(u64::from),
            entry["config_index"].as_u64(),
            "{name}"
        );
        assert_eq!(row.fixed1, registers(entry, "masks", "fixed1"), "{name}");
        assert_eq!(
            row.fixed0,
            registers(entry, "masks", "fixed0_or_dynamic"),
            "{name}"
        );
        assert_eq!(
            row.direct,
            registers(entry, "masks", "config_direct"),
            "{name}"
        );
        assert_eq!(
            row.allow,
            registers(entry, "masks", "allow_direct"),
            "{name}"
        );
        let check = "platform_check";
        assert_eq!(
            row.verify_mask,
            registers(entry, check, "verify_mask"),
            "{name}"
        );
        assert_eq!(
            row.verify_value,
            registers(entry, check, "verify_value"),
            "{name}"
        );
        assert_eq!(
            row.verify_same,
            registers(entry, check, "verify_same_mask"),
            "{name}"
        );
    }
    for (place, entry) in reference["configurable"]
        .as_array()
        .expect("configurable")
        .iter()
        .enumerate()
    {
        assert_eq!(
            CONFIGURABLE[place] as u64,
            entry["lookup_index"].as_u64().expect("an index")
        );
    }
}

fn bit(text: &str) -> Bit {
    match text {
        "FIXED_0" => Bit::Never,
        "FIXED_1" => Bit::Always,
        "DYN_PERFMON" => Bit::UnlessPerfmon,
        "DYN_XFAM_CET" => Bit::UnlessCet,
        "DYN_XFAM_PT" => Bit::UnlessPt,
        "DYN_XFAM_ULI" => Bit::UnlessUintr,
        "DYN_XFAM_LBR" => Bit::UnlessLbr,
        "DYN_UMWAIT" => Bit::UnlessWaitpkg,
        "DYN_XFD" => Bit::UnlessXfd,
        "DYN_PKS" => Bit::UnlessPks,
        "DYN_TSX" => Bit::UnlessTsx,
        "DYN_OTHER" => Bit::UnlessOther,
        other => panic!("unknown bit {other}"),
    }
}

fn action(text: &str) -> Action {
    match text {
        "VE" => Action::Ve,
        "GP" => Action::Gp,
        "GP_OR_VE" => Action::GpOrVe,
        "FATAL_ERROR" => Action::NeverExits,
        "OTHER" => Action::Emulated,
        other => panic!("unknown action {other}"),
    }
}

#[test]
fn every_msr_range_is_the_reference_s() {
    let Some(reference) = table("msr-virtualization.json") else {
        return;
    };
    let entries = reference["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), RANGES.len());
    for (range, entry) in RANGES.iter().zip(entries) {
        let name = entry["name"].as_str().expect("a name");
        let text = |key: &str| entry[key].as_str().expect("a text");
        assert_eq!(range.first as u64, number(&entry["first"]), "{name}");
        assert_eq!(range.last as u64, number(&entry["last"]), "{name}");
        assert_eq!(
            range.read,
            (bit(text("rd_bit")), action(text("rd_action"))),
            "{name}"
        );
        assert_eq!(
            range.write,
            (bit(text("wr_bit")), action(text("wr_action"))),
            "{name}"
        );
    }
}
