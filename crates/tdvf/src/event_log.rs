//! The event log of a TD's firmware, as ACPI's CCEL table names it (UEFI 2.10, 38.4.1; TCG PC Client Platform Firmware
//! Profile 1.05, 10.2): what it says was extended into the RTMRs.

use core::fmt;

use tdx_abi::Sha384;

/// TPM_ALG_SHA384, the only algorithm of RTMRs, and the length of its digests.
const SHA384: u16 = 0x0C;
const SHA384_BYTES: usize = 48;
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
/// The first event has the old form: register, type, a SHA-1 digest, size.
const SHA1_BYTES: usize = 20;
/// More algorithms than any log has.
const MAX_ALGORITHMS: usize = 8;

/// What kind of event it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventType(pub u32);

impl EventType {
    /// Tells the reader something; nothing was extended.
    pub const NO_ACTION: EventType = EventType(3);

    /// The profile's name.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x01 => "EV_POST_CODE",
            0x03 => "EV_NO_ACTION",
            0x04 => "EV_SEPARATOR",
            0x05 => "EV_ACTION",
            0x06 => "EV_EVENT_TAG",
            0x0A => "EV_PLATFORM_CONFIG_FLAGS",
            0x0B => "EV_TABLE_OF_DEVICES",
            0x0D => "EV_IPL",
            0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
            0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
            0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
            0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
            0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
            0x8000_0006 => "EV_EFI_GPT_EVENT",
            0x8000_0007 => "EV_EFI_ACTION",
            0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
            0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
            0x8000_000A => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
            0x8000_000B => "EV_EFI_HANDOFF_TABLES2",
            0x8000_000C => "EV_EFI_VARIABLE_BOOT2",
            0x8000_00E0 => "EV_EFI_VARIABLE_AUTHORITY",
            _ => return None,
        })
    }

    /// Its data is a UEFI_VARIABLE_DATA: a GUID, two lengths, the name in UTF-16, the value.
    fn is_variable(self) -> bool {
        matches!(
            self.0,
            0x8000_0001 | 0x8000_0002 | 0x8000_000C | 0x8000_00E0
        )
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#x}", self.0),
        }
    }
}

/// One event that was extended into an RTMR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEvent<'a> {
    /// RTMR 0 to 3.
    pub register: u8,
    pub kind: EventType,
    pub digest: Sha384,
    pub data: &'a [u8],
}

impl LogEvent<'_> {
    /// What its data says, for people: a variable's name, or its text where it is text.
    pub fn describe(&self) -> impl Iterator<Item = char> {
        let (name, text): (&[u8], &[u8]) = match self.kind.is_variable() {
            true => (variable_name(self.data).unwrap_or(&[]), &[]),
            false => (&[], text(self.data)),
        };
        let units = name
            .chunks_exact(2)
            .map(|two| u16::from_le_bytes([two[0], two[1]]));
        let name = char::decode_utf16(units).map(|c| c.unwrap_or('?'));
        name.chain(text.iter().map(|b| char::from(*b)))
            .filter(|c| !c.is_control())
    }
}

fn variable_name(data: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader {
        bytes: data,
        at: 16,
    };
    let units = reader.word(8)?;
    reader.word(8)?;
    reader.take(usize::try_from(units.checked_mul(2)?).ok()?)
}

/// Text, maybe behind a byte with its length and before zeros; nothing if there are other bytes.
fn text(data: &[u8]) -> &[u8] {
    let text = match data {
        [length @ 1..0x20, rest @ ..] => rest.get(..usize::from(*length)).unwrap_or(data),
        data => data,
    };
    let end = text
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1);
    match text[..end].iter().all(|b| (0x20..0x7F).contains(b)) {
        true => &text[..end],
        false => &[],
    }
}

/// What is wrong with a log, with the offset of the event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogError {
    /// It does not begin with the event that names its format.
    NoHeader,
    NoSha384 {
        at: usize,
    },
    CutOff {
        at: usize,
    },
    /// A digest by an algorithm that the header does not list.
    Algorithm {
        at: usize,
        algorithm: u16,
    },
    /// A measurement register that is no RTMR.
    Register {
        at: usize,
        register: u32,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::NoHeader => {
                f.write_str("no event log: it does not begin with an event \"Spec ID Event03\"")
            }
            LogError::NoSha384 { at } => {
                write!(f, "the event at offset {at:#x} has no SHA-384 digest")
            }
            LogError::CutOff { at } => write!(
                f,
                "the event at offset {at:#x} is cut off by the end of the log"
            ),
            LogError::Algorithm { at, algorithm } => write!(
                f,
                "the event at offset {at:#x} has a digest by algorithm {algorithm:#x}, which the log's header does not list"
            ),
            LogError::Register { at, register } => write!(
                f,
                "the event at offset {at:#x} names measurement register {register}; RTMR 0 to 3 are 1 to 4"
            ),
        }
    }
}

impl core::error::Error for LogError {}

/// An event as it stands in the log.
struct RawEvent<'a> {
    register: u32,
    kind: EventType,
    digest: Option<Sha384>,
    data: &'a [u8],
}

/// The events of a log that were extended, in order; after an error there are no more. The area behind the last
/// event is all ones or zeros, or the bytes end.
#[derive(Clone, Debug)]
pub struct EventLog<'a> {
    reader: Reader<'a>,
    /// Algorithms and their digests' lengths.
    algorithms: [(u16, usize); MAX_ALGORITHMS],
    count: usize,
}

impl<'a> EventLog<'a> {
    /// Reads the log's header.
    pub fn parse(bytes: &'a [u8]) -> Result<EventLog<'a>, LogError> {
        let mut log = EventLog {
            reader: Reader { bytes, at: 0 },
            algorithms: [(0, 0); MAX_ALGORITHMS],
            count: 0,
        };
        log.header().ok_or(LogError::NoHeader)?;
        match log.length_of(SHA384) {
            Some(SHA384_BYTES) => Ok(log),
            _ => Err(LogError::NoSha384 { at: 0 }),
        }
    }

    fn header(&mut self) -> Option<()> {
        let reader = &mut self.reader;
        reader.take(4)?;
        if EventType(reader.word(4)? as u32) != EventType::NO_ACTION {
            return None;
        }
        reader.take(SHA1_BYTES)?;
        let size = reader.word(4)? as usize;
        let mut data = Reader {
            bytes: reader.take(size)?,
            at: 0,
        };
        if data.take(SPEC_ID.len())? != SPEC_ID {
            return None;
        }
        // Platform class, version, errata, size of UINTN.
        data.take(8)?;
        self.count = data.word(4)? as usize;
        for algorithm in self.algorithms.get_mut(..self.count)? {
            *algorithm = (data.word(2)? as u16, data.word(2)? as usize);
        }
        Some(())
    }

    fn length_of(&self, algorithm: u16) -> Option<usize> {
        let listed = self.algorithms[..self.count].iter();
        let found = listed.into_iter().find(|(id, _)| *id == algorithm);
        found.map(|(_, length)| *length)
    }

    /// The next event, extended or not; `None` at the end.
    fn event(&mut self) -> Result<Option<RawEvent<'a>>, LogError> {
        let at = self.reader.at;
        let cut = LogError::CutOff { at };
        if at == self.reader.bytes.len() {
            return Ok(None);
        }
        let register = self.reader.word(4).ok_or(cut)? as u32;
        if register == u32::MAX {
            return Ok(None);
        }
        let kind = EventType(self.reader.word(4).ok_or(cut)? as u32);
        if register == 0 && kind.0 == 0 {
            return Ok(None);
        }
        let mut digest = None;
        for _ in 0..self.reader.word(4).ok_or(cut)? {
            let algorithm = self.reader.word(2).ok_or(cut)? as u16;
            let length = self.length_of(algorithm);
            let length = length.ok_or(LogError::Algorithm { at, algorithm })?;
            let bytes = self.reader.take(length).ok_or(cut)?;
            if algorithm == SHA384 {
                digest = bytes.try_into().ok();
            }
        }
        let size = self.reader.word(4).ok_or(cut)? as usize;
        let data = self.reader.take(size).ok_or(cut)?;
        Ok(Some(RawEvent {
            register,
            kind,
            digest,
            data,
        }))
    }

    fn extended(&mut self) -> Result<Option<LogEvent<'a>>, LogError> {
        loop {
            let at = self.reader.at;
            let Some(raw) = self.event()? else {
                return Ok(None);
            };
            let RawEvent {
                register,
                kind,
                digest,
                data,
            } = raw;
            if kind == EventType::NO_ACTION {
                continue;
            }
            return match (register, digest) {
                (1..=4, Some(digest)) => Ok(Some(LogEvent {
                    register: register as u8 - 1,
                    kind,
                    digest,
                    data,
                })),
                (1..=4, None) => Err(LogError::NoSha384 { at }),
                (register, _) => Err(LogError::Register { at, register }),
            };
        }
    }
}

impl<'a> Iterator for EventLog<'a> {
    type Item = Result<LogEvent<'a>, LogError>;
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.extended().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.reader.bytes = &[];
            self.reader.at = 0;
        }
        next
    }
}

#[derive(Clone, Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }
    /// A little-endian number of up to 8 bytes.
    fn word(&mut self, length: usize) -> Option<u64> {
        let bytes = self.take(length)?.iter().rev();
        Some(bytes.fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::fuzz_event_log;
    use std::string::{String, ToString};
    use std::vec;
    use std::vec::Vec;

    fn log(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut header = SPEC_ID.to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0C, 0, 48, 0, 0]);
        let mut log = [1u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
        log.extend([0; SHA1_BYTES]);
        log.extend((header.len() as u32).to_le_bytes());
        log.extend(header);
        for (index, (register, kind, data)) in (1..).zip(events) {
            log.extend([register.to_le_bytes(), kind.to_le_bytes(), [1, 0, 0, 0]].concat());
            log.extend([0x0C, 0]);
            log.extend([index; 48]);
            log.extend((data.len() as u32).to_le_bytes());
            log.extend(*data);
        }
        log
    }

    fn variable(name: &str) -> Vec<u8> {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut data = vec![7; 16];
        data.extend((name.len() as u64).to_le_bytes());
        data.extend(1u64.to_le_bytes());
        data.extend(units);
        data.push(0);
        data
    }

    fn all(bytes: &[u8]) -> Result<Vec<LogEvent<'_>>, LogError> {
        EventLog::parse(bytes)?.collect()
    }

    #[test]
    fn events_are_read_with_their_registers_and_words() {
        let boot = variable("BootOrder");
        let mut bytes = log(&[
            (1, 0x8000_000B, b"\x05TdHob\0\0\0"),
            (1, 3, b"nothing was extended"),
            (1, 0x8000_0002, &boot),
            (2, 0x8000_0007, b"Exit Boot Services Invocation"),
            (2, 4, &[0; 4]),
        ]);
        for fill in [0, 0xFF] {
            bytes.resize(bytes.len() + 1000, fill);
            let events = all(&bytes).expect("a good log");
            let row = |e: &LogEvent<'_>| {
                let text: String = e.describe().collect();
                (e.register, e.kind.to_string(), text, e.digest[0])
            };
            let rows: Vec<_> = events.iter().map(row).collect();
            let row = |register, kind: &str, text: &str, digest| {
                (register, kind.to_string(), text.to_string(), digest)
            };
            assert_eq!(
                rows,
                [
                    row(0, "EV_EFI_HANDOFF_TABLES2", "TdHob", 1),
                    row(0, "EV_EFI_VARIABLE_BOOT", "BootOrder", 3),
                    row(1, "EV_EFI_ACTION", "Exit Boot Services Invocation", 4),
                    row(1, "EV_SEPARATOR", "", 5),
                ]
            );
        }
    }

    #[test]
    fn damage_is_named_by_its_place() {
        let bytes = log(&[(1, 4, &[0; 4])]);
        let at = bytes.len() - (12 + 2 + 48 + 4 + 4);
        assert_eq!(all(b""), Err(LogError::NoHeader));
        assert_eq!(all(&bytes[1..]), Err(LogError::NoHeader));
        assert_eq!(all(&bytes[..bytes.len() - 1]), Err(LogError::CutOff { at }));
        let changed = |offset: usize, value| {
            let mut wrong = bytes.clone();
            wrong[at + offset] = value;
            all(&wrong).map(|events| events.len())
        };
        assert_eq!(changed(0, 5), Err(LogError::Register { at, register: 5 }));
        let algorithm = 0x0B;
        assert_eq!(
            changed(12, 0x0B),
            Err(LogError::Algorithm { at, algorithm })
        );
        let mut no_digest = bytes[..at].to_vec();
        no_digest.extend([1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(all(&no_digest), Err(LogError::NoSha384 { at }));
    }

    #[test]
    fn any_damage_is_read_or_refused() {
        let boot = variable("Boot0000");
        let good = log(&[(1, 0x8000_0002, &boot), (4, 0x8000_0007, b"x")]);
        for at in 0..good.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bytes = good.clone();
                bytes[at] = value;
                fuzz_event_log(&bytes);
            }
            fuzz_event_log(&good[..at]);
        }
    }
}
