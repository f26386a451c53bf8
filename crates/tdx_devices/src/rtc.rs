//! The CMOS clock at ports 0x70 and 0x71: a date that moves with the guest's TSC, so that it is the same in each run.

pub(crate) const INDEX: u16 = 0x70;
pub(crate) const DATA: u16 = 0x71;

/// Seconds from 1970 to the moment the machine starts: 2024-01-01 00:00:00 UTC.
const START: u64 = 1_704_067_200;

/// The clock's index register.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Rtc {
    index: u8,
}

impl Rtc {
    pub(crate) fn select(&mut self, index: u32) {
        self.index = index as u8 & 0x7F;
    }

    /// The selected register, `seconds` after the start of the machine. Binary, 24 hours, never updating.
    pub(crate) fn read(&self, seconds: u64) -> u8 {
        let now = START + seconds;
        let (days, second) = (now / 86_400, now % 86_400);
        let (year, month, day) = date(days);
        match self.index {
            0 => (second % 60) as u8,
            2 => (second / 60 % 60) as u8,
            4 => (second / 3600) as u8,
            // 1970-01-01 was a Thursday, day 5.
            6 => ((days + 4) % 7 + 1) as u8,
            7 => day,
            8 => month,
            9 => (year % 100) as u8,
            0x0A => 0x26,
            // Binary and 24 hours.
            0x0B => 0x06,
            // The battery is good.
            0x0D => 0x80,
            0x32 => (year / 100) as u8,
            _ => 0,
        }
    }
}

/// Year, month and day of a day count from 1970-01-01, by the civil-calendar algorithm on 400-year eras.
fn date(days: u64) -> (u64, u8, u8) {
    // Days from 0000-03-01, so that leap days end a year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(19_723), (2024, 1, 1));
        assert_eq!(date(19_723 + 59), (2024, 2, 29));
        assert_eq!(date(19_723 + 60), (2024, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
    }

    #[test]
    fn the_clock_starts_at_its_date_and_moves() {
        let mut rtc = Rtc::default();
        let mut read = |index, seconds| {
            rtc.select(index);
            rtc.read(seconds)
        };
        assert_eq!(
            [read(9, 0), read(8, 0), read(7, 0), read(0x32, 0)],
            [24, 1, 1, 20]
        );
        assert_eq!([read(4, 3_725), read(2, 3_725), read(0, 3_725)], [1, 2, 5]);
        assert_eq!(read(6, 0), 2, "a Monday");
    }
}
