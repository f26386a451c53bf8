//! Holds the layering of the workspace: arrows between crates point down (docs/architecture.md).

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Crate and layer. A crate that is not listed fails the test.
const LAYERS: &[(&str, u8)] = &[
    ("x86_arch", 0),
    ("tdx_abi", 0),
    ("coco_regs", 1),
    ("tdx_call", 1),
    ("tdx_call_c", 1),
    ("tdx_trap", 1),
    ("tdvf", 1),
    ("guest_images", 1),
    ("tdx_machine", 2),
    ("x86_engine", 2),
    ("tdx_module", 2),
    ("tdx_platform", 3),
    ("tdx_host", 3),
    ("tdx_devices", 3),
    ("tdx_debug", 3),
    ("swtdx", 4),
    ("conformance", 4),
    ("native_cpu", 4),
    ("xtask", 4),
];

/// Arrows inside one layer that the design draws.
const WITHIN_A_LAYER: &[(&str, &str)] = &[
    ("tdx_abi", "x86_arch"),
    ("tdx_call", "coco_regs"),
    ("tdx_call_c", "tdx_call"),
    ("tdx_trap", "tdx_call"),
    ("tdx_trap", "coco_regs"),
    ("tdx_devices", "tdx_host"),
    ("tdx_debug", "tdx_host"),
];

/// Arrows that point down and are refused all the same.
fn forbidden(from: &str, to: &str, to_layer: u8) -> Option<&'static str> {
    match from {
        "tdx_machine" | "x86_engine" if to == "tdx_call" => {
            Some("hardware does not call the module")
        }
        "tdx_host" | "tdx_devices" | "tdx_debug" if to_layer == 2 || to == "tdx_platform" => {
            Some("host software meets the module only through the call layer")
        }
        _ => None,
    }
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Why the arrow may not be drawn, if it may not.
fn objection(layers: &BTreeMap<&str, u8>, from: &str, to: &str) -> Option<String> {
    let (Some(&from_layer), Some(&to_layer)) = (layers.get(from), layers.get(to)) else {
        return Some(format!("{from} -> {to}: a crate without a layer"));
    };
    if let Some(why) = forbidden(from, to, to_layer) {
        return Some(format!("{from} -> {to}: {why}"));
    }
    let free = from_layer == 4 && to_layer == 4;
    if to_layer < from_layer || free || WITHIN_A_LAYER.contains(&(from, to)) {
        return None;
    }
    Some(format!(
        "{from} (L{from_layer}) -> {to} (L{to_layer}): not a lower layer"
    ))
}

#[test]
fn arrows_between_crates_point_down() {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    let metadata = metadata();
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        let from = package["name"].as_str().expect("name");
        if !layers.contains_key(from) {
            wrong.push(format!("{from}: no layer is written down for it"));
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // What a test pulls in does not ship; what a crate is built from does.
            if dependency["path"].is_null() || dependency["kind"] == "dev" {
                continue;
            }
            arrows += 1;
            let to = dependency["name"].as_str().expect("name");
            wrong.extend(objection(&layers, from, to));
        }
    }
    assert!(arrows > 20, "only {arrows} arrows were read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_refuse_what_the_design_refuses() {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    for (from, to) in [
        ("tdx_module", "tdx_machine"),
        ("x86_engine", "tdx_module"),
        ("x86_engine", "tdx_call"),
        ("tdx_host", "tdx_module"),
        ("tdx_host", "tdx_platform"),
        ("tdx_debug", "tdx_devices"),
        ("tdx_platform", "tdx_host"),
        ("tdx_call", "tdx_trap"),
        ("x86_arch", "tdx_abi"),
    ] {
        assert!(
            objection(&layers, from, to).is_some(),
            "{from} -> {to} passed"
        );
    }
}
