//! A disk that firmware boots: shim, GRUB, a kernel and its initramfs on an EFI system partition.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::sha256;
use super::kernel_module::list;
use crate::disk_image;

/// What Debian's signed GRUB reads: its prefix is EFI/debian.
const MENU: &str = "\
# Nothing to wait for and no menu to draw.
set timeout=0
set timeout_style=hidden
menuentry Linux {
    echo \"GRUB loads the kernel\"
    linux /vmlinuz console=ttyS0
    initrd /initrd.cpio
}
";

/// Builds `disk-KERNEL.img` in the artifacts' folder; gives a line about it.
pub fn build(dir: &Path, kernel: &str, initramfs: &Path) -> Result<String, String> {
    let loader = dir.join("boot-loader");
    let mut files = Vec::new();
    list(&loader, &mut files)?;
    let named = |name: &str| -> Result<Vec<u8>, String> {
        let path = files.iter().find(|path| path.ends_with(name));
        read(path.ok_or_else(|| format!("{}: no {name}", loader.display()))?)
    };
    let content = [
        // What firmware starts from a disk that it does not know; shim then starts grubx64.efi beside it.
        ("EFI/BOOT/BOOTX64.EFI", named("shimx64.efi.signed")?),
        ("EFI/BOOT/grubx64.efi", named("grubx64.efi.signed")?),
        ("EFI/debian/grub.cfg", MENU.as_bytes().to_vec()),
        ("vmlinuz", read(&dir.join(kernel).join("vmlinuz"))?),
        ("initrd.cpio", read(initramfs)?),
    ];
    let content = content.map(|(name, bytes)| (name.to_owned(), bytes));
    let image = disk_image::image(&content)?;
    let path: PathBuf = dir.join(format!("disk-{kernel}.img"));
    fs::write(&path, &image).map_err(|e| format!("{}: {e}", path.display()))?;
    let (shown, size, hash) = (path.display(), image.len(), sha256(&image));
    Ok(format!("{shown}: {size} bytes, SHA-256 {hash}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}
