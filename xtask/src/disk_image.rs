//! `disk`: a disk image with a GUID partition table and one EFI system partition, which holds the given files.
//! Its bytes depend on nothing but these.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::ExitCode;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;
use uuid::Uuid;

pub const USAGE: &str = "\
disk IMAGE NAME=FILE…
      makes a disk image with an EFI system partition that holds each FILE as NAME, such as
      EFI/BOOT/BOOTX64.EFI=grubx64.efi";

const SECTOR: usize = 512;
const MIB: usize = 1 << 20;
/// Where the partition begins, in sectors, and what is kept free behind it for the backup of the table.
const FIRST: u64 = 2048;
const TAIL: usize = MIB;
/// A FAT file system that small has clusters of one sector; firmware wants no smaller one.
const SMALLEST: usize = 4 * MIB;
/// The same GUIDs in every image, so that the same files make the same image.
const DISK: Uuid = Uuid::from_u128(0x7377_7464_7800_4000_8000_0000_0000_0001);
const PARTITION: Uuid = Uuid::from_u128(0x7377_7464_7800_4000_8000_0000_0000_0002);

pub fn run(arguments: &[String]) -> ExitCode {
    match make(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("disk: {why}");
            ExitCode::from(1)
        }
    }
}

fn make(arguments: &[String]) -> Result<(), String> {
    let [image, files @ ..] = arguments else {
        return Err(format!("usage: {USAGE}"));
    };
    let mut contents = Vec::new();
    for file in files {
        let (name, path) = file
            .split_once('=')
            .ok_or_else(|| format!("{file}: a file is given as NAME=FILE"))?;
        let bytes = fs::read(path).map_err(|e| format!("{path}: {e}"))?;
        contents.push((name.to_owned(), bytes));
    }
    write(Path::new(image), &contents)
}

/// Builds the image and writes it to a file.
pub fn write(path: &Path, files: &[(String, Vec<u8>)]) -> Result<(), String> {
    let image = image(files)?;
    fs::write(path, image).map_err(|e| format!("{}: {e}", path.display()))
}

/// The image's bytes. Folders in names are separated by `/`.
pub fn image(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, String> {
    // Room for the files, their clusters' unused ends and the allocation tables.
    let content: usize = files.iter().map(|(_, bytes)| bytes.len() + 4096).sum();
    let size = (content + content / 32 + MIB).next_multiple_of(MIB);
    let system = system_partition(size.max(SMALLEST), files).map_err(|e| e.to_string())?;
    let start = FIRST as usize * SECTOR;
    let mut disk = vec![0; start + system.len() + TAIL];
    disk[start..start + system.len()].copy_from_slice(&system);
    with_table(disk, (system.len() / SECTOR) as u64)
}

fn system_partition(size: usize, files: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Cursor::new(vec![0; size]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"SWTDX      ");
    fatfs::format_volume(&mut bytes, options)?;
    let volume = fatfs::FileSystem::new(&mut bytes, fatfs::FsOptions::new())?;
    for (name, content) in files {
        let folders = name.match_indices('/').map(|(at, _)| &name[..at]);
        for folder in folders {
            volume.root_dir().create_dir(folder)?;
        }
        volume.root_dir().create_file(name)?.write_all(content)?;
    }
    volume.unmount()?;
    Ok(bytes.into_inner())
}

fn with_table(disk: Vec<u8>, sectors: u64) -> Result<Vec<u8>, String> {
    let whole = u32::try_from(disk.len() / SECTOR - 1).unwrap_or(u32::MAX);
    let mut device = Cursor::new(disk);
    ProtectiveMBR::with_lb_size(whole)
        .overwrite_lba0(&mut device)
        .map_err(|e| e.to_string())?;
    let failed = |e: gpt::GptError| e.to_string();
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(device, Some(DISK))
        .map_err(failed)?;
    let kind = partition_types::EFI;
    let added = table.add_partition_at("EFI", 1, FIRST, sectors, kind, 0);
    added.map_err(failed)?;
    let mut partitions = table.partitions().clone();
    for partition in partitions.values_mut().filter(|p| p.is_used()) {
        partition.part_guid = PARTITION;
    }
    table.update_partitions(partitions).map_err(failed)?;
    Ok(table.write().map_err(failed)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_image_reads_back_and_is_the_same_every_time() {
        let files = [
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), vec![0x5A; 3 * MIB + 1]),
            ("EFI/debian/grub.cfg".to_owned(), b"boot\n".to_vec()),
            ("initramfs of a kernel.cpio".to_owned(), vec![1; 70_000]),
        ];
        let first = image(&files).expect("an image");
        assert_eq!(first, image(&files).expect("an image"));
        assert_eq!(first.len() % MIB, 0);

        let table = gpt::GptConfig::new()
            .open_from_device(Cursor::new(first))
            .expect("a table");
        let partitions: Vec<_> = table
            .partitions()
            .values()
            .filter(|p| p.is_used())
            .collect();
        assert_eq!(partitions.len(), 1);
        assert_eq!(partitions[0].part_type_guid, partition_types::EFI);
        assert!(table.backup_header().is_ok());
        let start = partitions[0].first_lba as usize * SECTOR;
        let end = (partitions[0].last_lba as usize + 1) * SECTOR;
        let volume = table.take_device().into_inner()[start..end].to_vec();
        let volume = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new());
        let volume = volume.expect("a FAT volume");
        for (name, content) in &files {
            let mut read = Vec::new();
            let file = volume.root_dir().open_file(name);
            file.expect("a file").read_to_end(&mut read).expect("bytes");
            assert!(read == *content, "{name}");
        }
    }
}
