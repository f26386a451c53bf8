//! The coverage table of the documentation, from the results of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use iced_x86::{Code, EncodingKind, Mnemonic};

use crate::campaign::FormResult;
use crate::form;
use crate::vendor;

#[derive(Default)]
struct Row {
    forms: u32,
    implemented: u32,
    compared: u32,
    host_lacks: u32,
    missing: Vec<Mnemonic>,
}

/// The processor's vendor, family and model, as the table's heading names them.
pub fn host() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
            .map_or("unknown", |(_, value)| value.trim())
    };
    format!(
        "{} family {} model {}",
        field("vendor_id"),
        field("cpu family"),
        field("model")
    )
}

/// The table as Markdown.
pub fn coverage(results: &[(Code, FormResult)]) -> String {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (code, result) in results {
        let features: Vec<String> = code
            .cpuid_features()
            .iter()
            .map(|f| format!("{f:?}"))
            .collect();
        let row = rows.entry(features.join(" + ")).or_default();
        row.forms += 1;
        if result.not_implemented() || result.both_refuse() {
            row.missing.push(code.mnemonic());
            continue;
        }
        row.implemented += 1;
        if result.host_lacks_it() {
            row.host_lacks += 1;
        } else {
            row.compared += 1;
        }
    }
    let mut text = String::from(
        "# What the CPU engine implements, and what it was compared with\n\n\
         Written by `cargo run -p native_cpu -- --table`; do not edit. Forms are iced-x86's: one for each combination of\n\
         opcode, operand kinds and operand size that 64-bit code in ring 3 can execute. *Compared*: executed by the host's\n\
         processor and by the engine from the same random states, with equal registers, flags, vectors, x87 state, memory\n\
         and faults. What is not implemented raises #UD. `crates/native_cpu/data/recorded.cases` holds one case of each\n\
         compared form with the host's results; `cargo test -p native_cpu` replays them on any host.\n\n",
    );
    let _ = writeln!(text, "Host of this table: {}.\n", host());
    text.push_str("| CPUID feature | forms | implemented | compared | host lacks | not implemented |\n|---|---|---|---|---|---|\n");
    let mut total = Row::default();
    for (name, row) in &mut rows {
        row.missing.dedup();
        let missing: Vec<String> = row
            .missing
            .iter()
            .map(|m| format!("{m:?}").to_uppercase())
            .collect();
        let missing = if missing.len() > 6 {
            format!("{} mnemonics", missing.len())
        } else {
            missing.join(" ")
        };
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {missing} |",
            row.forms, row.implemented, row.compared, row.host_lacks
        );
        total.forms += row.forms;
        total.implemented += row.implemented;
        total.compared += row.compared;
        total.host_lacks += row.host_lacks;
    }
    let _ = writeln!(
        text,
        "| **all** | {} | {} | {} | {} | |",
        total.forms, total.implemented, total.compared, total.host_lacks
    );
    text.push_str("\n## Known differences between processors\n\nNot compared, or compared with the tolerance said.\n\n| what | why |\n|---|---|\n");
    for row in vendor::KNOWN {
        let _ = writeln!(text, "| {} | {} |", row.what, row.why);
    }
    text.push_str("\n## Ring-3 instructions left out of the comparison\n\n| reason | instructions |\n|---|---|\n");
    for (reason, mnemonics) in left_out() {
        let _ = writeln!(text, "| {reason} | {} |", mnemonics.join(" "));
    }
    text
}

/// Reasons with the instructions they keep out.
fn left_out() -> BTreeMap<&'static str, Vec<String>> {
    let mut reasons: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for code in Code::values() {
        let info = code.op_code();
        let ring3 = info.is_instruction() && info.mode64() && info.cpl3();
        if !ring3 || !matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
            continue;
        }
        if let Some(reason) = form::left_out(code.mnemonic()) {
            let list = reasons.entry(reason).or_default();
            let name = format!("{:?}", code.mnemonic()).to_uppercase();
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }
    reasons
}
