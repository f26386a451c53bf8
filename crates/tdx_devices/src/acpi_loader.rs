//! ACPI tables as firmware of QEMU machines takes them through fw_cfg: two files of tables that point into each other
//! by offsets, and a script of what to allocate, which pointers to add addresses to and which checksums to make
//! (QEMU: hw/acpi/bios-linker-loader.c describes the commands).

/// Files in fw_cfg.
pub const RSDP: &str = "etc/acpi/rsdp";
pub const TABLES: &str = "etc/acpi/tables";
pub const SCRIPT: &str = "etc/table-loader";

/// A command is as long as its longest form.
const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Anywhere below 4 GiB, or in the legacy BIOS area.
const ZONE_HIGH: u8 = 1;
const ZONE_LEGACY: u8 = 2;

/// Offsets in tables (ACPI 6.5: 5.2.5.3, 5.2.6, 5.2.9).
const RSDP_CHECKSUM: usize = 8;
const RSDP_XSDT: usize = 24;
const RSDP_EXTENDED_CHECKSUM: usize = 32;
const RSDP_FIRST_PART: usize = 20;
const RSDP_LENGTH: usize = 36;
const HEADER: usize = 36;
const CHECKSUM: usize = 9;
const FADT_X_DSDT: usize = 140;

/// The three files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    pub rsdp: Vec<u8>,
    pub tables: Vec<u8>,
    pub script: Vec<u8>,
}

/// Makes the files of tables that were laid out for address 0, with their RSDP first.
pub fn files(mut all: Vec<u8>) -> Files {
    let mut script = Script::default();
    script.allocate(RSDP, 16, ZONE_LEGACY);
    script.allocate(TABLES, 64, ZONE_HIGH);

    let xsdt = pointer(&all, RSDP_XSDT);
    let entries: Vec<usize> = (xsdt + HEADER..xsdt + length(&all, xsdt))
        .step_by(8)
        .collect();
    let mut found = Vec::new();
    for &entry in &entries {
        let table = pointer(&all, entry);
        if all[table..table + 4] == *b"FACP" {
            found.push(pointer(&all, table + FADT_X_DSDT));
            script.add_pointer(TABLES, TABLES, table + FADT_X_DSDT, 8);
        }
        found.push(table);
    }
    for &entry in &entries {
        script.add_pointer(TABLES, TABLES, entry, 8);
    }
    for table in found.into_iter().chain([xsdt]) {
        all[table + CHECKSUM] = 0;
        let length = length(&all, table);
        script.add_checksum(TABLES, table + CHECKSUM, table, length);
    }

    let mut rsdp = all[..RSDP_LENGTH].to_vec();
    script.add_pointer(RSDP, TABLES, RSDP_XSDT, 8);
    rsdp[RSDP_CHECKSUM] = 0;
    rsdp[RSDP_EXTENDED_CHECKSUM] = 0;
    script.add_checksum(RSDP, RSDP_CHECKSUM, 0, RSDP_FIRST_PART);
    script.add_checksum(RSDP, RSDP_EXTENDED_CHECKSUM, 0, RSDP_LENGTH);
    Files {
        rsdp,
        tables: all,
        script: script.0,
    }
}

fn pointer(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize
}

fn length(bytes: &[u8], table: usize) -> usize {
    u32::from_le_bytes(bytes[table + 4..table + 8].try_into().expect("four bytes")) as usize
}

#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, parts: &[&[u8]]) {
        let end = self.0.len() + COMMAND;
        self.0.extend(number.to_le_bytes());
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.0.resize(end, 0);
    }

    fn allocate(&mut self, file: &str, alignment: u32, zone: u8) {
        let parts: [&[u8]; 3] = [&name(file), &alignment.to_le_bytes(), &[zone]];
        self.command(ALLOCATE, &parts);
    }

    /// Adds the address of file `to` to the pointer of `size` bytes at `offset` in file `from`.
    fn add_pointer(&mut self, from: &str, to: &str, offset: usize, size: u8) {
        let offset = (offset as u32).to_le_bytes();
        self.command(ADD_POINTER, &[&name(from), &name(to), &offset, &[size]]);
    }

    fn add_checksum(&mut self, file: &str, result: usize, start: usize, length: usize) {
        let words = [result, start, length].map(|word| (word as u32).to_le_bytes());
        self.command(ADD_CHECKSUM, &[&name(file), &words.concat()]);
    }
}

fn name(file: &str) -> [u8; NAME] {
    let mut field = [0; NAME];
    field[..file.len()].copy_from_slice(file.as_bytes());
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::{self, Platform};

    /// Does what firmware does with the script, with the files at the given addresses.
    fn run(files: &Files, rsdp_at: u64, tables_at: u64) -> (Vec<u8>, Vec<u8>) {
        let (mut rsdp, mut tables) = (files.rsdp.clone(), files.tables.clone());
        let word = |command: &[u8], at: usize| {
            u32::from_le_bytes(command[at..at + 4].try_into().expect("four bytes")) as usize
        };
        for command in files.script.chunks(COMMAND) {
            let named = |at: usize, file: &str| command[at..at + NAME] == name(file);
            let (file, _) = match named(4, RSDP) {
                true => (&mut rsdp, rsdp_at),
                false => (&mut tables, tables_at),
            };
            match word(command, 0) as u32 {
                ALLOCATE => {}
                ADD_POINTER => {
                    let to = if named(60, RSDP) { rsdp_at } else { tables_at };
                    let at = word(command, 116);
                    assert_eq!(command[120], 8);
                    let value = pointer(file, at) as u64 + to;
                    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
                }
                ADD_CHECKSUM => {
                    let (result, start) = (word(command, 60), word(command, 64));
                    let range = start..start + word(command, 68);
                    let sum = file[range].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
                    file[result] = sum.wrapping_neg();
                }
                other => panic!("command {other}"),
            }
        }
        (rsdp, tables)
    }

    #[test]
    fn the_script_makes_the_tables_that_would_have_been_built_there() {
        const AT: u64 = 0x7F00_0000;
        let platform = Platform {
            vcpus: 3,
            firmware: None,
        };
        let (rsdp, tables) = run(&files(acpi::tables(0, platform)), 0xF_0000, AT);
        let built = acpi::tables(AT, platform);
        assert_eq!(rsdp, built[..RSDP_LENGTH]);
        assert_eq!(tables[RSDP_LENGTH..], built[RSDP_LENGTH..]);
    }
}
