//! States of TDs, keys, vCPUs, the module and Secure EPT entries, and TDVMCALL sub-functions,
//! against the reference tables.

mod reference;

use reference::{number, table, text};
use serde_json::Value;
use tdx_abi::*;
use x86_arch::Gpr;

fn rows(list: &Value) -> Vec<(String, u64)> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|s| (text(s, "name").to_owned(), number(&s["value"])))
        .collect()
}

macro_rules! ours {
    ($ty:ident) => {
        $ty::ALL
            .iter()
            .map(|s| (s.name().to_owned(), s.raw() as u64))
            .collect::<Vec<_>>()
    };
}

#[test]
fn states_have_the_reference_s_names_and_numbers() {
    let Some(reference) = table("op-states.json") else {
        return;
    };
    assert_eq!(ours!(OpState), rows(&reference["op_states"]));
    assert_eq!(
        ours!(LifecycleState),
        rows(&reference["lifecycle"]["states"])
    );
    assert_eq!(ours!(KotState), rows(&reference["hkid_states_kot"]));
    assert_eq!(ours!(VcpuState), rows(&reference["vcpu_states"]["states"]));
    assert_eq!(
        ours!(LastTdExit),
        rows(&reference["vcpu_states"]["last_td_exit"])
    );
    assert_eq!(
        ours!(ModuleState),
        rows(&reference["module_states"]["states"])
    );
}

#[test]
fn op_state_groups_are_the_reference_s() {
    let Some(reference) = table("op-states.json") else {
        return;
    };
    for (state, row) in OpState::ALL
        .iter()
        .zip(reference["op_states"].as_array().unwrap())
    {
        let flag = |name: &str| row["flags"][name].as_bool().unwrap();
        assert_eq!(
            state.tlb_tracking_required(),
            flag("tlb_tracking_required"),
            "{state}"
        );
        assert_eq!(state.any_initialized(), flag("any_initialized"), "{state}");
        assert_eq!(state.any_finalized(), flag("any_finalized"), "{state}");
        assert_eq!(state.export_in_order(), flag("export_in_order"), "{state}");
        assert_eq!(state.import_in_order(), flag("import_in_order"), "{state}");
        assert_eq!(
            state.import_out_of_order(),
            flag("import_out_of_order"),
            "{state}"
        );
        assert_eq!(
            state.import_in_progress(),
            flag("import_in_progress"),
            "{state}"
        );
    }
}

#[test]
fn secure_ept_states_have_the_reference_s_numbers_bits_and_groups() {
    let Some(reference) = table("sept-states.json") else {
        return;
    };
    let states = reference["states"].as_array().unwrap();
    assert_eq!(states.len(), SeptState::ALL.len());
    for (state, row) in SeptState::ALL.iter().zip(states) {
        assert_eq!(
            (state.name(), state.raw() as u64),
            (text(row, "name"), number(&row["arch_state"]))
        );
        assert_eq!(state.entry_bits(), number(&row["entry_bits"]), "{state}");
        assert_eq!(
            SeptState::of_entry(state.entry_bits() | 0x1234_5000),
            Some(*state)
        );
        assert_eq!(state.is_leaf(), row["PS_leaf"] == 1, "{state}");
        let mut groups: Vec<&str> = row["flags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f.as_str().unwrap())
            .collect();
        let ours = [
            ("any_blocked", state.any_blocked()),
            ("any_blockedw", state.any_blockedw()),
            ("any_exported", state.any_exported()),
            ("any_exported_and_dirty", state.any_exported_and_dirty()),
            (
                "any_exported_and_non_dirty",
                state.any_exported_and_non_dirty(),
            ),
            ("any_pending", state.any_pending()),
            (
                "any_pending_and_guest_acceptable",
                state.any_pending_and_guest_acceptable(),
            ),
            ("export_cancel_allowed", state.export_cancel_allowed()),
            (
                "first_time_export_allowed",
                state.first_time_export_allowed(),
            ),
            (
                "first_time_import_allowed",
                state.first_time_import_allowed(),
            ),
            ("guest_accessible_leaf", state.guest_accessible_leaf()),
            (
                "guest_fully_accessible_leaf",
                state.guest_fully_accessible_leaf(),
            ),
            ("import_cancel_allowed", state.import_cancel_allowed()),
            ("live_export_allowed", state.live_export_allowed()),
            ("mapped_or_pending", state.mapped_or_pending()),
            ("paused_export_allowed", state.paused_export_allowed()),
            ("re_export_allowed", state.re_export_allowed()),
            ("re_import_allowed", state.re_import_allowed()),
            ("tlb_tracking_required", state.tlb_tracking_required()),
        ];
        groups.sort_unstable();
        let ours: Vec<&str> = ours
            .iter()
            .filter(|(_, is)| *is)
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(ours, groups, "{state}");
    }
    let l2 = reference["l2_states"].as_array().unwrap();
    assert_eq!(l2.len(), L2SeptState::ALL.len());
    for (state, row) in L2SeptState::ALL.iter().zip(l2) {
        assert_eq!(
            (state.name(), state.raw() as u64),
            (text(row, "name"), number(&row["arch_state"]))
        );
    }
    assert_eq!(
        SeptEntry::FREE.0,
        number(&reference["encoding"]["free_entry_value"])
    );
}

#[test]
fn tdvmcall_sub_functions_have_the_reference_s_numbers_and_registers() {
    let Some(reference) = table("ghci.json") else {
        return;
    };
    let expected: Vec<_> = reference["sub_functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (number(&f["r11"]), text(f, "name")))
        .collect();
    assert_eq!(
        VMCALLS
            .iter()
            .map(|row| (row.number, row.name))
            .collect::<Vec<_>>(),
        expected
    );

    for (row, function) in VMCALLS
        .iter()
        .zip(reference["sub_functions"].as_array().unwrap())
    {
        let mut inputs = registers(&function["in"]);
        for more in function["functions"]
            .as_object()
            .into_iter()
            .flat_map(|f| f.values())
        {
            inputs.extend(registers(more));
        }
        let mut outputs = registers(&function["out"]);
        outputs.retain(|gpr| *gpr != Gpr::R10);
        assert_eq!(
            sorted(row.inputs.iter().map(|o| o.gpr).collect()),
            sorted(inputs),
            "in of {}",
            row.name
        );
        assert_eq!(
            sorted(row.outputs.iter().map(|o| o.gpr).collect()),
            sorted(outputs),
            "out of {}",
            row.name
        );
    }

    let expected = rows(&reference["status_codes"]);
    let ours: Vec<_> = VmcallStatus::ALL
        .iter()
        .map(|(status, name)| (name.to_string(), status.0))
        .collect();
    assert_eq!(ours, expected);
}

/// The registers of keys such as `"R12"`, `"R11-R14"` and `"R14,R15,RBX"`.
fn registers(map: &Value) -> Vec<Gpr> {
    let mut found = Vec::new();
    for key in map.as_object().into_iter().flat_map(|m| m.keys()) {
        if let Some((first, last)) = key.split_once('-') {
            let (first, last) = (Gpr::parse(first).unwrap(), Gpr::parse(last).unwrap());
            found.extend(
                Gpr::ALL
                    .into_iter()
                    .filter(|gpr| (first..=last).contains(gpr)),
            );
        } else {
            found.extend(key.split(',').filter_map(Gpr::parse));
        }
    }
    found
}

fn sorted(mut list: Vec<Gpr>) -> Vec<Gpr> {
    list.sort_unstable();
    list.dedup();
    list
}
