//! What the fuzzer and the tests do with arbitrary bytes.

use crate::{EventLog, Image, Order, Step};

/// Parses any bytes as an image and checks what must hold of every image that is accepted. Panics when it does not.
pub fn fuzz_image(bytes: &[u8]) {
    let Ok(image) = Image::parse(bytes) else {
        return;
    };
    let mut counts = [0_u64; 2];
    for (count, order) in counts.iter_mut().zip([Order::PageByPage, Order::TwoPasses]) {
        // Real images have some thousands of steps; a forged one may list a million.
        for step in image.plan(order).take(20_000) {
            let (section, gpa) = match step {
                Step::AddPage { section, gpa, .. } | Step::AugPage { section, gpa } => {
                    (section, gpa)
                }
                Step::Extend { section, gpa, .. } => (section, gpa),
            };
            let section = image
                .get(section as usize)
                .expect("a step names a section of the image");
            assert!(
                (section.memory_address..section.end()).contains(&gpa.raw()),
                "a step lies in its section"
            );
            *count += 1;
        }
    }
    assert_eq!(counts[0], counts[1], "both orders have the same steps");
}

/// Reads any bytes as an event log. Panics when what must hold of every log does not.
pub fn fuzz_event_log(bytes: &[u8]) {
    let Ok(log) = EventLog::parse(bytes) else {
        return;
    };
    let mut left = bytes.len();
    for event in log.map_while(Result::ok) {
        assert!(event.register < 4);
        assert!(event.describe().count() <= event.data.len());
        // Register, type, count, an algorithm and its digest, size: events do not overlap.
        left = left
            .checked_sub(12 + 2 + 48 + 4 + event.data.len())
            .expect("events are part of the log");
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// An image of one BFV page (measured), one PAGE.AUG page and a TD HOB.
    fn small() -> std::vec::Vec<u8> {
        let mut image = std::vec![0; 0x2000];
        image[0x20..0x24].copy_from_slice(b"TDVF");
        let sections: [[u32; 8]; 3] = [
            [0x1000, 0x80, 0xFFFF_F000, 0, 0x1000, 0, 0, 1],
            [0, 0, 0x10_0000, 0, 0x1000, 0, 4, 2],
            [0, 0, 0x80_9000, 0, 0x2000, 0, 2, 0],
        ];
        let words = [16 + 32 * 3, 1, 3]
            .into_iter()
            .chain(sections.into_iter().flatten());
        for (at, word) in words.enumerate() {
            image[0x24 + 4 * at..0x28 + 4 * at].copy_from_slice(&u32::to_le_bytes(word));
        }
        let end = image.len();
        image[end - 32..end - 28].copy_from_slice(&0x20_u32.to_le_bytes());
        image
    }

    #[test]
    fn a_plan_adds_augments_and_extends_as_the_attributes_say() {
        let image = small();
        fuzz_image(&image);
        let image = Image::parse(&image).unwrap();
        let steps: std::vec::Vec<_> = image.plan(Order::PageByPage).collect();
        assert_eq!(steps.len(), 1 + 16 + 1 + 2);
        assert!(
            matches!(steps[0], Step::AddPage { section: 0, data, .. } if data.bytes().len() == 0x80)
        );
        assert!(matches!(steps[16], Step::Extend { gpa, .. } if gpa.raw() == 0xFFFF_FF00));
        assert!(matches!(steps[17], Step::AugPage { section: 1, .. }));
        assert!(
            matches!(steps[19], Step::AddPage { section: 2, data, .. } if data.bytes().is_empty())
        );
    }

    #[test]
    fn every_rule_refuses_an_image_that_breaks_it() {
        use crate::ImageError::*;
        let refuse = |word: usize, value: u32| {
            let mut image = small();
            image[0x20 + 4 * word..0x24 + 4 * word].copy_from_slice(&value.to_le_bytes());
            Image::parse(&image).unwrap_err()
        };
        let bad_memory = |error| matches!(error, BadMemory { .. });
        assert!(matches!(refuse(0, 0), NoMetadata { .. }));
        assert_eq!(refuse(2, 2), UnknownVersion { version: 2 });
        assert_eq!(
            refuse(1, 111),
            BadLength {
                length: 111,
                sections: 3
            }
        );
        assert!(matches!(refuse(4, 0x1F90), DataOutside { section: 0, .. }));
        assert!(matches!(
            refuse(4, u32::MAX),
            DataOutside { section: 0, .. }
        ));
        assert_eq!(
            refuse(5, 0x1001),
            DataOutside {
                section: 0,
                offset: 0x1000,
                bytes: 0x1001,
                size: 0x2000
            }
        );
        assert_eq!(
            refuse(5, 0),
            MissingData {
                section: 0,
                kind: crate::SectionType::BFV
            }
        );
        assert!(
            bad_memory(refuse(6, 0x800))
                && bad_memory(refuse(8, 0x800))
                && bad_memory(refuse(7, 1 << 20))
        );
        assert_eq!(
            refuse(8, 0),
            DataTooLong {
                section: 0,
                raw: 0x80,
                memory: 0
            }
        );
        assert_eq!(
            refuse(9, 2),
            TooLarge {
                bytes: 0x2_0000_1000
            }
        );
        assert_eq!(refuse(10, 9), NoBfv);
        assert_eq!(
            refuse(13, 1),
            UnexpectedData {
                section: 1,
                kind: crate::SectionType::PERM_MEM
            }
        );
        assert_eq!(refuse(19, 3), BadAugmented { section: 1 });
        assert_eq!(refuse(18, 2), TwoHobs { second: 2 });
        assert_eq!(
            refuse(22, 0xF_F000),
            Overlap {
                first: 1,
                second: 2
            }
        );
    }
}
