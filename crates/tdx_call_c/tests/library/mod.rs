//! The static library, built as the header says. The tests of two crates build it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the library of the crate with this manifest, in a place that all tests share.
pub fn library(manifest: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("staticlib");
    let built = Command::new(env!("CARGO"))
        .args([
            "rustc",
            "--quiet",
            "--offline",
            "--release",
            "--crate-type",
            "staticlib",
        ])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-Cpanic=abort"])
        .output()
        .expect("cargo runs");
    let why = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{why}");
    target.join("release/libtdx_call_c.a")
}
