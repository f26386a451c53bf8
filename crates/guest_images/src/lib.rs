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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_ends_in_a_reset_jump_and_names_its_metadata() {
        let image = EMBEDDED.tdvf;
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
