//! Runs the program and gives what it printed, for comparison with a stored copy.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `swtdx` with `args` and `stdin`; returns exit status, standard output and standard error as one text.
#[allow(dead_code, reason = "each test program uses some of this module")]
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

/// The folder in which the registry's crate `tdx` 0.1.2 keeps OVMF.inteltdx.fd, found through `cargo metadata`.
#[allow(dead_code, reason = "each test program uses some of this module")]
pub fn folder_of_ovmf() -> Option<std::path::PathBuf> {
    let folder = package_folder().map(|folder| folder.join("tests/data"));
    let found = folder.filter(|folder| folder.join("OVMF.inteltdx.fd").is_file());
    if found.is_none() {
        println!(
            "SKIPPED OVMF: cargo metadata does not lead to OVMF.inteltdx.fd of the crate tdx 0.1.2"
        );
    }
    found
}

fn package_folder() -> Option<std::path::PathBuf> {
    // Only this platform's packages need to be there when the network is not.
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args([
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).ok()?;
    let package = metadata["packages"]
        .as_array()?
        .iter()
        .find(|p| p["name"] == "tdx" && p["version"] == "0.1.2")?;
    Some(
        std::path::Path::new(package["manifest_path"].as_str()?)
            .parent()?
            .to_owned(),
    )
}
