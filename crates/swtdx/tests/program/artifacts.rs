//! What `cargo xtask guests` made.

use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    std::env::var_os("SWTDX_GUESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"),
        PathBuf::from,
    )
}

/// The file of this name, or nothing and a line that says so.
pub fn guest(name: &str) -> Option<PathBuf> {
    let file = folder().join(name);
    if file.is_file() {
        return Some(file);
    }
    println!(
        "SKIPPED linux: {} is not there; run `cargo xtask guests`, or let SWTDX_GUESTS name the folder",
        file.display()
    );
    None
}
