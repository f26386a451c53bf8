//! `swtdx exec`: programs in C and Rust whose instructions are served.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "../../tdx_call_c/tests/library/mod.rs"]
mod library;
mod program;

use std::path::{Path, PathBuf};
use std::process::Command;

use library::library;
use program::swtdx;

/// What the program printed and how it ended; `None` where nobody may trace.
fn exec(args: &[&str]) -> Option<String> {
    let said = swtdx(&[&["exec"], args].concat(), "");
    if said.contains("ptrace is forbidden here") && !args.contains(&"exec") {
        println!("SKIPPED exec: ptrace is forbidden here");
        return None;
    }
    Some(said)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The page on the command shows this output.
fn is_documented(said: &str) {
    let (_, rest) = said.split_once("--- output\n").expect("output");
    let (output, _) = rest.split_once("--- errors\n").expect("errors");
    let page = std::fs::read_to_string(root().join("docs/commands/exec.md")).expect("the page");
    assert!(
        page.contains(output),
        "docs/commands/exec.md does not show:\n{output}"
    );
}

/// Compiles a C program; `None` without a C compiler.
fn compile(name: &str, options: &[&str], files: &[&Path]) -> Option<String> {
    if Command::new("cc").arg("--version").output().is_err() {
        println!("SKIPPED {name}: no C compiler (cc)");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let compiled = Command::new("cc")
        .args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O2",
            "-pthread",
            "-mno-red-zone",
        ])
        .args(options)
        .arg("-I")
        .arg(root().join("crates/tdx_call_c/include"))
        .args(files)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("cc runs");
    let why = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{why}");
    Some(program.to_str().expect("UTF-8").to_owned())
}

#[test]
fn a_c_program_brings_a_module_up_and_runs_a_td_through_seamcall() {
    let example = root().join("crates/tdx_call_c/examples/bring_up.c");
    let Some(program) = compile(
        "bring_up",
        &[],
        &[
            &example,
            &library(&root().join("crates/tdx_call_c/Cargo.toml")),
        ],
    ) else {
        return;
    };
    let Some(said) = exec(&["--", &program]) else {
        return;
    };
    is_documented(&said);
    for engine in ["interpreter", "lockstep"] {
        let same = exec(&["--engine", engine, "--", &program]);
        assert_eq!(same.as_ref(), Some(&said), "{engine}");
    }
    insta::assert_snapshot!(said);
    let alone = Command::new(&program).output().expect("it starts");
    assert_eq!(alone.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&alone.stderr),
        "bring_up: run me under swtdx exec\n"
    );
}

#[test]
fn the_crate_tdx_tdcall_talks_to_the_module() {
    let example = Path::new(env!("CARGO_BIN_EXE_swtdx"))
        .parent()
        .expect("a folder")
        .join("examples/tdcall");
    if let Some(said) = exec(&["--", example.to_str().expect("UTF-8")]) {
        is_documented(&said);
        insta::assert_snapshot!(said);
    }
}

#[test]
fn signals_threads_and_children_are_the_programs_own() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exec_programs/behaviour.c");
    let Some(dynamic) = compile("behaviour", &[], &[&source]) else {
        return;
    };
    let Some(said) = exec(&["--lps", "4", "--", &dynamic]) else {
        return;
    };
    insta::assert_snapshot!(said);
    if let Some(program) = compile("behaviour-static", &["-static"], &[&source]) {
        assert_eq!(exec(&["--lps", "4", "--", &program]), Some(said));
    }
}

#[test]
fn the_programs_end_is_the_end() {
    for (script, status) in [
        ("exit 7", "exit status 7\n"),
        ("kill -9 $$", "exit status 137\n"),
        ("sh -c 'sleep 0.1; exit 5' & wait $!", "exit status 5\n"),
    ] {
        let Some(said) = exec(&["--", "sh", "-c", script]) else {
            return;
        };
        assert!(said.starts_with(status), "{script}: {said}");
    }
    let echo = exec(&[
        "sh",
        "-c",
        "echo \"$SWTDX_LPS $SWTDX_MEMORY_SIZE $SWTDX_PRIVATE_KEYS\"; wc -c < $SWTDX_MEMORY",
    ]);
    assert_eq!(
        echo.as_deref(),
        Some("exit status 0\n--- output\n1 268435456 32-63\n268435456\n--- errors\n")
    );
}

#[test]
fn what_cannot_be_run_is_said_in_one_line() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exec-wrong");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str, mode: u32, bytes: &[u8]| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        path.to_str().expect("UTF-8").to_owned()
    };
    // An executable for AArch64, as far as the kernel looks.
    let mut foreign = [0; 128];
    foreign[..7].copy_from_slice(&[0x7F, b'E', b'L', b'F', 2, 1, 1]);
    (foreign[16], foreign[18], foreign[20]) = (2, 183, 1);
    let mut old = foreign;
    (old[4], old[18]) = (1, 3);
    let (foreign, old) = (file("foreign", 0o755, &foreign), file("old", 0o755, &old));
    let plain = file("plain", 0o644, b"#!/bin/sh\n");
    let lost = file("lost", 0o755, b"#!/no/such/interpreter\n");
    let own = env!("CARGO_BIN_EXE_swtdx");
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["--", "/no/such/program"],
            127,
            "/no/such/program: program not found",
        ),
        (
            &["--", "no-such-program"],
            127,
            "no-such-program: program not found",
        ),
        (&["--", &plain], 126, "not executable (permission denied)"),
        (
            &["--", &lost],
            126,
            "its interpreter or dynamic loader is missing",
        ),
        (&["--", &foreign], 126, "not a program for x86-64 Linux"),
        (&["--", &old], 126, "a 32-bit program"),
        (
            &["--", own, "exec", "--", "true"],
            125,
            "ptrace is forbidden here",
        ),
        (&["--lps", "0", "--", "true"], 1, "0 is not in 1..=64"),
        (&["--memory", "17M", "--", "true"], 1, "a multiple of 2M"),
        (&[], 1, "PROGRAM"),
    ];
    for (args, status, wanted) in cases {
        let Some(said) = exec(args) else { return };
        let head = format!("exit status {status}\n--- output\n--- errors\n");
        assert!(said.starts_with(&head), "{args:?}: {said}");
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
}
