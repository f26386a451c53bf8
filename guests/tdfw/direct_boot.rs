//! What the VMM says of the kernel, in a GUID extension of the TD HOB.

use crate::rt::hob::Hobs;

/// 5d4e1b36-84f7-4b6f-9a0d-5c2f6a7e1f21, as its bytes lie in memory.
const GUID: [u8; 16] = [
    0x36, 0x1B, 0x4E, 0x5D, 0xF7, 0x84, 0x6F, 0x4B, 0x9A, 0x0D, 0x5C, 0x2F, 0x6A, 0x7E, 0x1F, 0x21,
];

/// Addresses must lie below this, where the identity map ends.
const MAPPED: u64 = 1 << 32;

/// A run of guest memory.
#[derive(Clone, Copy)]
pub struct Range {
    pub start: u64,
    pub length: u64,
}

impl Range {
    pub fn end(self) -> u64 {
        self.start + self.length
    }

    fn bytes(self) -> &'static [u8] {
        // SAFETY: `find` has checked that the range is mapped; it is private memory that the VMM filled before
        // the TD was built, and nothing writes it before the kernel runs.
        unsafe { core::slice::from_raw_parts(self.start as *const u8, self.length as usize) }
    }
}

/// The extension's data: a version (1), then start and length of each part, then the RSDP's address.
pub struct DirectBoot {
    kernel: Range,
    initrd: Range,
    command_line: Range,
    pub acpi: Range,
    pub log: Range,
    pub rsdp: u64,
}

impl DirectBoot {
    pub fn find(hobs: &Hobs<'_>) -> Result<DirectBoot, &'static str> {
        let data = hobs.extension(&GUID).ok_or("the TD HOB names no kernel")?;
        let word = |i: usize| -> Result<u64, &'static str> {
            let bytes = data
                .get(8 * i..8 * i + 8)
                .ok_or("the direct-boot HOB is cut off")?;
            Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
        };
        if word(0)? != 1 {
            return Err("the direct-boot HOB has an unknown version");
        }
        let range = |i: usize| -> Result<Range, &'static str> {
            let range = Range {
                start: word(i)?,
                length: word(i + 1)?,
            };
            let end = range.start.checked_add(range.length);
            if range.length > 0 && (range.start == 0 || end.is_none_or(|end| end > MAPPED)) {
                return Err("a direct-boot range lies above 4 GiB or at 0");
            }
            Ok(range)
        };
        Ok(DirectBoot {
            kernel: range(1)?,
            initrd: range(3)?,
            command_line: range(5)?,
            acpi: range(7)?,
            log: range(9)?,
            rsdp: word(11)?,
        })
    }

    /// The whole bzImage file.
    pub fn kernel(&self) -> &'static [u8] {
        self.kernel.bytes()
    }
    pub fn kernel_start(&self) -> u64 {
        self.kernel.start
    }
    /// Empty when there is none.
    pub fn initrd(&self) -> &'static [u8] {
        self.initrd.bytes()
    }
    pub fn initrd_range(&self) -> Range {
        self.initrd
    }
    /// With its final NUL.
    pub fn command_line(&self) -> &'static [u8] {
        self.command_line.bytes()
    }
    pub fn command_line_start(&self) -> u64 {
        self.command_line.start
    }
    pub fn acpi_tables(&self) -> &'static [u8] {
        self.acpi.bytes()
    }
}
