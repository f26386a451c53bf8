//! A C program calls the six functions through the static library.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The static library that was built beside this test.
fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let deps = exe.parent().expect("deps");
    std::fs::read_dir(deps)
        .expect("deps is readable")
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            name.starts_with("libtdx_call_c") && name.ends_with(".a")
        })
        // The newest: an old one may be left of another build.
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
        .unwrap_or_else(|| panic!("no libtdx_call_c*.a beside {}", exe.display()))
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
        .args(["-lpthread", "-ldl", "-lm", "-o"])
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
