//! `unsafe` stands only in the files listed here, and every crate forbids or denies it.

use std::fs;
use std::path::{Path, PathBuf};

/// The files that may hold unsafe code, each with the reason.
const ALLOWED: &[(&str, &str)] = &[
    (
        "crates/tdx_call/src/instruction/stub.rs",
        "machine code: the stubs of SEAMCALL and TDCALL",
    ),
    (
        "crates/tdx_call/src/instruction/entry.rs",
        "machine code: TD entry on the VMM's register array",
    ),
    (
        "crates/tdx_call/src/instruction/fixup.rs",
        "the exception table lies between two linker symbols",
    ),
    (
        "crates/tdx_call/src/instruction/evidence.rs",
        "machine code: a model of Linux's TD entry, and stand-ins",
    ),
    (
        "crates/tdx_call/benches/round_trip.rs",
        "calls the stand-ins",
    ),
    (
        "crates/tdx_call/tests/no_std/program.rs",
        "a program without a runtime: its entry point, exit and memory functions",
    ),
    ("crates/tdx_call_c/src/symbols.rs", "symbols for C"),
    (
        "crates/tdx_trap/src/frame.rs",
        "the signal frame is the kernel's, reached by pointers",
    ),
    (
        "crates/tdx_trap/src/handler.rs",
        "a signal handler, and handles for instructions that it serves",
    ),
    (
        "crates/tdx_trap/src/handler/tests.rs",
        "raises the very signals that the handler serves",
    ),
    (
        "crates/native_cpu/src/native.rs",
        "runs single instructions on the host's processor through signal contexts",
    ),
    (
        "crates/swtdx/src/exec/ptrace.rs",
        "ptrace, waitpid and process_vm_readv are raw system calls",
    ),
    ("guests/", "guest programs run on no operating system"),
    (
        "crates/x86_engine/src/translate/buffer.rs",
        "maps the buffer of translated code and writes to it",
    ),
    (
        "crates/x86_engine/src/translate/entry.rs",
        "calls translated code, which calls back",
    ),
    (
        "crates/tdx_machine/src/ram.rs",
        "RAM is anonymous memory of the host, shared by processors",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_path_buf()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                rust_files(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Whether a line of code (comments and strings left aside) uses the keyword.
fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe trait",
        "unsafe extern",
        "#[unsafe(",
    ]
    .iter()
    .any(|form| code.contains(form) && !code.contains(&format!("\"{form}")))
}

#[test]
fn unsafe_stands_only_in_the_listed_files() {
    let root = root();
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "guests"] {
        if root.join(folder).is_dir() {
            rust_files(&root.join(folder), &mut files);
        }
    }
    assert!(files.len() > 20, "only {} files were read", files.len());
    let this = Path::new("xtask/tests/unsafe_files.rs");
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&root).expect("below the root");
        if relative == this {
            continue;
        }
        let text = fs::read_to_string(file).expect("UTF-8 source");
        let Some(line) = text.lines().position(uses_unsafe) else {
            continue;
        };
        let listed = ALLOWED.iter().find(|(path, _)| relative.starts_with(path));
        match listed {
            Some((path, _)) => seen.push(*path),
            None => wrong.push(format!("{}:{}", relative.display(), line + 1)),
        }
    }
    for (path, reason) in ALLOWED {
        assert!(
            seen.contains(path),
            "{path} ({reason}) is listed and holds no unsafe"
        );
    }
    assert!(
        wrong.is_empty(),
        "unsafe outside the listed files:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_crate_forbids_or_denies_unsafe() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("crates")).expect("crates") {
        let folder = entry.expect("a readable entry").path();
        let top = ["src/lib.rs", "src/main.rs"].map(|f| folder.join(f));
        for file in top.iter().filter(|f| f.exists()) {
            let text = fs::read_to_string(file).expect("UTF-8 source");
            if !text.contains("#![forbid(unsafe_code)]") && !text.contains("#![deny(unsafe_code)]")
            {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "neither forbid nor deny unsafe_code in:\n{}",
        wrong.join("\n")
    );
}
