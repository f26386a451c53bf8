//! The shared half's EPT, which the host writes itself (SDM 28.3.2; spec: linux.md 5, vp-enter.md 8.3).
//!
//! RAM that the guest made shared is mapped on its first access. Everything else is a device: its entry stays
//! absent with suppress-#VE clear, so that the processor turns the access into a #VE and the guest asks by
//! TDVMCALL, without another exit.

use std::collections::BTreeMap;

use tdx_call::HostMemory;
use x86_arch::Hpa;

use crate::td::level_bytes;
use crate::{Host, HostError};

const SUPPRESS_VE: u64 = 1 << 63;
const RWX: u64 = 7;
/// Memory type write-back in bits 5:3 of a leaf.
const WRITE_BACK: u64 = 6 << 3;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// What was found at a shared GPA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SharedEntry {
    Absent,
    Ram(Hpa),
    Device,
}

/// The tables and pages of one TD's shared half.
#[derive(Debug)]
pub(crate) struct SharedEpt {
    root: Hpa,
    levels: u8,
    tables: Vec<Hpa>,
    /// By GPA, shared bit clear.
    pages: BTreeMap<u64, Hpa>,
}

impl SharedEpt {
    /// An EPT with nothing in it.
    pub(crate) fn new<M: HostMemory>(host: &Host<M>, levels: u8) -> Result<Self, HostError> {
        let root = new_table(host)?;
        Ok(Self {
            root,
            levels,
            tables: vec![root],
            pages: BTreeMap::new(),
        })
    }

    /// What TDH.VP.WR takes as the shared EPTP (bits 51:12; the module fills in the rest).
    pub(crate) fn root(&self) -> Hpa {
        self.root
    }
    pub(crate) fn page(&self, gpa: u64) -> Option<Hpa> {
        self.pages.get(&gpa).copied()
    }
    /// Pages of RAM that are backed.
    pub(crate) fn ram_pages(&self) -> u64 {
        self.pages.len() as u64
    }
    /// Those, and the tables.
    pub(crate) fn pages_held(&self) -> u64 {
        (self.tables.len() + self.pages.len()) as u64
    }

    /// What the processor finds for a page.
    pub(crate) fn entry<M: HostMemory>(
        &self,
        host: &Host<M>,
        gpa: u64,
        shared_bit: u64,
    ) -> Result<SharedEntry, HostError> {
        let mut table = self.root;
        for level in (0..self.levels).rev() {
            let entry = host.read_u64(slot_in(table, gpa | shared_bit, level))?;
            match entry {
                0 => return Ok(SharedEntry::Device),
                SUPPRESS_VE => return Ok(SharedEntry::Absent),
                entry => table = Hpa::new(entry & ADDRESS),
            }
        }
        Ok(SharedEntry::Ram(table))
    }

    /// Backs a shared page of RAM with a zeroed host page, once.
    pub(crate) fn map_ram<M: HostMemory>(
        &mut self,
        host: &Host<M>,
        gpa: u64,
        shared_bit: u64,
    ) -> Result<Hpa, HostError> {
        if let Some(page) = self.page(gpa) {
            return Ok(page);
        }
        let slot = self.slot(host, gpa | shared_bit)?;
        let page = host.zeroed_page()?;
        host.write_u64(slot, page.raw() | WRITE_BACK | RWX | SUPPRESS_VE)?;
        self.pages.insert(gpa, page);
        Ok(page)
    }

    /// Makes accesses to a page, and to as much around it as holds no RAM, raise #VE in the guest: so a guest that
    /// touches many addresses costs no table for each.
    pub(crate) fn mark_device<M: HostMemory>(
        &mut self,
        host: &Host<M>,
        gpa: u64,
        shared_bit: u64,
        touches_ram: impl Fn(u64, u64) -> bool,
    ) -> Result<(), HostError> {
        let mut table = self.root;
        for level in (1..self.levels).rev() {
            let slot = slot_in(table, gpa | shared_bit, level);
            let entry = host.read_u64(slot)?;
            let start = gpa & !(level_bytes(level) - 1);
            if entry & RWX == 0 && !touches_ram(start, start + level_bytes(level)) {
                return host.write_u64(slot, 0);
            }
            table = self.below(host, slot, entry)?;
        }
        host.write_u64(slot_in(table, gpa | shared_bit, 0), 0)
    }

    /// Unmaps the page, if it was mapped. The caller flushes TLBs before it gives the page back.
    pub(crate) fn unmap<M: HostMemory>(
        &mut self,
        host: &Host<M>,
        gpa: u64,
        shared_bit: u64,
    ) -> Result<Option<Hpa>, HostError> {
        let Some(page) = self.pages.remove(&gpa) else {
            return Ok(None);
        };
        let slot = self.slot(host, gpa | shared_bit)?;
        host.write_u64(slot, SUPPRESS_VE)?;
        Ok(Some(page))
    }

    /// GPAs of the backed pages in a range.
    pub(crate) fn backed(&self, start: u64, end: u64) -> Vec<u64> {
        self.pages.range(start..end).map(|(&gpa, _)| gpa).collect()
    }

    /// All pages, tables included, for the end of the TD.
    pub(crate) fn into_pages(self) -> impl Iterator<Item = Hpa> {
        self.tables.into_iter().chain(self.pages.into_values())
    }

    /// Where the leaf entry of a 4 KiB page lies; tables on the way are made.
    fn slot<M: HostMemory>(&mut self, host: &Host<M>, gpa: u64) -> Result<Hpa, HostError> {
        let mut table = self.root;
        for level in (1..self.levels).rev() {
            let slot = slot_in(table, gpa, level);
            let entry = host.read_u64(slot)?;
            table = self.below(host, slot, entry)?;
        }
        Ok(slot_in(table, gpa, 0))
    }

    /// The table that the entry in `slot` points to; a new one if it points to none.
    fn below<M: HostMemory>(
        &mut self,
        host: &Host<M>,
        slot: Hpa,
        entry: u64,
    ) -> Result<Hpa, HostError> {
        if entry & RWX != 0 {
            return Ok(Hpa::new(entry & ADDRESS));
        }
        let next = new_table(host)?;
        self.tables.push(next);
        host.write_u64(slot, next.raw() | RWX)?;
        Ok(next)
    }
}

/// Where a table's entry for an address lies.
fn slot_in(table: Hpa, gpa: u64, level: u8) -> Hpa {
    Hpa::new(table.raw() + 8 * (gpa / level_bytes(level) % 512))
}

fn new_table<M: HostMemory>(host: &Host<M>) -> Result<Hpa, HostError> {
    let page = host.zeroed_page()?;
    let empty: Vec<u8> = std::iter::repeat_n(SUPPRESS_VE.to_le_bytes(), 512)
        .flatten()
        .collect();
    host.memory().write(page, &empty)?;
    Ok(page)
}
