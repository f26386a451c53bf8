//! The reference tables in ../shared/tdx-abi, which these tests compare the crate with.

use serde_json::Value;

/// Reads a table; `None`, with a word on why, where the folder is not there.
pub fn table(name: &str) -> Option<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/tdx-abi");
    match std::fs::read(format!("{folder}/{name}")) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("the table is JSON")),
        Err(_) => {
            println!("SKIPPED comparison with {name}: ../shared/tdx-abi is not there");
            None
        }
    }
}

/// A number written as `"0x…"` or as a JSON integer.
#[allow(dead_code, reason = "each test program uses some of this module")]
pub fn number(value: &Value) -> u64 {
    match value {
        Value::String(text) => {
            u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hexadecimal")
        }
        other => other.as_u64().expect("a number"),
    }
}

/// The string member `key`, or `""`.
#[allow(dead_code, reason = "each test program uses some of this module")]
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}
