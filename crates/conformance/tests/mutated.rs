//! Recorded sequences with wild changes: whatever host and guest do, the module answers and does not panic.
//!
//! `SWTDX_MUTATIONS=n` makes n copies of each trace instead of one.

mod recorded;

use conformance::{Replay, ReplayError};
use recorded::traces;
use serde_json::Value;

/// A small generator, so that every run makes the same changes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    /// A value near `old`, near one the trace has used, or near nothing.
    fn value(&mut self, old: u64, seen: &[u64]) -> u64 {
        let other = seen.get(self.below(seen.len())).copied().unwrap_or(0);
        match self.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => old ^ 1 << self.below(64),
            3 => old.wrapping_add(0x1000),
            4 => old.wrapping_sub(0x1000),
            5 => self.next(),
            6 => other ^ 1 << self.below(64),
            7 => old & !0xFFF | self.next() & 7,
            _ => other,
        }
    }
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Changes some registers of a list.
fn mutate_registers(list: &mut Value, random: &mut Random, seen: &mut Vec<u64>) {
    let Some(list) = list.as_object_mut() else {
        return;
    };
    for value in list.values_mut() {
        let Some(old) = number(value) else { continue };
        if random.below(6) == 0 {
            *value = format!("{:#x}", random.value(old, seen)).into();
        }
        if seen.len() < 256 {
            seen.push(old);
        } else {
            let at = random.below(256);
            seen[at] = old;
        }
    }
}

fn mutate(op: &mut Value, random: &mut Random, seen: &mut Vec<u64>) {
    if op["op"] != "seamcall" {
        return;
    }
    mutate_registers(&mut op["in"], random, seen);
    for act in op["guest"].as_array_mut().into_iter().flatten() {
        if let Some(input) = act.get_mut("in") {
            mutate_registers(input, random, seen);
        }
        if let Some(gprs) = act
            .get_mut("gprs")
            .filter(|gprs| gprs.as_object().is_some_and(|g| g.len() < 15))
        {
            mutate_registers(gprs, random, seen);
        }
        for op in act
            .get_mut("ops")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            mutate(op, random, seen);
        }
    }
}

/// A copy of a trace with changes in some of its lines from `from` on; some lines are missing or stand twice.
fn mutated(text: &str, random: &mut Random) -> String {
    let mut lines = text.lines();
    let mut copy = format!("{}\n", lines.next().unwrap_or_default());
    let total = text.lines().count();
    let from = random.below(total);
    let mut seen = Vec::new();
    for (i, line) in lines.enumerate() {
        if i < from {
            copy += line;
            copy.push('\n');
            continue;
        }
        let times = match random.below(40) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        let mut op: Value = serde_json::from_str(line).expect("JSON");
        mutate(&mut op, random, &mut seen);
        for _ in 0..times {
            copy += &op.to_string();
            copy.push('\n');
        }
    }
    copy
}

#[test]
fn wild_sequences_never_make_the_module_panic() {
    let copies = std::env::var("SWTDX_MUTATIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let mut wrong = Vec::new();
    for (i, path) in traces().iter().enumerate() {
        let text = std::fs::read_to_string(path).expect("a readable trace");
        for copy in 0..copies {
            let mut random = Random((i as u64) << 32 | copy);
            let trace = mutated(&text, &mut random);
            let mut replay = Replay::new(trace.as_bytes()).expect("a good header");
            loop {
                match replay.step() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(ReplayError::Panicked { line, message }) => {
                        let line = trace.lines().nth(line as usize - 1).unwrap_or_default();
                        let line: String = line.chars().take(300).collect();
                        wrong.push(format!("{} copy {copy}: {message}: {line}", path.display()));
                        break;
                    }
                    Err(e) => panic!("{} copy {copy}: {e}", path.display()),
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} panics:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
