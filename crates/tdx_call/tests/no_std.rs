//! Layers 0 and 1 need no standard library and no allocator: they link into a program that has neither
//! (`no_std/program.rs`), built here as a package of its own with this workspace's versions.
#![forbid(unsafe_code)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::fs;
use std::path::Path;
use std::process::Command;

/// The crates of the two layers that promise it.
const CRATES: [&str; 5] = ["x86_arch", "tdx_abi", "coco_regs", "tdx_call", "tdvf"];

#[test]
fn layers_0_and_1_link_and_run_without_std_and_allocator() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = here.parent().expect("crates");
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_std");
    fs::create_dir_all(&package).expect("a folder");
    let mut manifest = format!(
        "[package]\nname = \"program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [[bin]]\nname = \"program\"\npath = {:?}\n\
         [profile.dev]\npanic = \"abort\"\nopt-level = 1\ndebug = false\n\
         [workspace]\n[dependencies]\n",
        here.join("tests/no_std/program.rs")
    );
    for name in CRATES {
        manifest += &format!("{name} = {{ path = {:?} }}\n", crates.join(name));
    }
    fs::write(package.join("Cargo.toml"), manifest).expect("written");
    // The same versions as the workspace, and nothing to look up.
    fs::copy(crates.join("../Cargo.lock"), package.join("Cargo.lock")).expect("copied");

    let flags = [
        "-Crelocation-model=static",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
    ];
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(package.join("target"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .output()
        .expect("cargo runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let program = package.join("target/debug/program");
    let status = Command::new(&program).status().expect("it starts");
    assert!(status.success(), "{status}");
    let symbols = fs::read(&program).expect("the program");
    assert!(
        !symbols.windows(12).any(|w| w == b"__rust_alloc"),
        "an allocator was linked in"
    );
}
