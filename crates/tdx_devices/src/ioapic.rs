//! The I/O APIC (Intel 82093AA, with the EOI register of version 0x20): 24 inputs that become messages.

use crate::apic::{Message, Target};

const INPUTS: usize = 24;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
/// Bits that software may write: not delivery status and remote IRR.
const WRITABLE: u64 = !(1 << 12 | REMOTE_IRR);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoApic {
    id: u32,
    select: u32,
    /// Level-triggered inputs that are asserted.
    lines: u32,
    redirection: [u64; INPUTS],
}

impl Default for IoApic {
    fn default() -> Self {
        Self {
            id: 0,
            select: 0,
            lines: 0,
            redirection: [MASKED; INPUTS],
        }
    }
}

impl IoApic {
    /// A 32-bit read at an offset into the register page.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.select,
            0x10 => match self.select {
                0 => self.id,
                1 => 0x20 | (INPUTS as u32 - 1) << 16,
                0x10..=0x3F => {
                    let entry = self.redirection[(self.select as usize - 0x10) / 2];
                    (entry >> (32 * (self.select & 1))) as u32
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// A 32-bit write; unmasking an asserted input, or an EOI for it, sends its message again.
    pub fn write(&mut self, offset: u64, value: u32) -> Vec<Message> {
        self.write_register(offset, value);
        self.waiting()
    }

    /// Drives the level-triggered inputs in `inputs` to the levels in `levels`, both as bits; the messages of those
    /// that rose.
    pub fn drive(&mut self, inputs: u32, levels: u32) -> Vec<Message> {
        self.lines = self.lines & !inputs | levels & inputs;
        self.waiting()
    }

    /// Messages of asserted inputs that are not waiting for their EOI.
    fn waiting(&mut self) -> Vec<Message> {
        let asserted = (0..INPUTS as u8).filter(|input| self.lines >> input & 1 != 0);
        let level = asserted.filter(|input| self.redirection[usize::from(*input)] & LEVEL != 0);
        let level: Vec<u8> = level.collect();
        level
            .into_iter()
            .filter_map(|input| self.raise(input))
            .collect()
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.select = value & 0xFF,
            0x10 => match self.select {
                0 => self.id = value & 0x0F00_0000,
                0x10..=0x3F => {
                    let entry = &mut self.redirection[(self.select as usize - 0x10) / 2];
                    let shift = 32 * (self.select & 1);
                    let mask = 0xFFFF_FFFF << shift & WRITABLE;
                    *entry = *entry & !mask | u64::from(value) << shift & mask;
                    if *entry & LEVEL == 0 {
                        *entry &= !REMOTE_IRR;
                    }
                }
                _ => {}
            },
            // EOI: every level-triggered input with this vector is ready again.
            0x40 => {
                for entry in &mut self.redirection {
                    if *entry & 0xFF == u64::from(value & 0xFF) {
                        *entry &= !REMOTE_IRR;
                    }
                }
            }
            _ => {}
        }
    }

    /// A rising edge on an input: the message it sends, if it is not masked.
    pub fn raise(&mut self, input: u8) -> Option<Message> {
        let entry = self.redirection.get_mut(usize::from(input))?;
        if *entry & (MASKED | REMOTE_IRR) != 0 {
            return None;
        }
        if *entry & LEVEL != 0 {
            *entry |= REMOTE_IRR;
        }
        let destination = (*entry >> 56) as u32;
        Some(Message {
            delivery: (*entry >> 8 & 7) as u8,
            vector: *entry as u8,
            target: Target::of_8_bits(destination as u8, *entry & 1 << 11 != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(apic: &mut IoApic, index: u32, value: u32) {
        apic.write(0, index);
        apic.write(0x10, value);
    }

    #[test]
    fn an_unmasked_edge_becomes_a_message() {
        let mut apic = IoApic::default();
        assert_eq!(apic.raise(4), None, "inputs are masked after reset");
        set(&mut apic, 0x19, 2 << 24);
        set(&mut apic, 0x18, 0x24);
        let message = Message {
            delivery: 0,
            vector: 0x24,
            target: Target::Physical(2),
        };
        assert_eq!(apic.raise(4), Some(message));
        assert_eq!(apic.raise(4), Some(message), "an edge needs no EOI");
        assert_eq!(apic.raise(200), None);
    }

    #[test]
    fn a_level_input_waits_for_its_eoi() {
        let mut apic = IoApic::default();
        set(&mut apic, 0x1A, 0x30 | LEVEL as u32);
        assert!(apic.raise(5).is_some());
        assert_eq!(apic.raise(5), None);
        apic.write(0x40, 0x30);
        assert!(apic.raise(5).is_some());
    }

    #[test]
    fn an_asserted_level_input_asks_again_after_its_eoi_until_it_falls() {
        let mut apic = IoApic::default();
        let irq = 1 << 16;
        assert!(apic.drive(irq, irq).is_empty(), "masked");
        apic.write(0, 0x30);
        assert_eq!(apic.write(0x10, 0x31 | LEVEL as u32).len(), 1);
        assert!(apic.drive(irq, irq).is_empty(), "it waits for its EOI");
        assert_eq!(apic.write(0x40, 0x31).len(), 1, "still asserted");
        assert!(apic.drive(irq, 0).is_empty());
        assert!(apic.write(0x40, 0x31).is_empty());
        assert_eq!(apic.drive(irq, irq).len(), 1);
    }

    #[test]
    fn the_version_names_24_inputs() {
        let mut apic = IoApic::default();
        apic.write(0, 1);
        assert_eq!(apic.read(0x10), 0x0017_0020);
    }
}
