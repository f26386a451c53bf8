//! Reading and writing the registers that GDB names.

use tdx_call::{HostMemory, SeamcallLp};
use tdx_host::debug::{DebugError, Stopped};

use crate::layout::Source;

/// x87 registers and their control words.
const X87_AREA: usize = 160;

/// The register's bytes.
pub fn read<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    source: Source,
    to: &mut [u8],
) -> Result<(), DebugError> {
    to.fill(0);
    match source {
        Source::Field(reg) => {
            let value = stopped.get(reg)?.to_le_bytes();
            to.copy_from_slice(&value[..to.len()]);
            Ok(())
        }
        Source::Legacy { offset, bytes } => {
            stopped.legacy_state(offset.into(), &mut to[..bytes.into()])
        }
        Source::Component(component, offset) => stopped.state(component, offset.into(), to),
        Source::Tags => {
            let mut image = [0; X87_AREA];
            stopped.legacy_state(0, &mut image[..24])?;
            stopped.legacy_state(32, &mut image[32..])?;
            to[..2].copy_from_slice(&full_tags(&image).to_le_bytes());
            Ok(())
        }
    }
}

/// Changes the register. Writing what it holds is no change: GDB writes whole register files.
pub fn write<M: HostMemory, L: SeamcallLp>(
    stopped: &mut Stopped<'_, M, L>,
    source: Source,
    from: &[u8],
) -> Result<(), DebugError> {
    match source {
        Source::Field(reg) => {
            let before = stopped.get(reg)?.to_le_bytes();
            let mut value = before;
            value[..from.len()].copy_from_slice(from);
            match value == before {
                true => Ok(()),
                false => stopped.write(reg, u64::from_le_bytes(value)),
            }
        }
        Source::Legacy { offset, bytes } => {
            stopped.set_legacy_state(offset.into(), &from[..bytes.into()])
        }
        Source::Component(component, offset) => stopped.set_state(component, offset.into(), from),
        Source::Tags => {
            let mut now = [0; 4];
            read(stopped, source, &mut now)?;
            if now[..from.len()] == *from {
                return Ok(());
            }
            // The image keeps a bit for each register: empty or not. The rest of the tag follows from the value.
            let tags = u16::from_le_bytes([from[0], from[1]]);
            let full = |n: u16| tags >> (2 * n) & 3 != 3;
            let abridged = (0..8).fold(0, |bits, n| bits | u8::from(full(n)) << n);
            stopped.set_legacy_state(4, &[abridged])
        }
    }
}

/// The x87 tag word from the abridged one of FXSAVE (SDM volume 1, 10.5.1.1).
fn full_tags(image: &[u8; X87_AREA]) -> u16 {
    let top = usize::from(image[3] >> 3 & 7);
    let abridged = image[4];
    (0..8).fold(0, |tags, physical| {
        let tag = if abridged & 1 << physical == 0 {
            3
        } else {
            let stack = (physical + 8 - top) % 8;
            let value = &image[32 + 16 * stack..42 + 16 * stack];
            let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7FFF;
            let zero = value[..8].iter().all(|byte| *byte == 0);
            match exponent {
                0 if zero => 1,
                0 | 0x7FFF => 2,
                _ if value[7] & 0x80 == 0 => 2,
                _ => 0,
            }
        };
        tags | tag << (2 * physical)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_word_is_spelled_out() {
        let mut image = [0u8; X87_AREA];
        assert_eq!(full_tags(&image), 0xFFFF, "all empty");
        // TOP 7, physical register 7 holds 1.0 as ST0, 0 holds 0.0 as ST1, 1 an infinity as ST2.
        image[3] = 7 << 3;
        image[4] = 0x83;
        image[32..42].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F]);
        image[64..74].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x7F]);
        assert_eq!(full_tags(&image), 0b00_11_11_11_11_11_10_01);
    }
}
