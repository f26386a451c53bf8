//! A C program calls the six functions through the static library, which is built here as the header says.
#![forbid(unsafe_code)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod library;

use std::path::Path;
use std::process::Command;

use library::library;

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
        .arg(library(&here.join("Cargo.toml")))
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
