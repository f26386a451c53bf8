//! Every leaf's row against the reference tables.

mod reference;

use reference::{number, table, text};
use serde_json::Value;
use tdx_abi::{GuestLeaf, HostLeaf, Interruption, LeafOperand, LeafRow, LockMode};

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| s.as_str().unwrap().to_owned())
        .collect()
}

fn operands(value: &Value) -> Vec<(String, String, String)> {
    let operand = |o: &Value| {
        (
            text(o, "reg").to_owned(),
            text(o, "name").to_owned(),
            text(o, "format").to_owned(),
        )
    };
    value
        .as_array()
        .unwrap()
        .iter()
        .map(operand)
        .filter(|(reg, ..)| reg != "RAX")
        .collect()
}

fn ours(operands: &[LeafOperand]) -> Vec<(String, String, String)> {
    operands
        .iter()
        .map(|o| {
            (
                o.registers.to_owned(),
                o.name.to_owned(),
                o.format.to_owned(),
            )
        })
        .collect()
}

fn compare(row: &LeafRow, expected: &Value) {
    let name = row.name;
    assert_eq!(name, text(expected, "name"));
    assert_eq!(row.number as u64, number(&expected["number"]), "{name}");
    let versions: Vec<u64> = expected["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(number)
        .collect();
    assert_eq!(
        row.versions.iter().map(|v| *v as u64).collect::<Vec<_>>(),
        versions,
        "{name}"
    );
    let category = format!("{:?}", row.category).to_lowercase();
    assert_eq!(
        category,
        text(expected, "category").replace('_', ""),
        "{name}"
    );
    assert_eq!(row.implemented, expected["implemented"] == true, "{name}");
    assert_eq!(ours(row.inputs), operands(&expected["in"]), "{name} in");
    assert_eq!(ours(row.outputs), operands(&expected["out"]), "{name} out");
    assert_eq!(
        row.op_states.is_some(),
        expected.get("op_states").is_some(),
        "{name}"
    );
    let op_states: Vec<_> = row
        .op_states
        .unwrap_or(&[])
        .iter()
        .map(|s| s.name().to_owned())
        .collect();
    assert_eq!(op_states, strings(&expected["op_states"]), "{name}");
    assert_eq!(
        row.sept_states.is_some(),
        expected.get("sept_states").is_some(),
        "{name}"
    );
    let sept_states: Vec<_> = row
        .sept_states
        .unwrap_or(&[])
        .iter()
        .map(|s| s.name().to_owned())
        .collect();
    assert_eq!(sept_states, strings(&expected["sept_states"]), "{name}");
    let interruption = match text(expected, "resume")
        .split_once(':')
        .map(|(what, _)| what)
    {
        None => Interruption::Never,
        Some("TDX_INTERRUPTED_RESUMABLE") => Interruption::Resumable,
        Some("TDX_INTERRUPTED_RESTARTABLE") => Interruption::Restartable,
        Some("guest side") => Interruption::Reexecuted,
        Some(other) => panic!("{name}: {other}"),
    };
    assert_eq!(row.interruption, interruption, "{name}");
    assert_eq!(
        expected["interruptible"] == true,
        interruption != Interruption::Never,
        "{name}"
    );
    let locks: Vec<_> = expected["locks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|lock| {
            let mode = match text(lock, "mode") {
                "shared" => LockMode::Shared,
                "exclusive" => LockMode::Exclusive,
                "mutex" => LockMode::Mutex,
                implied => {
                    assert!(implied.contains("implied"), "{implied}");
                    LockMode::Implied
                }
            };
            (text(lock, "object").to_owned(), mode)
        })
        .collect();
    assert_eq!(
        row.locks
            .iter()
            .map(|l| (l.object.to_owned(), l.mode))
            .collect::<Vec<_>>(),
        locks,
        "{name}"
    );
    assert_eq!(
        row.associates,
        expected.get("vcpu_association").is_some(),
        "{name}"
    );
    let statuses: Vec<_> = row
        .statuses
        .iter()
        .map(|s| s.name().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = strings(&expected["statuses_named_in_handler"])
        .iter()
        .map(|s| s.strip_prefix("TDX_").unwrap_or(s).to_owned())
        .collect();
    assert_eq!(statuses, expected, "{name}");
}

#[test]
fn every_value_of_every_seamcall_leaf_is_the_reference_s() {
    let Some(reference) = table("seamcall-leaves.json") else {
        return;
    };
    let expected = reference["leaves"].as_array().unwrap();
    assert_eq!(expected.len(), HostLeaf::ALL.len());
    for (leaf, expected) in HostLeaf::ALL.iter().zip(expected) {
        compare(
            leaf.row().unwrap_or_else(|| panic!("{leaf} has no row")),
            expected,
        );
        assert_eq!(leaf.name(), Some(text(expected, "name")));
    }
}

#[test]
fn every_value_of_every_tdcall_leaf_is_the_reference_s() {
    let Some(reference) = table("tdcall-leaves.json") else {
        return;
    };
    let expected = reference["leaves"].as_array().unwrap();
    assert_eq!(expected.len(), GuestLeaf::ALL.len());
    for (leaf, expected) in GuestLeaf::ALL.iter().zip(expected) {
        compare(
            leaf.row().unwrap_or_else(|| panic!("{leaf} has no row")),
            expected,
        );
        assert_eq!(leaf.name(), Some(text(expected, "name")));
    }
}

#[test]
fn every_operand_names_registers_that_exist() {
    let rows = HostLeaf::ALL
        .iter()
        .filter_map(|l| l.row())
        .chain(GuestLeaf::ALL.iter().filter_map(|l| l.row()));
    for row in rows {
        for operand in row.inputs.iter().chain(row.outputs) {
            assert!(
                operand.is_xmm() != (operand.gprs() != 0),
                "{}: {operand}",
                row.name
            );
        }
        assert_eq!(row.summary.is_empty(), !row.implemented, "{}", row.name);
    }
    let r9_to_r11 = LeafOperand {
        registers: "R9-R11",
        name: "",
        format: "",
    };
    assert_eq!(r9_to_r11.gprs(), 0b1110_0000_0000);
}

/// The reference has the allowed states a second time, by state machine.
#[test]
fn op_states_and_secure_ept_states_of_the_rows_agree_with_the_state_tables() {
    let (Some(op), Some(sept)) = (table("op-states.json"), table("sept-states.json")) else {
        return;
    };
    let row = |name: &str| {
        let host = HostLeaf::parse(name).and_then(|leaf| leaf.row());
        host.or_else(|| GuestLeaf::parse(name).and_then(|leaf| leaf.row()))
            .unwrap_or_else(|| panic!("{name}"))
    };
    let mut compared = 0;
    for entry in op["seamcall_allowed"].as_array().unwrap() {
        let row = row(text(entry, "leaf"));
        assert_eq!(row.number as u64, number(&entry["number"]), "{}", row.name);
        let ours: Vec<_> = row
            .op_states
            .unwrap_or(&[])
            .iter()
            .map(|s| s.name().to_owned())
            .collect();
        assert_eq!(ours, strings(&entry["op_states"]), "{}", row.name);
        compared += 1;
    }
    for list in ["seamcall_allowed", "tdcall_allowed"] {
        for entry in sept[list].as_array().unwrap() {
            let row = row(text(entry, "leaf"));
            let ours: Vec<_> = row
                .sept_states
                .unwrap_or(&[])
                .iter()
                .map(|s| s.name().to_owned())
                .collect();
            assert_eq!(ours, strings(&entry["states"]), "{}", row.name);
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
}
