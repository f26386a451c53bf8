//! `swtdx run --record`, `swtdx replay` and `swtdx trace` together.

mod program;

use std::path::{Path, PathBuf};

use program::swtdx;

/// Where a recording goes; each test has its own.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("trace-{name}.jsonl"))
}

fn record(name: &str, args: &[&str]) -> String {
    let path = place(name);
    let path = path.to_str().expect("UTF-8");
    let run = ["run", "--quiet", "--memory", "32M", "--record", path];
    let said = swtdx(&[&run, args].concat(), "");
    assert!(said.starts_with("exit status 0\n"), "{said}");
    path.to_owned()
}

/// The output of a command that must succeed without a word on standard error.
fn output(args: &[&str]) -> String {
    let said = swtdx(args, "");
    let output = said
        .strip_prefix("exit status 0\n--- output\n")
        .and_then(|rest| rest.strip_suffix("--- errors\n"));
    output
        .unwrap_or_else(|| panic!("{args:?}: {said}"))
        .to_owned()
}

#[test]
fn what_a_run_recorded_replays_without_a_mismatch() {
    let cases: [(&str, &[&str]); 4] = [
        ("one", &[]),
        ("two", &["--cpus", "2"]),
        ("scripted", &["--scripted"]),
        ("debug", &["--debug-td", "--module", "1.5.01"]),
    ];
    for (name, args) in cases {
        let path = record(name, args);
        let said = output(&["replay", &path]);
        assert!(said.ends_with(" 0 mismatches\n"), "{name}: {said}");
        let compared = said.split(' ').nth(11).and_then(|n| n.parse::<u64>().ok());
        assert!(compared > Some(100_000), "{name}: {said}");
        if name != "two" {
            continue;
        }
        // The same run gives the same file, to the last byte.
        let again = record(&format!("{name}-again"), args);
        let bytes = |path: &str| std::fs::read(path).expect("a file");
        assert!(bytes(&path) == bytes(&again), "{name}");
        std::fs::remove_file(again).expect("the file goes");
    }
}

#[test]
fn a_recording_that_is_changed_does_not_replay() {
    let path = record("changed", &["--scripted"]);
    let text = std::fs::read_to_string(&path).expect("a file");
    let line = text
        .lines()
        .position(|line| line.contains("TDH.MNG.RD") && line.contains("\"r8\":\"0x"))
        .expect("the host reads the TSC's multiplier");
    let changed: Vec<_> = text
        .lines()
        .enumerate()
        .map(|(n, text)| match n == line {
            true => text.replacen("\"r8\":\"0x", "\"r8\":\"0x1", 1),
            false => text.to_owned(),
        })
        .collect();
    std::fs::write(&path, changed.join("\n")).expect("a file");
    let said = swtdx(&["replay", &path], "");
    assert!(said.starts_with("exit status 2\n"), "{said}");
    assert!(
        said.contains(&format!("line {}: TDH.MNG.RD: R8: ", line + 1)),
        "{said}"
    );
}

#[test]
fn a_trace_reads_as_text_is_filtered_and_counted() {
    let path = "../../docs/commands/samples/run.jsonl";
    insta::assert_snapshot!("rows", output(&["trace", path]));
    insta::assert_snapshot!("counts", output(&["trace", path, "--count"]));
    let accepts = output(&["trace", path, "--leaf", "tdg.mem.page.accept"]);
    insta::assert_snapshot!("filtered", accepts);
    let td = ["trace", path, "--td", "0x101000", "--leaf", "TDH.VP.CREATE"];
    assert_eq!(output(&td).lines().count(), 1);
    let vcpu = output(&[
        "trace",
        path,
        "--vcpu",
        "0",
        "--status",
        "TDX_SUCCESS",
        "--count",
    ]);
    assert!(
        vcpu.contains("TDH.VP.FLUSH") && !vcpu.contains("TDH.MEM.PAGE.ADD"),
        "{vcpu}"
    );
    assert_eq!(output(&["trace", path, "--vcpu", "1"]), "");
    let json = output(&["trace", path, "--leaf", "TDH.MNG.CREATE", "--json"]);
    let row: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(row["status"], "SUCCESS");
    assert_eq!(row["in"][0]["name"], "TDR");
    assert_eq!(row["td"], 0x10_1000);
    let counted = output(&[
        "trace",
        path,
        "--leaf",
        "TDH.MNG.CREATE",
        "--count",
        "--json",
    ]);
    assert_eq!(
        counted,
        "{\"what\":\"TDH.MNG.CREATE\",\"status\":\"SUCCESS\",\"count\":1}\n"
    );
}

#[test]
fn a_file_that_is_no_trace_is_told_with_its_line() {
    let path = record("malformed", &["--scripted"]);
    let text = std::fs::read_to_string(&path).expect("a file");
    let lines: Vec<&str> = text.lines().take(9).collect();
    let cut = &lines[8][..lines[8].len() / 2];
    let file = |name: &str, text: &str| {
        let path = place(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let head = lines[..8].join("\n");
    let cases = [
        (
            file("m-empty", ""),
            "line 1: the file is empty: expected a header",
        ),
        (
            file("m-text", "[  0.0] tdx: module initialized\n"),
            "line 1: expected a header",
        ),
        (
            file("m-cut", &format!("{head}\n{cut}")),
            "line 9: expected an operation: EOF",
        ),
        (
            file("m-op", &format!("{head}\n{{\"op\":\"jump\"}}")),
            "line 9: expected an operation: unknown variant `jump`, expected one of `write`",
        ),
        (
            file(
                "m-lp",
                &format!(
                    "{head}\n{{\"op\":\"seamcall\",\"lp\":7,\"leaf\":\"TDH.SYS.INIT\",\"in\":{{\"rax\":\"0x21\"}},\"out\":{{\"rax\":\"0x0\"}},\"status\":\"TDX_SUCCESS\"}}"
                ),
            ),
            "line 9: lp 7: expected one of the 1 processors",
        ),
        ("/no/such/file".to_owned(), "No such file"),
    ];
    for (path, wanted) in cases {
        let said = swtdx(&["trace", &path], "");
        assert!(said.starts_with("exit status 1\n"), "{path}: {said}");
        let errors = said.split_once("--- errors\n").expect("errors").1;
        assert!(errors.starts_with(&format!("swtdx: {path}: ")), "{said}");
        assert!(
            errors.contains(wanted) && errors.lines().count() == 1,
            "{said}"
        );
    }
    let said = swtdx(&["trace", &path, "--leaf", "TDH.NO.SUCH"], "");
    assert!(
        said.starts_with("exit status 1\n") && said.contains("no leaf (such as"),
        "{said}"
    );
}
