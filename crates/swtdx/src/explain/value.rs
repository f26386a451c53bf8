//! From the text of one value to its readings.

use tdx_abi::{Status, VmcallFunction, metadata};

use super::reading::Reading;
use super::{exits, fields, leaves, status, words};

/// A kind's reader: its numbers, one or more.
type Reader = fn(&[u64]) -> Vec<Reading>;

/// The kinds that may stand before a number.
pub const KINDS: &[(&str, Reader)] = &[
    ("status", |n| vec![status::read(Status(n[0]))]),
    ("leaf", |n| leaves::read_host(n[0]).into_iter().collect()),
    ("tdcall", |n| leaves::read_guest(n[0]).into_iter().collect()),
    ("field", |n| fields::read(n[0])),
    ("vmcall", |n| vec![leaves::read_vmcall(n[0])]),
    ("exit", |n| {
        exits::read(n[0], n.get(1).copied(), n.get(2).copied())
    }),
    ("eeq", |n| vec![exits::read_extended(n[0])]),
    ("intr", |n| vec![exits::read_interruption(n[0])]),
    ("gpa", |n| vec![words::read_gpa_mapping(n[0])]),
    ("sept", |n| {
        vec![words::read_sept_entry(n[0], n.get(1).copied())]
    }),
    ("info", |n| vec![words::read_sept_info(n[0])]),
    ("mask", |n| vec![words::read_mask(n[0])]),
    ("attributes", |n| vec![words::read_attributes(n[0])]),
    ("xfam", |n| vec![words::read_xfam(n[0])]),
    ("config", |n| vec![words::read_config_flags(n[0])]),
];

/// Reads a value. An empty list: nothing known. An error: it names a kind but is not of its form.
pub fn read(text: &str) -> Result<Vec<Reading>, String> {
    let text = text.trim();
    if let Some((kind, numbers)) = text.split_once(':')
        && let Some((_, reader)) = KINDS.iter().find(|(name, _)| *name == kind)
    {
        let numbers: Option<Vec<u64>> = numbers.split(',').map(number).collect();
        return match numbers {
            Some(numbers) => Ok(reader(&numbers)),
            None => Err(format!(
                "{kind}: takes numbers such as 0x12 or 18, separated by commas"
            )),
        };
    }
    Ok(match number(text) {
        Some(number) => read_number(number),
        None => read_name(text),
    })
}

/// A number in hexadecimal with `0x`, or in decimal; `_` may separate digits.
pub fn number(text: &str) -> Option<u64> {
    let digits = text.trim().replace('_', "");
    match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse().ok(),
        None => None,
    }
}

/// Everything that a number without a kind certainly may be; failing that, everything it could be.
fn read_number(number: u64) -> Vec<Reading> {
    let mut readings = Vec::new();
    let known = Status(number);
    if known.code().0 != 0 && known.row().is_some() {
        readings.push(status::read(known));
    }
    readings.extend(fields::read_exact(number));
    if number <= 0xFF_FFFF {
        readings.extend(leaves::read_host(number).filter(leaves::is_known));
        readings.extend(leaves::read_guest(number).filter(leaves::is_known));
        readings.extend(exits::read_reason(number));
        readings.extend(
            VmcallFunction(number)
                .row()
                .map(|_| leaves::read_vmcall(number)),
        );
    }
    if !readings.is_empty() {
        return readings;
    }
    if known.class_name().is_some() && known.is_error() {
        readings.push(status::read(known));
        return readings;
    }
    words::read_anything(number)
}

/// Reads a name: a status, a leaf, a metadata field, an exit reason.
fn read_name(text: &str) -> Vec<Reading> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("TDX_").unwrap_or(&upper);
    let (bare, operand) = bare
        .strip_suffix(')')
        .and_then(|b| b.split_once('('))
        .unwrap_or((bare, ""));
    let mut readings = Vec::new();
    if let Some(found) = Status::ALL.iter().find(|s| s.name() == Some(bare)) {
        let operand = tdx_abi::OperandId::ALL
            .iter()
            .find(|o| o.name() == Some(operand));
        readings.push(status::read(
            operand.map_or(*found, |operand| found.with_operand(*operand)),
        ));
    }
    let dotted = upper.trim_start_matches("__").replace('_', ".");
    readings.extend(leaves::named(&dotted));
    let tables = [
        metadata::GLOBAL_SYS,
        metadata::TDR_TDCS,
        metadata::TDVPS,
        metadata::TD_VMCS,
    ];
    let field = |row: &&metadata::FieldRow| row.name.to_ascii_uppercase() == upper;
    readings.extend(
        tables
            .into_iter()
            .flatten()
            .filter(field)
            .flat_map(|row| fields::read(row.id.0)),
    );
    readings.extend(exits::named(&upper));
    readings
}
