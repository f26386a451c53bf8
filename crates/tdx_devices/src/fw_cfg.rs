//! fw_cfg: items of bytes that firmware selects by a key and reads one after the other through I/O ports
//! (QEMU: docs/specs/fw_cfg.rst).

use std::collections::BTreeMap;

/// 16 bits wide, write-only.
pub const SELECTOR: u16 = 0x510;
/// 8 bits wide.
pub const DATA: u16 = 0x511;

/// Keys that mean the same everywhere.
pub mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const FEATURES: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHICS: u16 = 0x04;
    pub const CPUS: u16 = 0x05;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_SIZE: u16 = 0x0B;
    pub const BOOT_MENU: u16 = 0x0E;
    pub const MAX_CPUS: u16 = 0x0F;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const COMMAND_LINE_SIZE: u16 = 0x14;
    pub const COMMAND_LINE_DATA: u16 = 0x15;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const DIRECTORY: u16 = 0x19;
    /// Keys of named files begin here.
    pub const FIRST_FILE: u16 = 0x20;
}

/// Longest name of a file, without the final zero.
pub const MAX_NAME: usize = 55;
/// Bit 0: the ports above. Bit 1: DMA.
const FEATURES: u32 = 1 | 1 << 1;

/// The device: its items, and how far the selected one was read.
#[derive(Clone, Default)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
    selected: u16,
    offset: usize,
}

impl std::fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FwCfg")
            .field("files", &self.files.keys())
            .field("selected", &self.selected)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl FwCfg {
    pub fn new() -> FwCfg {
        let mut device = FwCfg::default();
        device.item(key::SIGNATURE, b"QEMU".to_vec());
        device.item(key::FEATURES, FEATURES.to_le_bytes().to_vec());
        device.list_files();
        device
    }

    /// Sets an item that has a key of its own.
    pub fn item(&mut self, key: u16, bytes: Vec<u8>) {
        self.items.insert(key, bytes);
    }

    /// Sets a named file. A name longer than [`MAX_NAME`] bytes cannot be listed; the caller sees to that.
    pub fn file(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), bytes);
        self.list_files();
    }

    /// The directory: a count, then size, key and name of each file, numbers in big-endian order, names ascending.
    fn list_files(&mut self) {
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, bytes)) in (key::FIRST_FILE..).zip(&self.files) {
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; MAX_NAME + 1];
            let length = name.len().min(MAX_NAME);
            field[..length].copy_from_slice(&name.as_bytes()[..length]);
            directory.extend(field);
        }
        self.items.insert(key::DIRECTORY, directory);
    }

    fn bytes(&self, key: u16) -> &[u8] {
        let named = || {
            let index = key.checked_sub(key::FIRST_FILE)?;
            self.files.values().nth(index.into())
        };
        let item = self.items.get(&key).or_else(named);
        item.map_or(&[], Vec::as_slice)
    }

    /// A write to the selector.
    pub fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
    }

    /// A read of the data port: the item's next byte, zero behind its end.
    pub fn next_byte(&mut self) -> u8 {
        let byte = self.bytes(self.selected).get(self.offset).copied();
        self.offset = self.offset.saturating_add(1);
        byte.unwrap_or(0)
    }

    /// The next bytes, as that many reads of the data port give them.
    pub fn read(&mut self, to: &mut [u8]) {
        let bytes = self.bytes(self.selected);
        let rest = bytes.get(self.offset..).unwrap_or(&[]);
        let (there, behind) = to.split_at_mut(rest.len().min(to.len()));
        there.copy_from_slice(&rest[..there.len()]);
        behind.fill(0);
        let read = to.len();
        self.skip(read);
    }

    pub fn skip(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.select(key);
        (0..length).map(|_| device.next_byte()).collect()
    }

    #[test]
    fn items_are_read_byte_by_byte_and_end_in_zeros() {
        let mut device = FwCfg::new();
        assert_eq!(read(&mut device, key::SIGNATURE, 6), b"QEMU\0\0");
        assert_eq!(read(&mut device, key::FEATURES, 4), [3, 0, 0, 0]);
        assert_eq!(read(&mut device, 0x7777, 2), [0, 0]);
    }

    #[test]
    fn the_directory_leads_to_every_file() {
        let mut device = FwCfg::new();
        device.file("opt/b", vec![7, 8]);
        device.file("etc/a", vec![9]);
        let directory = read(&mut device, key::DIRECTORY, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        let expected: [(&[u8], &[u8]); 2] = [(b"etc/a\0", &[9]), (b"opt/b\0", &[7, 8])];
        for (entry, (name, bytes)) in directory[4..].chunks(64).zip(expected) {
            assert!(entry[8..].starts_with(name));
            assert_eq!(entry[..4], (bytes.len() as u32).to_be_bytes());
            let key = u16::from_be_bytes([entry[4], entry[5]]);
            assert_eq!(read(&mut device, key, bytes.len()), bytes);
        }
    }
}
