//! `guests`: obtains the guest artifacts that tests and examples boot, by Debian package name.
//!
//! Nothing is installed and no root is needed: apt works on a root of its own below `target/guests`, with the
//! mirror of the machine's own configuration, and checks signatures as always. Versions are resolved through
//! the metapackages, since a superseded one leaves the mirror.

mod apt;
mod boot_disk;
mod initramfs;
mod kernel_module;
mod tool;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use apt::{Apt, Package};

/// Something that can be obtained: a name and the packages it comes from.
struct Artifact {
    name: &'static str,
    /// The suite that the packages come from.
    suite: &'static str,
    /// Packages, or metapackages to be followed until a package holds files.
    packages: &'static [&'static str],
    /// Dependencies to follow: those whose name begins like this.
    follow: &'static [&'static str],
    what: &'static str,
}

const ARTIFACTS: &[Artifact] = &[
    Artifact {
        name: "busybox",
        suite: "bookworm",
        packages: &["busybox-static"],
        follow: &[],
        what: "the user space of the initramfs",
    },
    Artifact {
        name: "linux-6.12",
        suite: "trixie",
        packages: &["linux-image-cloud-amd64"],
        follow: &["linux-image-"],
        what: "Debian 13's cloud kernel",
    },
    Artifact {
        name: "linux-7",
        suite: "trixie-backports",
        packages: &["linux-image-cloud-amd64"],
        follow: &["linux-image-", "linux-binary-", "linux-modules-"],
        what: "the newest cloud kernel in Debian 13's backports",
    },
    Artifact {
        name: "linux-6.1",
        suite: "bookworm",
        packages: &["linux-image-cloud-amd64"],
        follow: &["linux-image-"],
        what: "Debian 12's cloud kernel, which knows no TDX",
    },
    Artifact {
        name: "ovmf-bookworm",
        suite: "bookworm",
        packages: &["ovmf"],
        follow: &[],
        what: "OVMF 2022.11",
    },
    Artifact {
        name: "ovmf-trixie",
        suite: "trixie",
        packages: &["ovmf"],
        follow: &[],
        what: "OVMF 2025.02",
    },
    Artifact {
        name: "ovmf-inteltdx",
        suite: "sid",
        packages: &["ovmf-inteltdx"],
        follow: &[],
        what: "OVMF for TDX with Secure Boot",
    },
    Artifact {
        name: "boot-loader",
        suite: "trixie",
        packages: &["shim-signed", "grub-efi-amd64-signed"],
        follow: &[],
        what: "shim and GRUB as Debian signed them for Secure Boot",
    },
];

/// The kernels an initramfs is built for; each needs its own modules.
const KERNELS: &[&str] = &["linux-6.12", "linux-7"];

pub const USAGE: &str = "\
guests [--dir DIR] [NAME…]
      obtains guest artifacts into DIR (target/guests): kernels, OVMF, busybox, GDB, and builds an initramfs for
      each kernel, and a disk image that boots it through shim and GRUB. NAME: busybox linux-6.12 linux-7
      linux-6.1 ovmf-bookworm ovmf-trixie ovmf-inteltdx boot-loader gdb, and qemu, which comes only when named;
      gdb/run/gdb and qemu/run/qemu-system-x86_64 start them";

pub fn run(arguments: &[String]) -> ExitCode {
    match obtain(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("guests: {why}");
            ExitCode::from(1)
        }
    }
}

fn obtain(arguments: &[String]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut dir = root.join("target/guests");
    let mut wanted: Vec<&Artifact> = Vec::new();
    let mut tools: Vec<&tool::Tool> = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--dir" {
            dir = PathBuf::from(words.next().ok_or("--dir takes a folder")?);
            continue;
        }
        if let Some(tool) = tool::TOOLS.iter().find(|t| t.name == word) {
            tools.push(tool);
            continue;
        }
        let artifact = ARTIFACTS.iter().find(|a| a.name == word);
        wanted
            .push(artifact.ok_or_else(|| format!("no artifact is named {word}\nusage: {USAGE}"))?);
    }
    if wanted.is_empty() && tools.is_empty() {
        wanted = ARTIFACTS.iter().collect();
        tools = tool::TOOLS.iter().filter(|t| t.by_default).collect();
    }
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let missing: Vec<&Artifact> = wanted
        .into_iter()
        .filter(|a| !dir.join(a.name).join("PACKAGES").exists())
        .collect();
    tools.retain(|t| !dir.join(t.name).join("PACKAGES").exists());
    if !missing.is_empty() || !tools.is_empty() {
        let apt = Apt::in_root(&dir.join("apt"))?;
        for artifact in missing {
            fetch(&apt, artifact, &dir)?;
        }
        for tool in tools {
            tool::fetch(&apt, tool, &dir)?;
        }
    }
    for entry in ARTIFACTS
        .iter()
        .filter(|a| dir.join(a.name).join("PACKAGES").exists())
    {
        print!(
            "{}: {}\n{}",
            entry.name,
            entry.what,
            packages_of(&dir, entry.name)?
        );
    }
    for tool in tool::TOOLS
        .iter()
        .filter(|t| dir.join(t.name).join("PACKAGES").exists())
    {
        let packages = packages_of(&dir, tool.name)?;
        let count = packages.lines().count();
        print!("{}: {}, {count} packages\n{packages}", tool.name, tool.what);
    }
    for kernel in KERNELS
        .iter()
        .filter(|k| dir.join(k).join("PACKAGES").exists())
    {
        if dir.join("busybox/PACKAGES").exists() {
            let built = initramfs::build(root, &dir, kernel)?;
            println!(
                "{}: {} bytes, SHA-256 {}",
                built.path.display(),
                built.size,
                built.sha256
            );
            if dir.join("boot-loader/PACKAGES").exists() {
                println!("{}", boot_disk::build(&dir, kernel, &built.path)?);
            }
        }
    }
    Ok(())
}

fn packages_of(dir: &Path, name: &str) -> Result<String, String> {
    let path = dir.join(name).join("PACKAGES");
    fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Downloads and unpacks one artifact; its `PACKAGES` file is written last and marks it whole.
fn fetch(apt: &Apt, artifact: &Artifact, dir: &Path) -> Result<(), String> {
    let to = dir.join(artifact.name);
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).map_err(|e| format!("{}: {e}", to.display()))?;
    let mut open: Vec<String> = artifact.packages.iter().map(|p| p.to_string()).collect();
    let mut seen = Vec::new();
    let mut lines = String::new();
    while let Some(name) = open.pop() {
        if seen.contains(&name) {
            continue;
        }
        let package: Package = apt.show(&name, artifact.suite)?;
        open.extend(
            package
                .depends
                .iter()
                .filter(|d| artifact.follow.iter().any(|begin| d.starts_with(begin)))
                .cloned(),
        );
        eprintln!(
            "guests: {} {} from {}",
            package.name, package.version, artifact.suite
        );
        let deb = apt.download(&name, artifact.suite)?;
        lines += &format!(
            "{} {} SHA-256 {}\n",
            package.name, package.version, deb.sha256
        );
        apt.unpack(&deb.path, &to)?;
        seen.push(name);
    }
    name_main_file(&to)?;
    let path = to.join("PACKAGES");
    fs::write(&path, lines).map_err(|e| format!("{}: {e}", path.display()))
}

/// Gives the file that a test wants a name without the version: `vmlinuz` or `OVMF.fd` in the artifact's folder.
fn name_main_file(artifact: &Path) -> Result<(), String> {
    let mut files = Vec::new();
    kernel_module::list(artifact, &mut files)?;
    for (begin, name) in [
        ("vmlinuz", "vmlinuz"),
        ("OVMF.fd", "OVMF.fd"),
        ("OVMF.inteltdx", "OVMF.fd"),
    ] {
        let named = |p: &&PathBuf| {
            p.is_file()
                && p.file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|n| n.starts_with(begin))
        };
        if let Some(file) = files.iter().find(named) {
            let to = artifact.join(name);
            fs::copy(file, &to).map_err(|e| format!("{}: {e}", to.display()))?;
            return Ok(());
        }
    }
    Ok(())
}
