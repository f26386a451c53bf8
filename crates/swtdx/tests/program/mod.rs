//! Runs the program and gives what it printed, for comparison with a stored copy.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `swtdx` with `args` and `stdin`; returns exit status, standard output and standard error as one text.
pub fn swtdx(args: &[&str], stdin: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that does not read its input may be gone already.
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    let code = output.status.code().expect("an exit status");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    format!("exit status {code}\n--- output\n{out}--- errors\n{err}")
}
