//! Memory of a DEBUG TD as a debugger sees it: private pages by TDH.MEM.RD and WR, shared ones directly, linear
//! addresses through the guest's own page tables (SDM volume 3, chapter 5).

use tdx_abi::Status;
use tdx_call::host::{tdh_mem_rd, tdh_mem_wr};
use tdx_call::{HostMemory, SeamcallLp};
use x86_arch::{Gpa, PAGE_SIZE};

use super::{DebugContext, DebugError, DebugReg};
use crate::seam::retry;
use crate::{GuestMemory, Host, HostError, Td, Vcpu};

/// A TD whose memory is looked at.
#[derive(Debug)]
pub struct DebugMemory<'a, M> {
    pub host: &'a Host<M>,
    pub td: &'a Td,
}

impl<M: HostMemory> DebugMemory<'_, M> {
    /// Reads guest physical memory; the shared bit of `gpa` says which half.
    pub fn read_gpa<L: SeamcallLp>(
        &self,
        lp: &mut L,
        gpa: u64,
        to: &mut [u8],
    ) -> Result<(), HostError> {
        if gpa & self.td.config().shared_bit() != 0 {
            return self.shared().read(Gpa::new(gpa), to);
        }
        for (at, byte) in words(gpa, to.len()) {
            let word = self.read_word(lp, at)?.to_le_bytes();
            for i in byte {
                to[i] = word[(gpa + i as u64 - at) as usize];
            }
        }
        Ok(())
    }

    /// Writes guest physical memory; the shared bit of `gpa` says which half.
    pub fn write_gpa<L: SeamcallLp>(
        &self,
        lp: &mut L,
        gpa: u64,
        from: &[u8],
    ) -> Result<(), HostError> {
        if gpa & self.td.config().shared_bit() != 0 {
            return self.shared().write(Gpa::new(gpa), from);
        }
        for (at, byte) in words(gpa, from.len()) {
            let mut word = self.read_word(lp, at)?.to_le_bytes();
            for i in byte {
                word[(gpa + i as u64 - at) as usize] = from[i];
            }
            let word = u64::from_le_bytes(word);
            retry(|| tdh_mem_wr(lp, Gpa::new(at), self.td.tdr, word))?;
        }
        Ok(())
    }

    fn shared(&self) -> GuestMemory<'_, M> {
        GuestMemory {
            host: self.host,
            td: self.td,
        }
    }

    fn read_word<L: SeamcallLp>(&self, lp: &mut L, gpa: u64) -> Result<u64, HostError> {
        retry(|| tdh_mem_rd(lp, Gpa::new(gpa), self.td.tdr))
    }

    /// The guest physical address behind a linear one.
    pub fn translate<L: SeamcallLp>(
        &self,
        lp: &mut L,
        vcpu: &Vcpu,
        context: &mut DebugContext,
        linear: u64,
    ) -> Result<u64, DebugError> {
        let mut reg = |lp: &mut L, reg| context.get(lp, vcpu, reg);
        let (cr0, cr3) = (reg(lp, DebugReg::Cr0)?, reg(lp, DebugReg::Cr3)?);
        let (cr4, efer) = (reg(lp, DebugReg::Cr4)?, reg(lp, DebugReg::Efer)?);
        let shape = Paging::of(cr0, cr4, efer);
        let Some(shape) = shape else {
            return Ok(linear & 0xFFFF_FFFF);
        };
        let not_mapped = DebugError::NotMapped { linear, reached: 0 };
        if !shape.is_canonical(linear) {
            return Err(not_mapped);
        }
        let mut table = cr3 & shape.cr3_mask();
        for level in (0..shape.levels).rev() {
            let shift = 12 + shape.index_bits * level;
            let index = linear >> shift & ((1 << shape.index_bits_at(level)) - 1);
            let at = table + index * shape.entry_size;
            let mut bytes = [0; 8];
            let entry_bytes = &mut bytes[..shape.entry_size as usize];
            self.read_gpa(lp, at, entry_bytes)
                .map_err(|e| no_page(linear, at, e))?;
            let entry = u64::from_le_bytes(bytes);
            if entry & 1 == 0 {
                return Err(not_mapped);
            }
            let large = level > 0 && entry & 1 << 7 != 0 && shape.may_be_large(level);
            if level == 0 || large {
                let size = 1u64 << shift;
                return Ok(entry & shape.address_mask() & !(size - 1) | linear & (size - 1));
            }
            table = entry & shape.address_mask();
        }
        Err(not_mapped)
    }

    /// Reads linear memory; gives how many bytes could be reached, an error if none.
    pub fn read<L: SeamcallLp>(
        &self,
        lp: &mut L,
        vcpu: &Vcpu,
        context: &mut DebugContext,
        linear: u64,
        to: &mut [u8],
    ) -> Result<usize, DebugError> {
        let mut done = 0;
        while done < to.len() {
            let at = linear.wrapping_add(done as u64);
            let len = piece(at, to.len() - done);
            let read = self.translate(lp, vcpu, context, at).and_then(|gpa| {
                self.read_gpa(lp, gpa, &mut to[done..done + len])
                    .map_err(|e| no_page(at, gpa, e))
            });
            match read {
                Ok(()) => done += len,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes linear memory, whatever its page tables say of writing.
    pub fn write<L: SeamcallLp>(
        &self,
        lp: &mut L,
        vcpu: &Vcpu,
        context: &mut DebugContext,
        linear: u64,
        from: &[u8],
    ) -> Result<(), DebugError> {
        let mut done = 0;
        while done < from.len() {
            let at = linear.wrapping_add(done as u64);
            let len = piece(at, from.len() - done);
            let gpa = self.translate(lp, vcpu, context, at)?;
            self.write_gpa(lp, gpa, &from[done..done + len])
                .map_err(|e| no_page(at, gpa, e))?;
            done += len;
        }
        Ok(())
    }
}

/// Bytes up to the end of the page.
fn piece(at: u64, left: usize) -> usize {
    ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(left)
}

/// The aligned words that a range touches, each with the indexes of the range's bytes in it.
fn words(gpa: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = gpa + len as u64;
    (gpa & !7..end).step_by(8).map(move |at| {
        let from = at.max(gpa) - gpa;
        let to = (at + 8).min(end) - gpa;
        (at, from as usize..to as usize)
    })
}

/// What a refusal of TDH.MEM.RD or WR means for a debugger.
pub(super) fn no_page(linear: u64, gpa: u64, error: HostError) -> DebugError {
    match error.code() {
        Some(Status::TD_NON_DEBUG) => DebugError::ProductionTd {
            what: format!("memory at {linear:#x}"),
        },
        Some(
            Status::EPT_ENTRY_NOT_PRESENT
            | Status::EPT_ENTRY_STATE_INCORRECT
            | Status::EPT_WALK_FAILED
            | Status::OPERAND_INVALID,
        ) => DebugError::NoPage { linear, gpa },
        _ if matches!(error, HostError::BadRange { .. }) => DebugError::NoPage { linear, gpa },
        _ => DebugError::Host(error),
    }
}

/// How the guest's page tables are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Paging {
    levels: u32,
    index_bits: u32,
    entry_size: u64,
    /// 4 MiB pages (CR4.PSE) or 2 MiB and 1 GiB ones.
    large: bool,
    long: bool,
}

impl Paging {
    /// `None`: paging is off.
    fn of(cr0: u64, cr4: u64, efer: u64) -> Option<Paging> {
        const PG: u64 = 1 << 31;
        const PSE: u64 = 1 << 4;
        const PAE: u64 = 1 << 5;
        const LA57: u64 = 1 << 12;
        const LMA: u64 = 1 << 10;
        if cr0 & PG == 0 {
            return None;
        }
        let (levels, index_bits, entry_size, large) = match (efer & LMA != 0, cr4 & PAE != 0) {
            (true, _) if cr4 & LA57 != 0 => (5, 9, 8, true),
            (true, _) => (4, 9, 8, true),
            (false, true) => (3, 9, 8, true),
            (false, false) => (2, 10, 4, cr4 & PSE != 0),
        };
        Some(Paging {
            levels,
            index_bits,
            entry_size,
            large,
            long: efer & LMA != 0,
        })
    }

    fn is_canonical(self, linear: u64) -> bool {
        let bits = if self.levels == 5 { 57 } else { 48 };
        let top = (linear as i64) >> (bits - 1);
        if self.long {
            top == 0 || top == -1
        } else {
            linear >> 32 == 0
        }
    }

    /// PAE's top table has four entries.
    fn index_bits_at(self, level: u32) -> u32 {
        if self.levels == 3 && level == 2 {
            2
        } else {
            self.index_bits
        }
    }

    fn may_be_large(self, level: u32) -> bool {
        // 1 GiB pages exist in long mode only.
        self.large && (level == 1 || level == 2 && self.long)
    }

    fn cr3_mask(self) -> u64 {
        if self.levels == 3 {
            0xFFFF_FFE0
        } else {
            self.address_mask()
        }
    }

    fn address_mask(self) -> u64 {
        if self.entry_size == 4 {
            0xFFFF_F000
        } else {
            0x000F_FFFF_FFFF_F000
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cover_a_range_once() {
        let all: Vec<_> = words(0x1005, 12).collect();
        assert_eq!(all, [(0x1000, 0..3), (0x1008, 3..11), (0x1010, 11..12)]);
        assert_eq!(words(0x1000, 8).collect::<Vec<_>>(), [(0x1000, 0..8)]);
        assert_eq!(words(0x1000, 0).count(), 0);
    }

    #[test]
    fn the_mode_decides_the_tables() {
        assert_eq!(Paging::of(1, 0x20, 0x500), None);
        let levels = |cr4, efer| Paging::of(1 << 31, cr4, efer).map(|p| (p.levels, p.entry_size));
        assert_eq!(levels(0x20, 0xD00), Some((4, 8)));
        assert_eq!(levels(0x1020, 0xD00), Some((5, 8)));
        assert_eq!(levels(0x20, 0x100), Some((3, 8)));
        assert_eq!(levels(0, 0), Some((2, 4)));
    }

    #[test]
    fn addresses_with_mixed_upper_bits_are_not_walked() {
        let four = Paging::of(1 << 31, 0x20, 0xD00).expect("paging is on");
        assert!(four.is_canonical(0xFFFF_8000_0000_0000) && four.is_canonical(0x7FFF_FFFF_FFFF));
        assert!(!four.is_canonical(0x8000_0000_0000));
    }
}
