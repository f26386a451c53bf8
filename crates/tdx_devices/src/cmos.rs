//! The real-time clock and its memory (Motorola MC146818A; what firmware expects in it: QEMU's and Bochs' use of the
//! bytes 0x30 to 0x5D for memory sizes).

use crate::memory_map::ram;

/// Bits 6:0 choose a byte.
pub const INDEX: u16 = 0x70;
pub const DATA: u16 = 0x71;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0xA;
const STATUS_B: u8 = 0xB;
const STATUS_C: u8 = 0xC;
const STATUS_D: u8 = 0xD;
const CENTURY: u8 = 0x32;

/// No update in progress, 32768 Hz time base, periodic rate 1024 Hz.
const RUNNING: u8 = 0x26;
/// Status B: 24 hours; numbers in BCD.
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
/// Status D: the battery is good.
const VALID: u8 = 0x80;

/// The clock's time at the guest's start: 2026-01-01, 00:00:00 UTC.
const NEW_YEAR_2026: u64 = 1_767_225_600;
/// Where low memory ends for these bytes: what lies above is counted apart.
const FOUR_GIB: u64 = 1 << 32;

/// The clock and the 128 bytes. The time is the guest's own: it starts at a moment that the owner names, and follows
/// the TSC.
#[derive(Clone, Debug)]
pub struct Cmos {
    index: u8,
    bytes: [u8; 128],
    /// Seconds since 1970 when the TSC was 0.
    start: u64,
}

impl Cmos {
    /// Those of a guest with so many bytes of memory.
    pub fn of_guest(memory: u64) -> Cmos {
        let ram = ram(memory);
        let size = |above: bool| {
            let ranges = ram.iter().filter(|r| (r.start >= FOUR_GIB) == above);
            ranges.map(|r| r.end - r.start).sum()
        };
        Cmos::new(NEW_YEAR_2026, (size(false), size(true)))
    }

    /// `ram`: bytes below and above 4 GiB.
    fn new(start: u64, (low, high): (u64, u64)) -> Cmos {
        let mut bytes = [0; 128];
        let mut put = |at: usize, value: u64, count: usize| {
            let limit = (1 << (8 * count)) - 1;
            let value = value.min(limit).to_le_bytes();
            bytes[at..at + count].copy_from_slice(&value[..count]);
        };
        // KiB of conventional memory; KiB above 1 MiB, twice; 64 KiB units above 16 MiB and above 4 GiB.
        put(0x15, 640, 2);
        put(0x17, (low.min(FOUR_GIB) - low.min(1 << 20)) >> 10, 2);
        put(0x30, (low.min(FOUR_GIB) - low.min(1 << 20)) >> 10, 2);
        put(0x34, (low.min(FOUR_GIB) - low.min(16 << 20)) >> 16, 2);
        put(0x5B, high >> 16, 3);
        bytes[usize::from(STATUS_A)] = RUNNING;
        bytes[usize::from(STATUS_B)] = HOURS_24;
        Cmos {
            index: 0,
            bytes,
            start,
        }
    }

    pub fn select(&mut self, index: u8) {
        self.index = index & 0x7F;
    }

    /// The selected byte, `seconds` after the TSC was 0.
    pub fn read(&self, seconds: u64) -> u8 {
        let time = Time::of(self.start.saturating_add(seconds));
        let value = match self.index {
            SECONDS => time.second,
            MINUTES => time.minute,
            HOURS => time.hour,
            WEEKDAY => time.weekday,
            DAY => time.day,
            MONTH => time.month,
            YEAR => (time.year % 100) as u8,
            CENTURY => (time.year / 100) as u8,
            // No interrupt is ever raised.
            STATUS_C => return 0,
            STATUS_D => return VALID,
            index => return self.bytes[usize::from(index)],
        };
        match self.bytes[usize::from(STATUS_B)] & BINARY {
            0 => value / 10 << 4 | value % 10,
            _ => value,
        }
    }

    /// Writes the selected byte. The clock cannot be set, and counts 24 hours: as in other writes to what is fixed,
    /// the attempt goes nowhere.
    pub fn write(&mut self, value: u8) {
        match self.index {
            SECONDS..=YEAR | CENTURY | STATUS_C | STATUS_D => {}
            STATUS_A => self.bytes[usize::from(STATUS_A)] = value & 0x7F,
            STATUS_B => self.bytes[usize::from(STATUS_B)] = value | HOURS_24,
            index => self.bytes[usize::from(index)] = value,
        }
    }
}

/// A moment in the Gregorian calendar, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Time {
    year: u64,
    month: u8,
    day: u8,
    /// 1 is Sunday.
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Time {
    /// From seconds since 1970.
    fn of(seconds: u64) -> Time {
        let days = seconds / 86_400;
        let leap = |year: u64| match year {
            _ if year.is_multiple_of(100) => year.is_multiple_of(400),
            _ => year.is_multiple_of(4),
        };
        // 400 years are 146,097 days.
        let (mut year, mut rest) = (1970 + days / 146_097 * 400, days % 146_097);
        while rest >= 365 + u64::from(leap(year)) {
            rest -= 365 + u64::from(leap(year));
            year += 1;
        }
        let february = 28 + u64::from(leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if rest < length {
                break;
            }
            rest -= length;
            month += 1;
        }
        Time {
            year,
            month,
            day: rest as u8 + 1,
            // 1970 began on a Thursday.
            weekday: ((days + 4) % 7) as u8 + 1,
            hour: (seconds / 3600 % 24) as u8,
            minute: (seconds / 60 % 60) as u8,
            second: (seconds % 60) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(cmos: &mut Cmos, index: u8, seconds: u64) -> u8 {
        cmos.select(index);
        cmos.read(seconds)
    }

    #[test]
    fn the_clock_shows_dates_in_bcd_or_binary() {
        // 2024-02-29 23:59:58, a Thursday.
        let mut cmos = Cmos::new(1_709_251_198, (0, 0));
        let show =
            |cmos: &mut Cmos, later| [0x32, 9, 8, 7, 6, 4, 2, 0].map(|i| byte(cmos, i, later));
        assert_eq!(
            show(&mut cmos, 0),
            [0x20, 0x24, 2, 0x29, 5, 0x23, 0x59, 0x58]
        );
        assert_eq!(show(&mut cmos, 2), [0x20, 0x24, 3, 1, 6, 0, 0, 0]);
        cmos.select(STATUS_B);
        cmos.write(BINARY);
        assert_eq!(show(&mut cmos, 1), [20, 24, 2, 29, 5, 23, 59, 59]);
        assert_eq!(byte(&mut cmos, STATUS_D, 0), 0x80);
        // The clock keeps its own time.
        cmos.select(YEAR);
        cmos.write(99);
        assert_eq!(byte(&mut cmos, YEAR, 0), 24);
    }

    #[test]
    fn years_follow_the_calendar() {
        for (seconds, date) in [
            (0, (1970, 1, 1)),
            (951_782_400, (2000, 2, 29)),
            (4_107_542_400, (2100, 3, 1)),
            (1_767_225_599, (2025, 12, 31)),
        ] {
            let time = Time::of(seconds);
            assert_eq!((time.year, time.month, time.day), date, "{seconds}");
        }
        assert!(Time::of(u64::MAX).month <= 12);
    }

    #[test]
    fn memory_sizes_are_where_firmware_looks() {
        let mut cmos = Cmos::new(0, (2 << 30, 3 << 30));
        let word = |cmos: &mut Cmos, at| {
            u32::from(byte(cmos, at, 0)) | u32::from(byte(cmos, at + 1, 0)) << 8
        };
        assert_eq!(word(&mut cmos, 0x34) << 16, (2 << 30) - (16 << 20));
        assert_eq!(word(&mut cmos, 0x30), 0xFFFF);
        assert_eq!(
            [0x5B, 0x5C, 0x5D].map(|i| byte(&mut cmos, i, 0)),
            [0, 0xC0, 0]
        );
        let mut small = Cmos::new(0, (8 << 20, 0));
        assert_eq!(word(&mut small, 0x34), 0);
        assert_eq!(word(&mut small, 0x30), 7 << 10);
    }

    #[test]
    fn other_bytes_keep_what_is_written() {
        let mut cmos = Cmos::new(0, (0, 0));
        cmos.select(0x8F);
        cmos.write(0xFE);
        assert_eq!(byte(&mut cmos, 0x0F, 0), 0xFE);
    }
}
