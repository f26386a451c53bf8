//! `swtdx replay`, as a user and a script see it.

mod program;

use std::path::PathBuf;

use program::swtdx;

const HEADER: &str = r#"{"trace":1,"name":"n","about":"a","module":"1.5.01","platform":{"lps":1,"packages":1,"lp_package":[0],"lp_x2apic":[0],"phys_addr_bits":52,"keyid_bits":6,"private_keyids":[32,63],"global_keyid":32,"cmrs":[],"seamrr":{"base":"0x80000000","size":"0x2000000"},"cache_wb_sub_blocks":4,"cpuid":[],"msr":{}},"gpr_default":{}}"#;
/// A leaf that needs a module that is ready.
const RIGHT: &str = r#"{"op":"seamcall","lp":0,"leaf":"TDH.MNG.RD","in":{"rax":"0xb"},"out":{"rax":"0xc000050500000000"},"status":"TDX_SYS_NOT_READY"}"#;
const WRONG: &str = r#"{"op":"seamcall","lp":0,"leaf":"TDH.MNG.RD","in":{"rax":"0xb","rcx":"0x7"},"out":{"rax":"0xc000050500000000","rcx":"0x5"},"status":"TDX_SYS_NOT_READY"}"#;

/// A trace of these lines in a file of this name.
fn trace(name: &str, lines: &[&str]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, format!("{HEADER}\n{}\n", lines.join("\n"))).expect("a writable folder");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_trace_that_comes_out_as_recorded_says_what_was_compared() {
    let file = trace("right.jsonl", &[RIGHT, RIGHT]);
    let said = swtdx(&["replay", &file], "");
    let counts = "3 lines, 2 SEAMCALLs, 0 guest acts, 0 memory reads, 30 register values compared, 0 volatile, 0 mismatches";
    assert_eq!(
        said,
        format!("exit status 0\n--- output\n{file}: {counts}\n--- errors\n")
    );
}

#[test]
fn the_first_mismatch_ends_the_replay_unless_it_shall_keep_going() {
    let (wrong, right) = (
        trace("wrong.jsonl", &[WRONG, WRONG]),
        trace("right2.jsonl", &[RIGHT]),
    );
    let mismatch = |line| format!("{wrong}: line {line}: TDH.MNG.RD: RCX: expected 0x5, got 0x7\n");
    let said = swtdx(&["replay", &wrong, &right], "");
    assert!(
        said.starts_with(&format!(
            "exit status 2\n--- output\n{}{wrong}: 2 lines",
            mismatch(2)
        )),
        "{said}"
    );
    assert!(!said.contains("right2"), "{said}");
    let said = swtdx(&["replay", "--keep-going", &wrong, &right], "");
    assert!(
        said.starts_with(&format!(
            "exit status 2\n--- output\n{}{}{wrong}: 3 lines",
            mismatch(2),
            mismatch(3)
        )),
        "{said}"
    );
    assert!(said.contains(&format!("{right}: 2 lines")), "{said}");
}

#[test]
fn scripts_read_one_json_object_a_line() {
    let file = trace("json.jsonl", &[WRONG]);
    let said = swtdx(&["replay", "--json", &file], "");
    let lines = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line.is_object()).collect();
    assert_eq!(lines.len(), 2, "{said}");
    let mismatch = serde_json::json!({"mismatch": {"file": file, "line": 2, "leaf": "TDH.MNG.RD", "register": "RCX", "expected": "0x5", "got": "0x7"}});
    assert_eq!(lines[0], mismatch);
    assert_eq!(
        (
            &lines[1]["file"]["seamcalls"],
            &lines[1]["file"]["mismatches"]
        ),
        (&1.into(), &1.into())
    );
}

#[test]
fn what_is_not_understood_and_what_is_not_there_have_their_own_exit_status() {
    let odd = trace("odd.jsonl", &[RIGHT, r#"{"op":"dance"}"#]);
    let said = swtdx(&["replay", "--keep-going", &odd], "");
    assert!(said.starts_with("exit status 3\n"), "{said}");
    assert!(
        said.contains(&format!(
            "{odd}: line 3: expected an operation: unknown variant `dance`"
        )),
        "{said}"
    );
    let said = swtdx(&["replay", "/nonexistent/trace.jsonl"], "");
    assert!(
        said.starts_with("exit status 1\n") && said.contains("/nonexistent/trace.jsonl"),
        "{said}"
    );
    let said = swtdx(&["replay", "--module", "9.9", &odd], "");
    assert!(
        said.starts_with("exit status 1\n") && said.contains("no such module: one of 1.5.01"),
        "{said}"
    );
}
