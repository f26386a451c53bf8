//! The recorded traces beside the project, where they are present.

mod recorded;

use conformance::{Counts, Replay};
use recorded::traces;
use serde_json::Value;

/// What a replay of these operations must count, read off the bare JSON.
fn count(ops: &[Value], counts: &mut Counts) {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    for op in ops {
        let volatile = list(op, "volatile").len() as u64;
        match op["op"].as_str() {
            Some("read") => counts.memory_reads += 1,
            Some("seamcall") => {
                let repeat = op["repeat"].as_u64().unwrap_or(1);
                counts.seamcalls += repeat;
                counts.volatile += volatile * repeat;
                if op.get("out").is_some() {
                    counts.compared += (15 - volatile) * repeat;
                    counts.compared += if op.get("guest").is_some() { 16 } else { 0 };
                }
            }
            _ => {}
        }
        for act in list(op, "guest") {
            counts.guest_acts += 1;
            counts.memory_reads += u64::from(act["act"] == "guest_mem");
            counts.compared += compared_by(&act);
            counts.volatile += list(&act, "volatile").len() as u64;
            count(&list(&act, "ops"), counts);
        }
    }
}

/// Register values that an act compares.
fn compared_by(act: &Value) -> u64 {
    let has = |key: &str| act.get(key).is_some();
    let vmx = &act["vmx"];
    let moves_to_cr = || {
        let qualification = vmx["qual"]
            .as_str()
            .and_then(|q| u64::from_str_radix(&q[2..], 16).ok());
        qualification.unwrap_or(0) & 0x30 == 0
    };
    // Would the access exit, as recorded?
    let exiting = match vmx["reason"].as_u64() {
        Some(28) => moves_to_cr(),
        Some(31 | 32) => true,
        _ => has("native"),
    };
    // GPRs, then RIP and the injected event; at entry GPRs, RIP, RSP, RFLAGS and XMM0 to XMM15.
    let state = if act["act"] == "entry" {
        15 + 3 + 16
    } else if has("out") {
        let volatile = act["volatile"].as_array().map_or(0, Vec::len) as u64;
        15 - volatile + 2 + u64::from(act["inject"].get("error_code").is_some())
    } else {
        0
    };
    state + u64::from(exiting)
}

#[test]
fn every_recorded_trace_replays_to_its_last_line_without_a_mismatch_and_without_leaving_anything_out()
 {
    for path in traces() {
        let text = std::fs::read_to_string(&path).expect("a readable trace");
        let mut expected = Counts {
            lines: text.lines().count() as u64,
            ..Counts::default()
        };
        let ops: Vec<Value> = text
            .lines()
            .skip(1)
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect();
        count(&ops, &mut expected);

        let mut replay =
            Replay::new(text.as_bytes()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        while let Some(mismatches) = replay
            .step()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        {
            assert_eq!(mismatches, [], "{}", path.display());
        }
        assert_eq!(replay.counts(), expected, "{}", path.display());
    }
}
