//! DEBUG TDs under a debugger: `swtdx run --debug-td --gdb`, driven by real GDB and by clients that misbehave.

#[path = "../program/artifacts.rs"]
mod artifacts;
mod clients;
mod debuggee;
mod embedded;
mod harness;
mod linux;

use std::process::Command;

#[test]
fn a_production_td_is_not_debugged() {
    let output = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["run", "--gdb", ":0"])
        .output()
        .expect("swtdx starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("a production TD cannot be debugged"),
        "{said}"
    );
}
