//! Builds the freestanding guests with the host's own rustc and target: no other target need be installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GUESTS: &[&str] = &["embedded", "tdfw", "debuggee"];

fn main() {
    let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let guests = crate_dir.join("../../guests");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed={}", guests.display());
    for name in GUESTS {
        let elf = out.join(format!("{name}.elf"));
        build(&guests, name, &elf);
        let bytes = fs::read(&elf).unwrap_or_else(|e| panic!("{}: {e}", elf.display()));
        let image = flatten(&bytes).unwrap_or_else(|why| panic!("{}: {why}", elf.display()));
        fs::write(out.join(format!("{name}.tdvf")), image).expect("OUT_DIR is writable");
    }
}

fn build(guests: &Path, name: &str, elf: &Path) {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let script = guests.join("image.ld");
    let output = Command::new(rustc)
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--target=x86_64-unknown-linux-gnu",
        ])
        .args([
            "-Copt-level=2",
            "-Cpanic=abort",
            "-Crelocation-model=static",
            "-Cno-redzone=yes",
        ])
        .args([
            "-Cforce-unwind-tables=no",
            "-Cforce-frame-pointers=yes",
            "-Cdebuginfo=1",
        ])
        .args([
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
        ])
        // GNU ld, which comes with gcc: the script's location counter is relative inside a section.
        .args([
            "-Clink-arg=-fuse-ld=bfd",
            "-Clink-arg=-no-pie",
            "-Clink-arg=-Wl,--build-id=none",
            "-Clink-arg=-Wl,-z,norelro",
        ])
        .arg(format!("-Clink-arg=-Wl,-T,{}", script.display()))
        .arg(format!("--remap-path-prefix={}=guests", guests.display()))
        .args(["--crate-name", name, "-o"])
        .arg(elf)
        .arg(guests.join(name).join("main.rs"))
        .output()
        .expect("rustc runs");
    assert!(
        output.status.success(),
        "guests/{name}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in warnings.lines().filter(|l| !l.is_empty()) {
        println!("cargo::warning=guests/{name}: {line}");
    }
}

/// The loadable parts of an ELF file at their load addresses, as one run of bytes.
fn flatten(elf: &[u8]) -> Result<Vec<u8>, String> {
    let word = |at: usize, size: usize| -> Result<usize, String> {
        let bytes = elf.get(at..at + size).ok_or("the file is cut off")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    // ELF64: program headers at e_phoff, e_phentsize each, e_phnum of them.
    let (table, entry, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    let mut image = Vec::new();
    for header in (0..count).map(|i| table + i * entry) {
        let (kind, offset) = (word(header, 4)?, word(header + 8, 8)?);
        let (load, size) = (word(header + 24, 8)?, word(header + 32, 8)?);
        if kind != 1 || size == 0 {
            continue;
        }
        let part = elf
            .get(offset..offset + size)
            .ok_or("a segment lies outside the file")?;
        if image.len() < load + size {
            image.resize(load + size, 0);
        }
        image[load..load + size].copy_from_slice(part);
    }
    match image.len() % 4096 {
        0 if !image.is_empty() => Ok(image),
        _ => Err(format!("{} bytes are not whole pages", image.len())),
    }
}
