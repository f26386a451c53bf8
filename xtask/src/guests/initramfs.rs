//! A reproducible initramfs: busybox, the TDX guest modules, a TDREPORT reader and an init script, as a
//! "newc" cpio archive whose bytes depend on nothing but its contents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::sha256;
use super::kernel_module;

pub struct Built {
    pub path: PathBuf,
    pub size: usize,
    pub sha256: String,
}

/// The device numbers of what is no device.
const NO_DEVICE: (u32, u32) = (0, 0);

const INIT: &str = include_str!("init.sh");

/// Modules that the guest's user space needs for /dev/tdx_guest, virtio-blk and virtio-rng.
const MODULES: &[&str] = &["tdx-guest", "virtio_blk", "virtio-rng"];

/// Builds `initramfs-KERNEL.cpio` beside the kernel's folder.
pub fn build(root: &Path, dir: &Path, kernel: &str) -> Result<Built, String> {
    let kernel_dir = dir.join(kernel);
    let modules = kernel_module::with_dependencies(&modules_dir(&kernel_dir)?, MODULES)?;
    if !modules.iter().any(|m| m.name == "tdx_guest") {
        return Err(format!(
            "{}: the package has no tdx-guest module",
            kernel_dir.display()
        ));
    }
    let busybox_path = ["bin/busybox", "usr/bin/busybox"]
        .map(|p| dir.join("busybox").join(p))
        .into_iter()
        .find(|p| p.exists())
        .ok_or("the busybox package holds no busybox")?;
    let busybox =
        fs::read(&busybox_path).map_err(|e| format!("{}: {e}", busybox_path.display()))?;

    let mut archive = Archive::default();
    for folder in ["bin", "dev", "etc", "mod", "proc", "sys", "tmp"] {
        archive.add(folder, 0o040755, NO_DEVICE, &[]);
    }
    // The kernel opens /dev/console for init before anything mounts devtmpfs.
    archive.add("dev/console", 0o020600, (5, 1), &[]);
    archive.add("dev/null", 0o020666, (1, 3), &[]);
    archive.add("bin/busybox", 0o100755, NO_DEVICE, &busybox);
    archive.add("bin/sh", 0o120777, NO_DEVICE, b"busybox");
    archive.add("bin/tdreport", 0o100755, NO_DEVICE, &tdreport(root, dir)?);
    archive.add("init", 0o100755, NO_DEVICE, INIT.as_bytes());
    let mut order = String::new();
    for module in &modules {
        archive.add(
            &format!("mod/{}.ko", module.name),
            0o100644,
            NO_DEVICE,
            &module.bytes,
        );
        order += &format!("{}\n", module.name);
    }
    archive.add("mod/order", 0o100644, NO_DEVICE, order.as_bytes());
    let bytes = archive.finish();

    let path = dir.join(format!("initramfs-{kernel}.cpio"));
    fs::write(&path, &bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Built {
        path,
        size: bytes.len(),
        sha256: sha256(&bytes),
    })
}

/// `usr/lib/modules/RELEASE` or `lib/modules/RELEASE` of an unpacked kernel package.
fn modules_dir(kernel_dir: &Path) -> Result<PathBuf, String> {
    for place in ["usr/lib/modules", "lib/modules"] {
        let releases = fs::read_dir(kernel_dir.join(place))
            .into_iter()
            .flatten()
            .flatten();
        if let Some(release) = releases
            .map(|e| e.path())
            .find(|p| p.join("kernel").is_dir())
        {
            return Ok(release);
        }
    }
    Err(format!(
        "{}: the package holds no kernel modules",
        kernel_dir.display()
    ))
}

/// Builds the guest program that prints a TDREPORT: freestanding, so that no target must be installed.
fn tdreport(root: &Path, dir: &Path) -> Result<Vec<u8>, String> {
    let source = root.join("guests/tdreport/main.rs");
    let out = dir.join("tdreport");
    let status = Command::new("rustc")
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "-Copt-level=s",
            "-Cpanic=abort",
            "-Cstrip=symbols",
        ])
        .args([
            "-Crelocation-model=static",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
        ])
        .args([
            "-Clink-arg=-static",
            "-Clink-arg=-Wl,--build-id=none",
            "-Clink-arg=-no-pie",
        ])
        .arg("-o")
        .arg(&out)
        .arg(&source)
        .status()
        .map_err(|e| format!("rustc: {e}"))?;
    if !status.success() {
        return Err(format!("rustc could not build {}", source.display()));
    }
    fs::read(&out).map_err(|e| format!("{}: {e}", out.display()))
}

/// A "newc" cpio archive (kernel documentation, "initramfs buffer format"): times and owners are 0, inodes
/// count up.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        let (major, minor) = device;
        self.inode += 1;
        let links = if mode & 0o170000 == 0o040000 { 2 } else { 1 };
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            data.len() as u32,
            0, // device major
            0, // device minor
            major,
            minor,
            name.len() as u32 + 1,
            0, // check
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, NO_DEVICE, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_aligned_members_and_a_trailer() {
        let mut archive = Archive::default();
        archive.add("a", 0o100644, NO_DEVICE, b"xyz");
        archive.add("dev/console", 0o020600, (5, 1), &[]);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(&bytes[..6], b"070701");
        // 110 bytes of header, "a\0", padded to 112; three bytes of data, padded to 116.
        assert_eq!(&bytes[112..115], b"xyz");
        assert_eq!(&bytes[116..122], b"070701");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("TRAILER!!!"));
    }
}
