//! GDB's `monitor` commands.

use std::fmt::Write;

use tdx_abi::metadata::{FieldRow, TD_VMCS, TDR_TDCS, TDVPS};
use tdx_call::host::tdh_mem_sept_rd;
use tdx_call::{GpaMapping, SeamcallLp};
use tdx_host::HostError;
use tdx_host::debug::DebugReg;
use x86_arch::Gpa;

use crate::owner::Owner;
use crate::target::TdTarget;

const HELP: &str = "\
monitor td             the TD: state, attributes, measurement
monitor ve             the virtualization exception that waits to be fetched
monitor sept GPA       the Secure EPT entry of a guest physical address
monitor field NAME     a metadata field of the TD or of the current vCPU, by name or id
monitor exits [N]      the last exits of the current vCPU
monitor explain VALUE  a status, leaf, field id, exit or name in words
";

/// The answer to a command line, with its final newline.
pub fn answer<O: Owner>(target: &mut TdTarget<'_, O>, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut text = match words[..] {
        ["td"] => td(target),
        ["ve"] => ve(target),
        ["sept", gpa] => sept(target, gpa),
        ["field", ref name @ ..] if !name.is_empty() => field(target, &name.join(" ")),
        ["exits"] => exits(target, 10),
        ["exits", count] => match count.parse() {
            Ok(count) => exits(target, count),
            Err(_) => format!("{count:?} is no number"),
        },
        ["explain", ref value @ ..] if !value.is_empty() => target.owner.explain(&value.join(" ")),
        [] | ["help"] => HELP.to_owned(),
        _ => format!("unknown command {command:?}\n{HELP}"),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Reads a field of the TD's own metadata.
fn td_field<O: Owner>(target: &mut TdTarget<'_, O>, id: u64) -> Result<u64, HostError> {
    let lp = target.owner.lp_of(target.current);
    let parts = target.owner.parts();
    parts.td.read_field(&mut parts.lps[lp].seam, id)
}

/// A row's id by its name, upper and lower case alike.
fn row<'a>(table: &'a [FieldRow], name: &str) -> Option<&'a FieldRow> {
    table.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

fn td<O: Owner>(target: &mut TdTarget<'_, O>) -> String {
    let mut text = String::new();
    for name in [
        "LIFECYCLE_STATE",
        "OP_STATE",
        "FATAL",
        "HKID",
        "NUM_VCPUS",
        "ATTRIBUTES",
        "XFAM",
        "GPAW",
    ] {
        let Some(row) = row(TDR_TDCS, name) else {
            continue;
        };
        let _ = match td_field(target, row.id.0) {
            Ok(value) => writeln!(text, "{name:<16} {value:#x}"),
            Err(error) => writeln!(text, "{name:<16} {error}"),
        };
    }
    if let Some(mrtd) = row(TDR_TDCS, "MRTD") {
        let words: Result<Vec<u64>, _> = (0..6).map(|i| td_field(target, mrtd.id.0 + i)).collect();
        let _ = match words {
            Ok(words) => {
                let hex: String = words
                    .iter()
                    .flat_map(|w| w.to_le_bytes())
                    .map(|b| format!("{b:02x}"))
                    .collect();
                writeln!(text, "{:<16} {hex}", "MRTD")
            }
            Err(error) => writeln!(text, "{:<16} {error}", "MRTD"),
        };
    }
    text
}

fn ve<O: Owner>(target: &mut TdTarget<'_, O>) -> String {
    const FIELDS: [(&str, u64); 5] = [
        ("valid", 0x0220_0002_0000_0001),
        ("exit reason", 0x0220_0002_0000_0000),
        ("qualification", 0x0220_0003_0000_0002),
        ("linear address", 0x0220_0003_0000_0003),
        ("guest physical", 0x0220_0003_0000_0004),
    ];
    let mut text = String::new();
    for (name, id) in FIELDS {
        let _ = match target.get(target.current, DebugReg::Field(id)) {
            Ok(value) => writeln!(text, "{name:<16} {value:#x}"),
            Err(error) => writeln!(text, "{name:<16} {error}"),
        };
    }
    text
}

fn sept<O: Owner>(target: &mut TdTarget<'_, O>, gpa: &str) -> String {
    let Some(gpa) = number(gpa) else {
        return format!("{gpa:?} is no address");
    };
    let lp = target.owner.lp_of(target.current);
    let parts = target.owner.parts();
    let seam = &mut parts.lps[lp].seam;
    let mut text = String::new();
    for level in (0..4u8).rev() {
        let at = gpa & !((4096u64 << (9 * level)) - 1);
        let Some(mapping) = mapping(at, level) else {
            return format!("{gpa:#x} is no guest physical address");
        };
        let _ = match entry(seam, mapping, parts.td.tdr()) {
            Ok(entry) => writeln!(text, "level {level} {at:#014x}: {entry}"),
            Err(why) => writeln!(text, "level {level} {at:#014x}: {why}"),
        };
    }
    text
}

fn mapping(gpa: u64, level: u8) -> Option<GpaMapping> {
    (gpa >> 52 == 0).then(|| GpaMapping::new(Gpa::new(gpa), level))
}

fn entry<L: SeamcallLp>(
    lp: &mut L,
    mapping: GpaMapping,
    tdr: tdx_call::Tdr,
) -> Result<String, String> {
    tdh_mem_sept_rd(lp, mapping, tdr)
        .map(|(entry, _)| format!("{entry:?}"))
        .map_err(|error| error.to_string())
}

fn field<O: Owner>(target: &mut TdTarget<'_, O>, name: &str) -> String {
    let show = |value: Result<u64, String>| value.map_or_else(|why| why, |v| format!("{v:#x}"));
    if let Some(id) = number(name) {
        // The id says whose field it is; the other context does not know it.
        let vcpus = target.get(target.current, DebugReg::Field(id));
        let value = match vcpus {
            Ok(value) => Ok(value),
            Err(why) => td_field(target, id).map_err(|_| why.to_string()),
        };
        return show(value);
    }
    if let Some(row) = row(TDVPS, name).or_else(|| row(TD_VMCS, name)) {
        let value = target.get(target.current, DebugReg::Field(row.id.0));
        return show(value.map_err(|e| e.to_string()));
    }
    match row(TDR_TDCS, name) {
        Some(row) => show(td_field(target, row.id.0).map_err(|e| e.to_string())),
        None => format!("no metadata field is named {name:?}"),
    }
}

fn exits<O: Owner>(target: &mut TdTarget<'_, O>, count: usize) -> String {
    let lines = target.owner.last_exits(target.current, count.min(1000));
    match lines.is_empty() {
        true => "no exit is recorded".to_owned(),
        false => lines.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_overview_exists() {
        for name in [
            "LIFECYCLE_STATE",
            "OP_STATE",
            "FATAL",
            "HKID",
            "NUM_VCPUS",
            "ATTRIBUTES",
            "XFAM",
            "GPAW",
            "MRTD",
        ] {
            assert!(row(TDR_TDCS, name).is_some(), "{name}");
        }
    }
}
