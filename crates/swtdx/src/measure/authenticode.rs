//! The Authenticode digest of a PE image, which is what firmware measures of a kernel: everything but the
//! checksum, the certificate table's entry and the certificates ("Windows Authenticode Portable Executable
//! Signature Format").

use sha2::{Digest, Sha384};
use thiserror::Error;

#[derive(Debug, PartialEq, Eq, Error)]
pub enum PeError {
    #[error("not a PE image (no {0} at offset {1:#x}), so EFI firmware cannot start it")]
    NotPe(&'static str, usize),
    #[error("a PE image cut short: {0} ends beyond the file's {1} bytes")]
    CutShort(&'static str, usize),
}

/// PE32+: the optional header of a 64-bit image.
const PE32_PLUS: u16 = 0x20B;
/// The directory that names the certificates.
const CERTIFICATES: u32 = 4;

/// Hashes a PE image. Sections are taken in the order of their place in the file.
pub fn sha384(file: &[u8]) -> Result<[u8; 48], PeError> {
    let short = |what| PeError::CutShort(what, file.len());
    let u16_at = |at: usize| {
        Some(u16::from_le_bytes(
            file.get(at..at.checked_add(2)?)?.try_into().ok()?,
        ))
    };
    let u32_at = |at: usize| {
        Some(u32::from_le_bytes(
            file.get(at..at.checked_add(4)?)?.try_into().ok()?,
        ))
    };
    if !file.starts_with(b"MZ") {
        return Err(PeError::NotPe("MZ", 0));
    }
    let pe = u32_at(0x3C).ok_or(short("the DOS header"))? as usize;
    if file.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(PeError::NotPe("PE signature", pe));
    }
    let header = "the PE header";
    let sections = u16_at(pe + 6).ok_or(short(header))?;
    let optional = pe + 24;
    let section_table = optional + usize::from(u16_at(pe + 20).ok_or(short(header))?);
    // The directories come 16 bytes later in a 64-bit image.
    let directories = match u16_at(optional).ok_or(short(header))? {
        PE32_PLUS => optional + 112,
        _ => optional + 96,
    };
    let checksum = optional + 64;
    let headers = u32_at(optional + 60).ok_or(short(header))? as usize;
    let head = file.get(..headers).ok_or(short("SizeOfHeaders"))?;
    let count = u32_at(directories - 4).ok_or(short(header))?;
    let entry = directories + 8 * CERTIFICATES as usize;
    let certificates = match count > CERTIFICATES {
        true => u32_at(entry + 4).ok_or(short(header))? as usize,
        false => 0,
    };

    let mut hash = Sha384::new();
    // The header without the checksum and, where it has one, the certificate table's entry.
    hash.update(head.get(..checksum).ok_or(short(header))?);
    let (skip, resume) = if count > CERTIFICATES {
        (entry, entry + 8)
    } else {
        (headers, headers)
    };
    hash.update(head.get(checksum + 4..skip).ok_or(short(header))?);
    hash.update(head.get(resume..).ok_or(short(header))?);

    let mut places = Vec::with_capacity(sections.into());
    for index in 0..usize::from(sections) {
        let at = section_table + 40 * index;
        let size = u32_at(at + 16).ok_or(short("the section table"))? as usize;
        let start = u32_at(at + 20).ok_or(short("the section table"))? as usize;
        if size != 0 {
            places.push((start, size));
        }
    }
    places.sort_unstable();
    let mut hashed = headers;
    for (start, size) in places {
        let data = start
            .checked_add(size)
            .and_then(|end| file.get(start..end))
            .ok_or(short("a section"))?;
        hash.update(data);
        hashed = hashed.saturating_add(size);
    }
    // What lies behind the sections, up to the certificates.
    let end = file
        .len()
        .checked_sub(certificates)
        .ok_or(short("the certificate table"))?;
    if end > hashed {
        hash.update(&file[hashed..end]);
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A PE32+ image of one section, with `certificates` bytes at its end.
    fn image(certificates: usize) -> Vec<u8> {
        let mut file = vec![0; 0x400];
        file[..2].copy_from_slice(b"MZ");
        file[0x3C] = 0x40;
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x46] = 1; // sections
        file[0x54] = 240; // optional header
        file[0x58..0x5A].copy_from_slice(&PE32_PLUS.to_le_bytes());
        file[0x58 + 60..0x58 + 64].copy_from_slice(&0x200_u32.to_le_bytes()); // SizeOfHeaders
        file[0x58 + 108] = 16; // directories
        file[0x58 + 112 + 36] = certificates as u8;
        let section = 0x58 + 240;
        file[section + 16..section + 20].copy_from_slice(&0x200_u32.to_le_bytes());
        file[section + 20..section + 24].copy_from_slice(&0x200_u32.to_le_bytes());
        file.resize(0x400 + certificates, 0xCE);
        file
    }

    #[test]
    fn checksum_and_certificates_do_not_count_and_everything_else_does() {
        let plain = sha384(&image(0)).unwrap();
        assert_eq!(sha384(&image(64)).unwrap(), plain);
        let mut file = image(0);
        file[0x58 + 64..0x58 + 68].fill(7);
        assert_eq!(sha384(&file).unwrap(), plain);
        for at in [0x10, 0x58 + 50, 0x1FF, 0x200, 0x3FF] {
            let mut file = image(0);
            file[at] ^= 1;
            assert_ne!(sha384(&file), Ok(plain), "byte {at:#x}");
        }
    }

    #[test]
    fn what_is_no_pe_image_is_refused_with_the_place() {
        assert_eq!(sha384(b"ELF"), Err(PeError::NotPe("MZ", 0)));
        assert!(matches!(
            sha384(&image(0)[..0x300]),
            Err(PeError::CutShort("a section", 0x300))
        ));
    }

    proptest! {
        #[test]
        fn a_damaged_image_never_panics(at in 0..0x400_usize, value in any::<u8>(), size in 0..0x441_usize) {
            let mut file = image(64);
            file[at] = value;
            file.truncate(size);
            let _ = sha384(&file);
        }
    }
}
