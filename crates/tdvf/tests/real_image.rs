//! A real image, Intel's OVMF.inteltdx.fd as the crate `tdx` 0.1.2 carries it: its sections, its
//! measurement in both orders, and every way of damaging its metadata.

use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use tdvf::{Image, ImageError, MetadataSource, Mrtd, Order, SectionType, Step, fuzz_image};

/// The image from the registry's copy of the crate, found through `cargo metadata`.
fn ovmf() -> Option<Vec<u8>> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        // Only this platform's packages need to be there when the network is not.
        .args([
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).ok()?;
    let package = metadata["packages"]
        .as_array()?
        .iter()
        .find(|p| p["name"] == "tdx" && p["version"] == "0.1.2")?;
    let manifest = PathBuf::from(package["manifest_path"].as_str()?);
    std::fs::read(manifest.parent()?.join("tests/data/OVMF.inteltdx.fd")).ok()
}

fn image_or_skip() -> Option<Vec<u8>> {
    let image = ovmf();
    if image.is_none() {
        println!(
            "SKIPPED real image: cargo metadata does not lead to OVMF.inteltdx.fd of the crate tdx 0.1.2"
        );
    }
    image
}

fn mrtd(image: &Image<'_>, order: Order) -> String {
    let mut mrtd = Mrtd::new();
    image.plan(order).for_each(|step| mrtd.step(&step));
    mrtd.finish()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn the_measurement_is_the_published_one_in_both_orders() {
    let Some(bytes) = image_or_skip() else { return };
    assert_eq!(bytes.len(), 2_097_152);
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(
        mrtd(&image, Order::PageByPage),
        "88c63708f207ab01a46b4d9424ea92ab11f8826be30d208afbb58f174f2a19cdcfafb2b12a6a2c98be0740b808894d55"
    );
    assert!(mrtd(&image, Order::TwoPasses).starts_with("307c9a6831bdd6e6"));
}

#[test]
fn the_sections_are_the_firmware_s_and_the_two_orders_hold_the_same_steps() {
    let Some(bytes) = image_or_skip() else { return };
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(image.source(), MetadataSource::GuidedTable);
    let kinds: Vec<_> = image.sections().map(|section| section.kind).collect();
    assert_eq!(kinds[..2], [SectionType::BFV, SectionType::CFV]);
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == SectionType::TD_HOB)
            .count(),
        1
    );
    assert!(kinds.contains(&SectionType::TEMP_MEM));
    let bfv = image.section_of(SectionType::BFV).unwrap();
    assert!(bfv.attributes.extended());
    assert_eq!(
        bfv.end(),
        1 << 32,
        "the reset vector is at the end of the first 4 GiB"
    );

    let key = |step: &Step<'_>| match *step {
        Step::AddPage { gpa, .. } => (0, gpa),
        Step::AugPage { gpa, .. } => (1, gpa),
        Step::Extend { gpa, .. } => (2, gpa),
    };
    let mut one: Vec<_> = image
        .plan(Order::PageByPage)
        .map(|step| key(&step))
        .collect();
    let mut two: Vec<_> = image
        .plan(Order::TwoPasses)
        .map(|step| key(&step))
        .collect();
    assert_ne!(one, two);
    one.sort_unstable();
    two.sort_unstable();
    assert_eq!(one, two);
    let pages: u64 = image.sections().map(|section| section.pages()).sum();
    let extended: u64 = image
        .sections()
        .filter(|s| s.attributes.extended())
        .map(|s| s.pages() * 16)
        .sum();
    assert_eq!(one.len() as u64, pages + extended);
}

#[test]
fn every_single_byte_of_the_metadata_may_be_anything() {
    let Some(mut bytes) = image_or_skip() else {
        return;
    };
    let image = Image::parse(&bytes).unwrap();
    let (start, sections) = (image.descriptor_offset(), image.sections().len());
    let mut refused = 0;
    for at in start..start + 16 + 32 * sections {
        let original = bytes[at];
        for value in [0, 1, 0x7F, 0x80, 0xFF, original ^ 1] {
            bytes[at] = value;
            fuzz_image(&bytes[bytes.len() - 0x2_0000..]);
            refused += u32::from(Image::parse(&bytes).is_err());
        }
        bytes[at] = original;
    }
    assert!(refused > 100, "only {refused} changes were noticed");
    assert!(Image::parse(&bytes).is_ok());
}

#[test]
fn an_image_cut_short_anywhere_is_refused_or_still_consistent() {
    let Some(bytes) = image_or_skip() else { return };
    for size in (0..bytes.len())
        .step_by(997)
        .chain(bytes.len() - 600..bytes.len())
    {
        assert!(Image::parse(&bytes[..size]).is_err(), "cut to {size} bytes");
    }
}

proptest! {
    #[test]
    fn a_forged_section_never_makes_parsing_or_planning_panic(
        sections in proptest::collection::vec(any::<[u8; 32]>(), 0..6),
        small in any::<bool>(),
    ) {
        let mut image = vec![0_u8; 0x3000];
        image[0x100..0x104].copy_from_slice(b"TDVF");
        let length = 16 + 32 * sections.len() as u32;
        for (at, word) in [length, 1, sections.len() as u32].into_iter().enumerate() {
            image[0x104 + 4 * at..0x108 + 4 * at].copy_from_slice(&word.to_le_bytes());
        }
        for (i, mut section) in sections.into_iter().enumerate() {
            if small {
                // Values that pass most checks, so that planning is reached.
                let word = |at: usize| u32::from_le_bytes(section[at..at + 4].try_into().unwrap());
                let fields = [word(0) % 0x3000, word(4) % 0x3000, (word(8) % 64) << 12, 0, (word(16) % 4) << 12, 0, word(24) % 9, word(28) % 4];
                for (at, field) in fields.into_iter().enumerate() {
                    section[4 * at..4 * at + 4].copy_from_slice(&field.to_le_bytes());
                }
            }
            image[0x110 + 32 * i..0x130 + 32 * i].copy_from_slice(&section);
        }
        let word = image.len() - 32;
        image[word..word + 4].copy_from_slice(&0x100_u32.to_le_bytes());
        let found = !matches!(Image::parse(&image), Err(ImageError::NoMetadata { .. }));
        prop_assert!(found, "the descriptor is there");
        fuzz_image(&image);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_image(&bytes);
    }
}
