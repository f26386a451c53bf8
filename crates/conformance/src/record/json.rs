//! The few forms of JSON that a trace is made of.

use std::fmt::Write;

use x86_arch::Gpr;

/// `{"rax":"0x1",…}` of some registers, never RSP.
pub(super) fn gprs(values: impl IntoIterator<Item = (Gpr, u64)>) -> String {
    let values = values.into_iter().filter(|(reg, _)| *reg != Gpr::Rsp);
    object(values.map(|(reg, value)| (reg.name().to_ascii_lowercase(), value)))
}

/// `{"name":"0x1",…}`.
pub(super) fn object<N: AsRef<str>>(values: impl IntoIterator<Item = (N, u64)>) -> String {
    let mut text = String::from("{");
    for (name, value) in values {
        let comma = if text.len() > 1 { "," } else { "" };
        let _ = write!(text, r#"{comma}"{}":"{value:#x}""#, name.as_ref());
    }
    text + "}"
}

/// `{"xmm0":"0x1",…}` of those that are not zero.
pub(super) fn xmm_object(values: &[u128; 16]) -> String {
    let mut text = String::from("{");
    for (n, value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
        let comma = if text.len() > 1 { "," } else { "" };
        let _ = write!(text, r#"{comma}"xmm{n}":"{value:#x}""#);
    }
    text + "}"
}

/// `["0x0",…]` of all sixteen.
pub(super) fn xmm_list(values: &[u128; 16]) -> String {
    let words: Vec<_> = values
        .iter()
        .map(|value| format!(r#""{value:#x}""#))
        .collect();
    format!("[{}]", words.join(","))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A string in quotes.
pub(super) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
