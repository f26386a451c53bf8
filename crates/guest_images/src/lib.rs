//! The project's own guests, built from `guests/` by this crate's build script.
//!
//! Each is a TDVF image: load it as its metadata says, point the initial RCX at the TD HOB, enter. The ELF file
//! beside it has the symbols, for a debugger.
#![no_std]
#![forbid(unsafe_code)]

/// A guest as bytes.
#[derive(Clone, Copy, Debug)]
pub struct GuestImage {
    pub name: &'static str,
    /// The TDVF image: it ends at guest physical 4 GiB.
    pub tdvf: &'static [u8],
    /// The same as an ELF file with symbols.
    pub elf: &'static [u8],
}

/// What `swtdx run` boots when it is given no guest.
pub const EMBEDDED: GuestImage = GuestImage {
    name: "embedded",
    tdvf: include_bytes!(concat!(env!("OUT_DIR"), "/embedded.tdvf")),
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/embedded.elf")),
};

/// The firmware that starts a Linux kernel directly.
pub const TDFW: GuestImage = GuestImage {
    name: "tdfw",
    tdvf: include_bytes!(concat!(env!("OUT_DIR"), "/tdfw.tdvf")),
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/tdfw.elf")),
};

/// What debuggers are tested on.
pub const DEBUGGEE: GuestImage = GuestImage {
    name: "debuggee",
    tdvf: include_bytes!(concat!(env!("OUT_DIR"), "/debuggee.tdvf")),
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/debuggee.elf")),
};

#[cfg(test)]
#[path = "../../../guests/rt/sha384.rs"]
mod sha384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_sha_384_is_sha_384() {
        use sha2::{Digest, Sha384};
        for length in [0usize, 1, 111, 112, 127, 128, 129, 300, 1000] {
            let mut bytes = [0u8; 1000];
            for (byte, value) in bytes.iter_mut().zip((0..=250u8).cycle()) {
                *byte = value;
            }
            let ours = sha384::Sha384::digest(&bytes[..length]);
            assert_eq!(
                ours[..],
                Sha384::digest(&bytes[..length])[..],
                "{length} bytes"
            );
        }
    }

    #[test]
    fn an_image_ends_in_a_reset_jump_and_names_its_metadata() {
        for image in [EMBEDDED.tdvf, TDFW.tdvf, DEBUGGEE.tdvf] {
            ends_as_a_tdvf_image_does(image);
        }
    }

    fn ends_as_a_tdvf_image_does(image: &[u8]) {
        assert_eq!(image.len() % 4096, 0);
        let at = |back: usize| &image[image.len() - back..];
        // A near jump at 0xFFFFFFF0.
        assert_eq!(at(16)[0], 0xE9);
        // The footer GUID of the table of GUIDed structures ends 0x20 bytes before the end.
        assert_eq!(at(0x30)[..4], [0xDE, 0x82, 0xB5, 0x96]);
        let offset = u32::from_le_bytes(at(0x30 + 2 + 22)[..4].try_into().expect("four bytes"));
        assert_eq!(&at(offset as usize)[..4], b"TDVF");
    }

    #[test]
    fn the_elf_file_has_the_symbols_a_debugger_asks_for() {
        let has = |name: &[u8]| EMBEDDED.elf.windows(name.len()).any(|w| w == name);
        assert!(has(b"\0greeting\0") && has(b"\0GREETING\0"));
    }
}
