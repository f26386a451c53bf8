//! One value of each kind, changed in copies of the recorded traces, must be reported at its line.

mod recorded;

use conformance::{Mismatch, Replay};
use recorded::traces;
use serde_json::{Map, Value};

/// Changes a value of one kind in an operation, and says how the report must name it; `None` where the operation
/// has no such value.
type Flip = fn(&mut Map<String, Value>) -> Option<String>;

const KINDS: &[(&str, Flip)] = &[
    ("rax", |op| flip_hex(op.get_mut("out")?, "rax", "RAX")),
    ("a listed register", |op| {
        let volatile = op.get("volatile").cloned();
        flip_listed(op.get_mut("out")?, &volatile)
    }),
    ("an unlisted register", |op| {
        add_unlisted(op.get_mut("out")?)
    }),
    ("a register that the list forgets", |op| {
        let out = op.get_mut("out")?.as_object_mut()?;
        // A register that came back with its input's value would not be listed, so this one did change.
        out.remove("rdx").map(|_| "RDX".into())
    }),
    ("the status name", |op| {
        op.insert("status".into(), "TDX_NO_SUCH_NAME".into())
            .map(|_| "status".into())
    }),
    ("xmm_out", |op| {
        flip_hex(op.get_mut("xmm_out")?, "xmm3", "XMM3")
    }),
    ("an xmm_out register that is zero", |op| {
        let list = op.get_mut("xmm_out")?.as_object_mut()?;
        list.insert("xmm5".into(), "0x123".into())
            .is_none()
            .then(|| "XMM5".into())
    }),
    ("read bytes", |op| {
        (op["op"] == "read").then(|| flip_bytes(op, "hex"))?
    }),
    ("guest memory", |op| {
        act(op, |act| {
            (act["act"] == "guest_mem").then(|| flip_bytes(act, "hex"))?
        })
    }),
    ("an entry register", |op| {
        act(op, |act| {
            flip_hex(act.get_mut("gprs")?, "r8", "R8").filter(|_| is_entry(act))
        })
    }),
    ("entry rip", |op| act(op, |act| entry(act, "rip", "RIP"))),
    ("entry rsp", |op| act(op, |act| entry(act, "rsp", "RSP"))),
    ("entry rflags", |op| {
        act(op, |act| entry(act, "rflags", "RFLAGS"))
    }),
    ("entry xmm", |op| {
        act(op, |act| {
            match act["xmm"]
                .as_object_mut()
                .filter(|list| !list.contains_key("xmm2"))
            {
                Some(list) => list
                    .insert("xmm2".into(), "0x1".into())
                    .or(Some(Value::Null))
                    .map(|_| "XMM2".into()),
                None => None,
            }
        })
    }),
    ("rax of a guest act", |op| {
        act(op, |act| flip_hex(act.get_mut("out")?, "rax", "RAX"))
    }),
    ("a listed register of a guest act", |op| {
        act(op, |act| {
            let volatile = act.get("volatile").cloned();
            flip_listed(act.get_mut("out")?, &volatile)
        })
    }),
    ("an unlisted register of a guest act", |op| {
        act(op, |act| add_unlisted(act.get_mut("out")?))
    }),
    ("rip_advance", |op| {
        act(op, |act| {
            let advance = act.get("rip_advance")?.as_i64()?;
            act.insert("rip_advance".into(), (advance + 1).into())
                .map(|_| "rip_advance".into())
        })
    }),
    ("rip_advance that is absent", |op| {
        act(op, |act| {
            let absent = act.contains_key("inject") && !act.contains_key("rip_advance");
            absent
                .then(|| act.insert("rip_advance".into(), 1.into()))?
                .is_none()
                .then(|| "rip_advance".into())
        })
    }),
    ("inject", |op| {
        act(op, |act| flip_hex(act.get_mut("inject")?, "info", "inject"))
    }),
    ("an injected error code", |op| {
        act(op, |act| {
            flip_hex(act.get_mut("inject")?, "error_code", "inject error_code")
        })
    }),
    ("inject that is absent", |op| {
        act(op, |act| {
            let goes_on = act.contains_key("rip_advance");
            let inject = serde_json::json!({"info": "0x80000306"});
            goes_on
                .then(|| act.insert("inject".into(), inject))?
                .is_none()
                .then(|| "inject".into())
        })
    }),
    ("a native MSR access", |op| {
        act(op, |act| {
            let native = act["act"] == "rdmsr" && act.contains_key("native");
            let other = "0x1b"; // IA32_APIC_BASE always exits
            native
                .then(|| act["in"]["rcx"] = other.into())
                .map(|()| "exit bit of MSR 0x1b".into())
        })
    }),
    ("a native CR write", |op| {
        act(op, |act| {
            let native = act["act"] == "cr_write" && act.contains_key("native");
            let name = format!("exit of the CR{} write", act.get("cr")?);
            let reg = act["in"].as_object()?.keys().next()?.clone();
            // No guest owns CR0.CD or CR4.VMXE.
            let value = if act["cr"] == 0 {
                0xE000_0021_u64
            } else {
                0x2040
            };
            native
                .then(|| act["in"][reg] = format!("{value:#x}").into())
                .map(|()| name)
        })
    }),
];

fn is_entry(act: &Map<String, Value>) -> bool {
    act["act"] == "entry"
}

fn entry(act: &mut Map<String, Value>, key: &str, name: &str) -> Option<String> {
    if !is_entry(act) {
        return None;
    }
    let mut value = Value::Object(std::mem::take(act));
    let name = flip_hex(&mut value, key, name);
    *act = value.as_object_mut().map(std::mem::take)?;
    name
}

/// Applies a change to the first act that has such a value.
fn act(
    op: &mut Map<String, Value>,
    flip: fn(&mut Map<String, Value>) -> Option<String>,
) -> Option<String> {
    let acts = op.get_mut("guest")?.as_array_mut()?;
    acts.iter_mut()
        .filter_map(Value::as_object_mut)
        .find_map(flip)
}

/// Changes the lowest bit of a number.
fn flip_hex(list: &mut Value, key: &str, name: &str) -> Option<String> {
    let text = list.get(key)?.as_str()?;
    let number = u128::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
    list[key] = format!("{:#x}", number ^ 1).into();
    Some(name.into())
}

fn flip_listed(out: &mut Value, volatile: &Option<Value>) -> Option<String> {
    let is_volatile = |reg: &str| {
        let list = volatile.as_ref().and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|v| v == reg))
    };
    let reg = out
        .as_object()?
        .keys()
        .find(|reg| *reg != "rax" && !is_volatile(reg))?
        .clone();
    flip_hex(out, &reg, &reg.to_uppercase())
}

fn add_unlisted(out: &mut Value) -> Option<String> {
    let reg = ["rbx", "r12", "r15", "rsi"]
        .into_iter()
        .find(|reg| out.get(reg).is_none())?;
    out[reg] = "0x5432154321".into();
    Some(reg.to_uppercase())
}

/// Changes the last byte, which no trace ignores.
fn flip_bytes(op: &mut Map<String, Value>, key: &str) -> Option<String> {
    let hex = op.get(key)?.as_str()?;
    let (start, digit) = hex.split_at(hex.len() - 1);
    let digit = if digit == "0" { '1' } else { '0' };
    let position = start.len() / 2;
    let ignored = op
        .get("ignore")
        .and_then(Value::as_array)
        .is_some_and(|ranges| {
            ranges.iter().any(|r| {
                r[0].as_u64() <= Some(position as u64)
                    && r[0]
                        .as_u64()
                        .zip(r[1].as_u64())
                        .is_some_and(|(o, l)| o + l > position as u64)
            })
        });
    let hex = format!("{start}{digit}");
    (!ignored).then(|| op.insert(key.into(), hex.into()))?;
    Some(format!("byte {position:#x}"))
}

/// The mismatches of one line, as played in the whole trace.
fn mismatches_at(text: &str, line: usize) -> Vec<Mismatch> {
    let mut replay = Replay::new(text.as_bytes()).expect("a good header");
    for _ in 2..line {
        replay.step().expect("an understood trace");
    }
    replay
        .step()
        .expect("an understood trace")
        .expect("the line exists")
}

#[test]
fn a_changed_value_of_every_kind_is_reported_at_its_line() {
    let traces = traces();
    if traces.is_empty() {
        return;
    }
    let texts: Vec<_> = traces
        .iter()
        .map(|p| std::fs::read_to_string(p).expect("a readable trace"))
        .collect();
    for &(kind, flip) in KINDS {
        let mut found = 0;
        for (path, text) in traces.iter().zip(&texts) {
            let lines: Vec<_> = text.lines().collect();
            let flipped = (1..lines.len()).find_map(|i| {
                let mut op: Value = serde_json::from_str(lines[i]).expect("JSON");
                let register = flip(op.as_object_mut()?)?;
                let line = op.to_string();
                (line != lines[i]).then_some((i, line, register))
            });
            let Some((i, line, register)) = flipped else {
                continue;
            };
            let mut copy = lines[..=i].to_vec();
            copy[i] = &line;
            let before = mismatches_at(text, i + 1);
            let after = mismatches_at(&copy.join("\n"), i + 1);
            let reported = after.iter().any(|m| {
                m.line == i as u64 + 1 && m.register.starts_with(&register) && !before.contains(m)
            });
            assert!(
                reported,
                "{kind}: {} line {}: {register} was not reported, but {after:?}",
                path.display(),
                i + 1
            );
            found += 1;
            if found == 3 {
                break;
            }
        }
        assert!(found > 0, "no recorded trace has {kind}");
    }
}
