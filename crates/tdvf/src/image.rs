//! TDVF metadata: where an image keeps it, the sections it lists, and all checks on them.

use core::fmt;

use crate::ImageError;

/// A firmware image whose metadata has been found and checked.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    source: MetadataSource,
    descriptor: usize,
    version: u32,
    sections: u32,
}

/// How the descriptor was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetadataSource {
    /// Through the entry e47a6535-984a-4798-865e-4685a7bf8ec2 of the GUIDed table at the image's end.
    GuidedTable,
    /// Through the 32-bit offset 32 bytes before the image's end.
    OffsetWord,
}

/// One part of guest memory that the VMM fills before the TD runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its place in the metadata.
    pub index: u32,
    pub kind: SectionType,
    pub attributes: SectionAttributes,
    /// Where its bytes are in the image.
    pub data_offset: u32,
    /// How many bytes of the image; the rest of the memory is zero.
    pub raw_data_size: u32,
    /// The guest physical address, a multiple of 4096.
    pub memory_address: u64,
    /// Bytes of guest memory, a multiple of 4096.
    pub memory_data_size: u64,
}

/// What a section is. Open: an image may hold types that this crate does not name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SectionType(pub u32);

impl SectionType {
    /// Boot firmware volume: the code.
    pub const BFV: SectionType = SectionType(0);
    /// Configuration firmware volume: the variables.
    pub const CFV: SectionType = SectionType(1);
    /// The hand-off blocks, which the VMM writes.
    pub const TD_HOB: SectionType = SectionType(2);
    /// Memory in use until the firmware has found the rest.
    pub const TEMP_MEM: SectionType = SectionType(3);
    /// Memory that belongs to the firmware for good.
    pub const PERM_MEM: SectionType = SectionType(4);
    /// A guest kernel or the like, which the VMM may supply.
    pub const PAYLOAD: SectionType = SectionType(5);
    /// Its parameters.
    pub const PAYLOAD_PARAM: SectionType = SectionType(6);
    /// Facts about the image itself.
    pub const TD_INFO: SectionType = SectionType(7);
    /// Parameters of the TD that the image wants.
    pub const TD_PARAMS: SectionType = SectionType(8);

    /// The design guide's name.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            SectionType::BFV => "BFV",
            SectionType::CFV => "CFV",
            SectionType::TD_HOB => "TD_HOB",
            SectionType::TEMP_MEM => "TempMem",
            SectionType::PERM_MEM => "PermMem",
            SectionType::PAYLOAD => "Payload",
            SectionType::PAYLOAD_PARAM => "PayloadParam",
            SectionType::TD_INFO => "TdInfo",
            SectionType::TD_PARAMS => "TdParams",
            _ => return None,
        })
    }
}

impl fmt::Display for SectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

impl fmt::Debug for SectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a section is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionAttributes(pub u32);

impl SectionAttributes {
    /// Bit 0: the contents are measured with TDH.MR.EXTEND, not only the address.
    pub const fn extended(self) -> bool {
        self.0 & 1 != 0
    }
    /// Bit 1: the pages come by TDH.MEM.PAGE.AUG, unmeasured, and the guest accepts them.
    pub const fn augmented(self) -> bool {
        self.0 & 2 != 0
    }
}

impl Section {
    /// One past its last guest physical address.
    pub const fn end(&self) -> u64 {
        self.memory_address + self.memory_data_size
    }
    /// 4 KiB pages of guest memory.
    pub const fn pages(&self) -> u64 {
        self.memory_data_size / 4096
    }
}

/// The GUIDed table's footer, 96b582de-1fb2-45f7-baea-a366c55a082d, as its bytes lie in the image.
const TABLE_FOOTER: [u8; 16] = [
    0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d,
];
/// The entry that holds the descriptor's distance from the image's end, e47a6535-984a-4798-865e-4685a7bf8ec2.
const TDVF_OFFSET: [u8; 16] = [
    0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2,
];
/// Bytes between the table and the image's end: the reset vector.
const AFTER_TABLE: usize = 32;
/// A length of 16 bits and a GUID end each entry.
const ENTRY_TAIL: usize = 18;
const DESCRIPTOR: usize = 16;
const SECTION: usize = 32;

impl<'a> Image<'a> {
    /// Sections of an image. Real ones have about seven; the limit keeps checking short whatever the bytes.
    pub const MAX_SECTIONS: u32 = 256;
    /// Guest memory of all sections together: 4 GiB, below which firmware lives.
    pub const MAX_MEMORY: u64 = 1 << 32;

    /// Finds and checks an image's metadata.
    pub fn parse(bytes: &'a [u8]) -> Result<Image<'a>, ImageError> {
        let (source, descriptor) = find_descriptor(bytes)?;
        let word = |at: usize| {
            u32_at(bytes, descriptor + at).ok_or(ImageError::BadSignature { offset: descriptor })
        };
        if bytes.get(descriptor..descriptor + 4) != Some(b"TDVF") {
            return Err(ImageError::BadSignature { offset: descriptor });
        }
        let (length, version, sections) = (word(4)?, word(8)?, word(12)?);
        if version != 1 {
            return Err(ImageError::UnknownVersion { version });
        }
        let needed = DESCRIPTOR as u64 + u64::from(sections) * SECTION as u64;
        let inside = descriptor as u64 + needed <= bytes.len() as u64;
        // Some images count the 16 bytes of the GUID before the descriptor in its length.
        if u64::from(length) < needed || !inside {
            return Err(ImageError::BadLength { length, sections });
        }
        if sections > Self::MAX_SECTIONS {
            return Err(ImageError::TooManySections { sections });
        }
        let image = Image {
            bytes,
            source,
            descriptor,
            version,
            sections,
        };
        image.check()?;
        Ok(image)
    }

    /// The whole file.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// How the descriptor was found.
    pub const fn source(&self) -> MetadataSource {
        self.source
    }
    /// Where the descriptor is in the image.
    pub const fn descriptor_offset(&self) -> usize {
        self.descriptor
    }
    /// The metadata's version.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The sections in the metadata's order, which is the order of loading.
    pub fn sections(&self) -> impl ExactSizeIterator<Item = Section> + Clone + use<'a> {
        let image = *self;
        (0..image.sections as usize).map(move |index| image.section(index))
    }

    /// The section of a type, if there is one.
    pub fn section_of(&self, kind: SectionType) -> Option<Section> {
        self.sections().find(|section| section.kind == kind)
    }

    /// The bytes of the image that a section holds.
    pub fn data(&self, section: &Section) -> &'a [u8] {
        let start = section.data_offset as usize;
        self.bytes
            .get(start..start + section.raw_data_size as usize)
            .unwrap_or(&[])
    }

    /// The section at a place of the metadata.
    pub fn get(&self, index: usize) -> Option<Section> {
        (index < self.sections as usize).then(|| self.section(index))
    }

    /// The section at `index`, which is below the count checked in [`Self::parse`].
    fn section(&self, index: usize) -> Section {
        let at = self.descriptor + DESCRIPTOR + index * SECTION;
        let word = |offset: usize| u32_at(self.bytes, at + offset).unwrap_or(0);
        let long = |offset: usize| u64::from(word(offset)) | u64::from(word(offset + 4)) << 32;
        Section {
            index: index as u32,
            kind: SectionType(word(24)),
            attributes: SectionAttributes(word(28)),
            data_offset: word(0),
            raw_data_size: word(4),
            memory_address: long(8),
            memory_data_size: long(16),
        }
    }

    fn check(&self) -> Result<(), ImageError> {
        let mut hob = false;
        let mut bfv = false;
        let mut total = 0;
        for section in self.sections() {
            let Section {
                index,
                kind,
                raw_data_size: raw,
                memory_data_size: memory,
                ..
            } = section;
            let end = section.data_offset as u64 + raw as u64;
            if end > self.bytes.len() as u64 {
                let (offset, size) = (section.data_offset, self.bytes.len());
                return Err(ImageError::DataOutside {
                    section: index,
                    offset,
                    bytes: raw,
                    size,
                });
            }
            let last = section.memory_address.checked_add(memory);
            let whole = section.memory_address.is_multiple_of(4096) && memory.is_multiple_of(4096);
            if !whole || last.is_none_or(|end| end > 1 << 52) {
                let address = section.memory_address;
                return Err(ImageError::BadMemory {
                    section: index,
                    address,
                    bytes: memory,
                });
            }
            // A TdInfo section describes the image and has no guest memory.
            let in_memory = kind != SectionType::TD_INFO || memory != 0;
            if in_memory && u64::from(raw) > memory {
                return Err(ImageError::DataTooLong {
                    section: index,
                    raw,
                    memory,
                });
            }
            match kind {
                SectionType::BFV | SectionType::CFV if raw == 0 => {
                    return Err(ImageError::MissingData {
                        section: index,
                        kind,
                    });
                }
                SectionType::TD_HOB | SectionType::TEMP_MEM | SectionType::PERM_MEM if raw != 0 => {
                    return Err(ImageError::UnexpectedData {
                        section: index,
                        kind,
                    });
                }
                SectionType::TD_HOB if core::mem::replace(&mut hob, true) => {
                    return Err(ImageError::TwoHobs { second: index });
                }
                _ => {}
            }
            total += memory;
            if total > Self::MAX_MEMORY {
                return Err(ImageError::TooLarge { bytes: total });
            }
            bfv |= kind == SectionType::BFV;
            if section.attributes.augmented() && (raw != 0 || section.attributes.extended()) {
                return Err(ImageError::BadAugmented { section: index });
            }
            let overlaps = |other: &Section| {
                section.memory_address < other.end() && other.memory_address < section.end()
            };
            if let Some(other) = self.sections().take(index as usize).find(overlaps) {
                return Err(ImageError::Overlap {
                    first: other.index,
                    second: index,
                });
            }
        }
        if bfv { Ok(()) } else { Err(ImageError::NoBfv) }
    }
}

/// Where the descriptor is: by the GUIDed table, else by the offset word.
fn find_descriptor(bytes: &[u8]) -> Result<(MetadataSource, usize), ImageError> {
    let size = bytes.len();
    let outside = |offset: u64| ImageError::DescriptorOutside { offset, size };
    if let Some(from_end) = guided_table_entry(bytes)? {
        let descriptor = size
            .checked_sub(from_end as usize)
            .ok_or(outside(u64::from(from_end)))?;
        return match descriptor + DESCRIPTOR <= size {
            true => Ok((MetadataSource::GuidedTable, descriptor)),
            false => Err(outside(descriptor as u64)),
        };
    }
    let word = size
        .checked_sub(AFTER_TABLE)
        .and_then(|at| u32_at(bytes, at));
    let by_word = word
        .map(|offset| offset as usize)
        .filter(|at| bytes.get(*at..at.saturating_add(4)) == Some(b"TDVF"));
    match by_word {
        Some(descriptor) => Ok((MetadataSource::OffsetWord, descriptor)),
        None => Err(ImageError::NoMetadata { size }),
    }
}

/// The descriptor's distance from the image's end, from the GUIDed table, which is read backwards.
fn guided_table_entry(bytes: &[u8]) -> Result<Option<u32>, ImageError> {
    let Some(mut end) = bytes.len().checked_sub(AFTER_TABLE) else {
        return Ok(None);
    };
    let Some((table, guid)) = entry_tail(bytes, end) else {
        return Ok(None);
    };
    if guid != TABLE_FOOTER {
        return Ok(None);
    }
    let broken = |offset: usize| ImageError::BrokenTable { offset };
    let start = end.checked_sub(table).ok_or(broken(end - ENTRY_TAIL))?;
    end -= ENTRY_TAIL;
    while end > start {
        let (length, guid) = entry_tail(bytes, end).ok_or(broken(end))?;
        if length < ENTRY_TAIL || length > end - start {
            return Err(broken(end - ENTRY_TAIL));
        }
        if guid == TDVF_OFFSET {
            return match length == ENTRY_TAIL + 4 {
                true => Ok(u32_at(bytes, end - length)),
                false => Err(broken(end - ENTRY_TAIL)),
            };
        }
        end -= length;
    }
    Ok(None)
}

/// The length and GUID that end the table entry ending at `end`.
fn entry_tail(bytes: &[u8], end: usize) -> Option<(usize, &[u8])> {
    let tail = bytes.get(end.checked_sub(ENTRY_TAIL)?..end)?;
    Some((u16::from_le_bytes([tail[0], tail[1]]) as usize, &tail[2..]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]))
}
