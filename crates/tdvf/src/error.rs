//! What can be wrong with an image.

use core::fmt;

use crate::{Image, SectionType};

/// Why bytes are no usable TDVF image. Offsets are from the image's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// Neither the GUIDed table nor the offset word leads to a descriptor.
    NoMetadata { size: usize },
    /// The GUIDed table is damaged at this offset.
    BrokenTable { offset: usize },
    /// The descriptor lies outside the image.
    DescriptorOutside { offset: u64, size: usize },
    /// The descriptor does not begin with `TDVF`.
    BadSignature { offset: usize },
    /// A version other than 1.
    UnknownVersion { version: u32 },
    /// The descriptor's length does not hold its sections.
    BadLength { length: u32, sections: u32 },
    /// A section's bytes lie outside the image.
    DataOutside {
        section: u32,
        offset: u32,
        bytes: u32,
        size: usize,
    },
    /// Guest memory that is not made of whole 4 KiB pages, or wraps around.
    BadMemory {
        section: u32,
        address: u64,
        bytes: u64,
    },
    /// More bytes in the image than in guest memory.
    DataTooLong { section: u32, raw: u32, memory: u64 },
    /// A type that holds no bytes of the image has some.
    UnexpectedData { section: u32, kind: SectionType },
    /// A firmware volume without bytes, or of an image without one.
    MissingData { section: u32, kind: SectionType },
    /// An augmented section with bytes, or one that is also measured.
    BadAugmented { section: u32 },
    /// Two sections share guest memory.
    Overlap { first: u32, second: u32 },
    /// More sections than [`Image::MAX_SECTIONS`].
    TooManySections { sections: u32 },
    /// The sections take more guest memory than [`Image::MAX_MEMORY`].
    TooLarge { bytes: u64 },
    /// No boot firmware volume at all.
    NoBfv,
    /// More than one TD_HOB.
    TwoHobs { second: u32 },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ImageError::NoMetadata { size } => write!(
                f,
                "no TDVF metadata in this image of {size} bytes: not a TD firmware"
            ),
            ImageError::BrokenTable { offset } => {
                write!(f, "offset {offset:#x}: the GUIDed table is damaged")
            }
            ImageError::DescriptorOutside { offset, size } => {
                write!(
                    f,
                    "the TDVF descriptor would be at offset {offset:#x}, outside the image of {size:#x} bytes"
                )
            }
            ImageError::BadSignature { offset } => {
                write!(f, "offset {offset:#x}: no TDVF signature")
            }
            ImageError::UnknownVersion { version } => {
                write!(f, "TDVF metadata version {version}; only 1 is known")
            }
            ImageError::BadLength { length, sections } => {
                write!(
                    f,
                    "the TDVF descriptor is {length} bytes long, which does not hold {sections} sections"
                )
            }
            ImageError::DataOutside {
                section,
                offset,
                bytes,
                size,
            } => write!(
                f,
                "section {section}: {bytes:#x} bytes at offset {offset:#x} lie outside the image of {size:#x} bytes"
            ),
            ImageError::BadMemory {
                section,
                address,
                bytes,
            } => write!(
                f,
                "section {section}: guest memory {address:#x} + {bytes:#x} is not made of whole 4 KiB pages below 2^52"
            ),
            ImageError::DataTooLong {
                section,
                raw,
                memory,
            } => {
                write!(
                    f,
                    "section {section}: {raw:#x} bytes do not fit its {memory:#x} bytes of memory"
                )
            }
            ImageError::UnexpectedData { section, kind } => write!(
                f,
                "section {section}: a {kind} section has bytes in the image"
            ),
            ImageError::MissingData { section, kind } => write!(
                f,
                "section {section}: a {kind} section has no bytes in the image"
            ),
            ImageError::BadAugmented { section } => {
                write!(
                    f,
                    "section {section}: PAGE.AUG pages can be neither filled nor measured"
                )
            }
            ImageError::Overlap { first, second } => {
                write!(f, "sections {first} and {second} share guest memory")
            }
            ImageError::TooManySections { sections } => {
                write!(
                    f,
                    "{sections} sections; at most {} are loaded",
                    Image::MAX_SECTIONS
                )
            }
            ImageError::TooLarge { bytes } => {
                write!(
                    f,
                    "the sections take {bytes:#x} bytes of guest memory; at most {:#x} are loaded",
                    Image::MAX_MEMORY
                )
            }
            ImageError::NoBfv => f.write_str("the image has no boot firmware volume (BFV) section"),
            ImageError::TwoHobs { second } => {
                write!(f, "section {second}: a second TD_HOB section")
            }
        }
    }
}

impl core::error::Error for ImageError {}
