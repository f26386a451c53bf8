//! Channel 2 of the interval timer (Intel 8254), and the port that gates it: what kernels measure their processor's
//! frequency with. A kernel that finds no timer reads an empty bus fifty thousand times before it believes so.
//!
//! Only mode 0 (a count down from the value written, output high from 0 on) is there. Channels 0 and 1 are not:
//! nothing here raises IRQ 0.

/// The count of channel 2.
pub const COUNTER: u16 = 0x42;
/// Which channel and how.
pub const CONTROL: u16 = 0x43;
/// System control port B: bit 0 gates channel 2, bit 1 leads it to a speaker, bit 5 is its output.
pub const GATE: u16 = 0x61;

/// Hz.
const FREQUENCY: u128 = 1_193_182;
const GATED: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;
const OUTPUT: u8 = 1 << 5;

/// Which bytes of a count pass through the port (bits 5:4 of the control word).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

#[derive(Clone, Debug)]
pub struct Pit {
    access: Access,
    /// The low byte was written, and the high one is to come.
    written: Option<u8>,
    /// The high byte is read next.
    high_next: bool,
    /// A count that a latch command keeps until it is read.
    latched: Option<u16>,
    /// What was counted down from, and the TSC then; none before a count was written.
    count: Option<(u16, u64)>,
    control_b: u8,
    tsc_khz: u64,
}

impl Pit {
    pub fn new(tsc_khz: u64) -> Pit {
        Pit {
            access: Access::LowThenHigh,
            written: None,
            high_next: false,
            latched: None,
            count: None,
            control_b: 0,
            tsc_khz,
        }
    }

    /// A byte from one of the three ports; none where nothing answers.
    pub fn read(&mut self, port: u16, now: u64) -> Option<u8> {
        match port {
            COUNTER => Some(self.read_count(now)),
            GATE => Some(self.control_b | if self.output(now) { OUTPUT } else { 0 }),
            _ => None,
        }
    }

    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            COUNTER => self.write_count(value, now),
            CONTROL if value >> 6 == 2 => self.control(value, now),
            GATE => self.gate(value, now),
            _ => {}
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        self.access = match value >> 4 & 3 {
            0 => {
                let count = self.value(now);
                self.latched.get_or_insert(count);
                return;
            }
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        (self.written, self.latched, self.count) = (None, None, None);
        self.high_next = false;
    }

    fn gate(&mut self, value: u8, now: u64) {
        let opens = value & !self.control_b & GATED != 0;
        let closes = !value & self.control_b & GATED != 0;
        if closes {
            // The count stands still: what is left goes on when the gate opens.
            self.count = self.count.map(|_| (self.value(now), now));
        } else if opens {
            self.count = self.count.map(|(left, _)| (left, now));
        }
        self.control_b = value & (GATED | SPEAKER);
    }

    fn write_count(&mut self, value: u8, now: u64) {
        let whole = match (self.access, self.written.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::LowThenHigh, None) => {
                self.written = Some(value);
                return;
            }
        };
        self.count = Some((whole, now));
    }

    fn read_count(&mut self, now: u64) -> u8 {
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowThenHigh => {
                self.high_next = !self.high_next;
                !self.high_next
            }
        };
        let [low_byte, high_byte] = self
            .latched
            .unwrap_or_else(|| self.value(now))
            .to_le_bytes();
        if high || self.access == Access::Low {
            self.latched = None;
        }
        if high { high_byte } else { low_byte }
    }

    /// Ticks since the count was written, as far as the gate let them pass.
    fn passed(&self, now: u64) -> u128 {
        match self.count {
            Some((_, since)) if self.control_b & GATED != 0 => {
                let tsc = u128::from(now.saturating_sub(since));
                tsc * FREQUENCY / (u128::from(self.tsc_khz.max(1)) * 1000)
            }
            _ => 0,
        }
    }

    /// The count now; from 0 it goes on at 65535.
    fn value(&self, now: u64) -> u16 {
        let from = self.count.map_or(0, |(from, _)| from);
        from.wrapping_sub(self.passed(now) as u16)
    }

    /// High once the count has come to 0; a count of 0 is one of 65536.
    fn output(&self, now: u64) -> bool {
        self.count
            .is_some_and(|(from, _)| self.passed(now) > u128::from(from.wrapping_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One tick of the counter is 1000 of the TSC.
    const KHZ: u64 = 1_193_182;

    fn started(count: u16) -> Pit {
        let mut pit = Pit::new(KHZ);
        pit.write(GATE, GATED, 0);
        pit.write(CONTROL, 0xB0, 0);
        for byte in count.to_le_bytes() {
            pit.write(COUNTER, byte, 0);
        }
        pit
    }

    fn count(pit: &mut Pit, now: u64) -> u16 {
        u16::from_le_bytes([0, 1].map(|_| pit.read(COUNTER, now).expect("it answers")))
    }

    #[test]
    fn it_counts_down_with_the_tsc_and_on_from_the_top() {
        let mut pit = started(0xFFFF);
        let table = [
            (0, 0xFFFF),
            (999, 0xFFFF),
            (1000, 0xFFFE),
            (65_535_000, 0),
            (65_536_000, 0xFFFF),
        ];
        for (now, value) in table {
            assert_eq!(count(&mut pit, now), value, "at {now}");
        }
    }

    #[test]
    fn its_output_rises_when_the_count_is_over_and_stays() {
        let mut pit = started(10);
        let out = |pit: &mut Pit, now| pit.read(GATE, now).expect("it answers") & OUTPUT != 0;
        assert!(!out(&mut pit, 9_999));
        assert!(out(&mut pit, 10_000));
        assert!(out(&mut pit, 1_000_000_000));
        assert_eq!(pit.read(GATE, 0).expect("it answers") & !OUTPUT, GATED);
        pit.write(CONTROL, 0xB0, 20_000);
        assert!(!out(&mut pit, 20_000), "a new control word ends it");
    }

    #[test]
    fn a_closed_gate_stops_it_and_a_latch_keeps_one_count() {
        let mut pit = started(100);
        pit.write(GATE, 0, 40_000);
        assert_eq!(count(&mut pit, 90_000), 60);
        pit.write(GATE, GATED, 100_000);
        assert_eq!(count(&mut pit, 110_000), 50);
        pit.write(CONTROL, 0x80, 120_000);
        assert_eq!(count(&mut pit, 150_000), 40);
        assert_eq!(count(&mut pit, 150_000), 10);
    }

    #[test]
    fn other_channels_and_reads_of_the_control_word_find_nothing() {
        let mut pit = started(100);
        assert_eq!(pit.read(CONTROL, 0), None);
        pit.write(CONTROL, 0x30, 0);
        assert_eq!(count(&mut pit, 1000), 99);
        assert_eq!(pit.read(0x40, 0), None);
    }
}
