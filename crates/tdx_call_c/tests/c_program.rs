//! A C program calls the six functions through the static library, which is built here as the header says.
#![forbid(unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::{Path, PathBuf};
use std::process::Command;

fn library() -> PathBuf {
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
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-Cpanic=abort"])
        .output()
        .expect("cargo runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    target.join("release/libtdx_call_c.a")
}

#[test]
fn a_c_program_calls_the_six_functions() {
    if Command::new("cc").arg("--version").output().is_err() {
        println!("SKIPPED a_c_program_calls_the_six_functions: no C compiler (cc)");
        return;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tdx_call_program");
    let compiled = Command::new("cc")
        .args([
            "-std=c11",
            "-Wall",
            "-Werror",
            "-Wno-unused-variable",
            "-O2",
            "-I",
        ])
        .arg(here.join("include"))
        .arg(here.join("tests/program.c"))
        .arg(library())
        .arg("-o")
        .arg(&program)
        .output()
        .expect("cc runs");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let run = Command::new(&program).output().expect("the program runs");
    assert_eq!(
        String::from_utf8_lossy(&run.stdout),
        "ok\n",
        "{:?}",
        run.status
    );
    assert!(run.status.success());
}
