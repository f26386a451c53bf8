//! Programs that tests and benchmarks run on the host, with all their libraries: nothing of the machine's own is used,
//! and nothing is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::apt::Apt;

pub struct Tool {
    pub name: &'static str,
    suite: &'static str,
    package: &'static str,
    /// The program below its root, and the name of what starts it.
    program: &'static str,
    starter: &'static str,
    /// Shell text before the program starts, and its first arguments; `$root` is the folder of the artifact.
    environment: &'static str,
    arguments: &'static str,
    pub by_default: bool,
    pub what: &'static str,
}

pub const TOOLS: &[Tool] = &[
    Tool {
        name: "gdb",
        suite: "trixie",
        package: "gdb",
        program: "usr/bin/gdb",
        starter: "gdb",
        environment: "export PYTHONHOME=\"$root/usr\"",
        arguments: "--data-directory=\"$root/usr/share/gdb\"",
        by_default: true,
        what: "GDB",
    },
    Tool {
        name: "qemu",
        suite: "trixie",
        package: "qemu-system-x86",
        program: "usr/bin/qemu-system-x86_64",
        starter: "qemu-system-x86_64",
        environment: "export QEMU_MODULE_DIR=\"$root/usr/lib/x86_64-linux-gnu/qemu\"",
        arguments: "-L \"$root/usr/share/qemu\" -L \"$root/usr/share/seabios\"",
        by_default: false,
        what: "QEMU, which bench-boot compares with",
    },
];

/// Downloads and unpacks a tool with what it depends on; its `PACKAGES` file is written last and marks it whole.
pub fn fetch(apt: &Apt, tool: &Tool, dir: &Path) -> Result<(), String> {
    let to = dir.join(tool.name);
    let failed = |e: std::io::Error| format!("{}: {e}", to.display());
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(to.join("run")).map_err(failed)?;
    let mut lines = String::new();
    let debs = apt.download_whole(tool.package, tool.suite)?;
    eprintln!(
        "guests: {}: {} packages from {}",
        tool.name,
        debs.len(),
        tool.suite
    );
    for deb in debs {
        apt.unpack(&deb.path, &to)?;
        let _ = fs::remove_file(&deb.path);
        let file = deb.path.file_stem().unwrap_or_default().to_string_lossy();
        let mut parts = file.splitn(3, '_');
        let (name, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let version = version.replace("%3a", ":");
        lines += &format!("{name} {version} SHA-256 {}\n", deb.sha256);
    }
    let folders = ["usr/lib64", "lib64", "usr/lib/x86_64-linux-gnu"];
    let loader = folders
        .map(|folder| format!("{folder}/ld-linux-x86-64.so.2"))
        .into_iter()
        .find(|loader| to.join(loader).exists())
        .ok_or(format!("{}: libc6 is not among its packages", tool.name))?;
    let starter = to.join("run").join(tool.starter);
    fs::write(&starter, script(tool, &loader)).map_err(failed)?;
    fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    fs::write(to.join("PACKAGES"), lines).map_err(failed)
}

/// Starts the program with the loader and the libraries beside it.
fn script(tool: &Tool, loader: &str) -> String {
    let libraries = "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu";
    let Tool {
        program,
        environment,
        arguments,
        ..
    } = tool;
    let lines = [
        "#!/bin/sh".to_owned(),
        "root=$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")".to_owned(),
        (*environment).to_owned(),
        format!("set -- {arguments} \"$@\""),
        format!(
            "exec \"$root/{loader}\" --library-path \"{libraries}\" \"$root/{program}\" \"$@\""
        ),
    ];
    lines.join("\n") + "\n"
}
